from .checkpointer import SafeCheckpointer, StrictCheckpointer, last_checkpoint, load_detector
from .weights_file import convert_weights, read_weights

__all__ = [
    "SafeCheckpointer",
    "StrictCheckpointer",
    "convert_weights",
    "last_checkpoint",
    "load_detector",
    "read_weights",
]
