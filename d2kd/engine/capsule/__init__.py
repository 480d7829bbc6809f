"""What a failed step leaves behind: enough to repeat it, see `d2kd replay`."""

from .read import Capsule, kept_checkpoints, read_capsule
from .recorder import LastBatch, StepRecorder

__all__ = ["Capsule", "LastBatch", "StepRecorder", "kept_checkpoints", "read_capsule"]
