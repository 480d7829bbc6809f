"""`d2kd replay`: a failed step once more, and where its numbers went wrong."""

from .report import replay

__all__ = ["replay"]
