from .checkpointer import SafeCheckpointer, last_checkpoint, write_final
from .complete import StrictCheckpointer, load_detector
from .of_run import run_checkpoint
from .weights_file import convert_weights, read_stored, read_weights

__all__ = [
    "SafeCheckpointer",
    "StrictCheckpointer",
    "convert_weights",
    "last_checkpoint",
    "load_detector",
    "read_stored",
    "read_weights",
    "run_checkpoint",
    "write_final",
]
