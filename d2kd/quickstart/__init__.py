"""A small, complete distillation, data built offline; run `python -m d2kd.quickstart`."""
