"""Checks that what an adapter repeats of a detector is what the detector would do."""

from typing import Callable, Tuple

from ..errors import NoAdapterError


def refuse_overrides(owner: object, replays: Tuple[Callable, ...], adapter: str) -> None:
    """Check that what an adapter repeats is what the owner would do.

    Raises:
        NoAdapterError: the owner's class overrides one of the functions.
    """
    for name in {function.__name__ for function in replays}:
        allowed = [function for function in replays if function.__name__ == name]
        if getattr(type(owner), name, None) not in allowed:
            mine = type(owner).__name__
            raise NoAdapterError(
                f"{mine} overrides {allowed[0].__qualname__}(), which {adapter} would bypass. "
                f"Register {mine}Adapter in DETECTOR_ADAPTER_REGISTRY."
            )


def replayable(module: object, replays: Tuple[Callable, ...]) -> bool:
    """Whether a module's class has exactly these functions."""
    return all(getattr(type(module), f.__name__, None) is f for f in replays)
