from .cache import OutputCache
from .from_config import build_teacher
from .store import TensorStore
from .teacher import Teacher
from .token_learner import TokenLearner

__all__ = ["OutputCache", "Teacher", "TensorStore", "TokenLearner", "build_teacher"]
