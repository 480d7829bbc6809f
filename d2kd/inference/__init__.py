"""What a trained detector finds, in images and in pictures for people."""
