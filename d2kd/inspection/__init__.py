"""Looking at what a config builds, before and after training."""
