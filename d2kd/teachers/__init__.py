from .cache import OutputCache, TensorStore
from .teacher import Teacher, build_teacher

__all__ = ["OutputCache", "Teacher", "TensorStore", "build_teacher"]
