from .balance import GradientBalance
from .best_checkpoint import BestStudent
from .exact_resume import ExactResume
from .gradient_guard import GradientGuard
from .gradient_share import GradientShare
from .loss_watch import LossWatch
from .pictures import Pictures
from .schedule import DistillationSchedule
from .stop_on_signal import StopOnSignal
from .teacher_check import TeacherCheck

__all__ = [
    "BestStudent",
    "DistillationSchedule",
    "ExactResume",
    "GradientBalance",
    "GradientGuard",
    "GradientShare",
    "LossWatch",
    "Pictures",
    "StopOnSignal",
    "TeacherCheck",
]
