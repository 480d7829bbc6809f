from .cache import OutputCache
from .store import TensorStore
from .teacher import Teacher, build_teacher
from .token_learner import TokenLearner

__all__ = ["OutputCache", "Teacher", "TensorStore", "TokenLearner", "build_teacher"]
