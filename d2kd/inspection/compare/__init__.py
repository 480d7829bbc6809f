from .anything import compare

__all__ = ["compare"]
