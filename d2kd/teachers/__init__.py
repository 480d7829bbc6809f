from .cache import OutputCache
from .store import TensorStore
from .teacher import Teacher, build_teacher

__all__ = ["OutputCache", "Teacher", "TensorStore", "build_teacher"]
