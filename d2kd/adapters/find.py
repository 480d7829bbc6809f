"""Which adapter a detector has."""

from torch import nn

from ..errors import NoAdapterError
from .base import DETECTOR_ADAPTER_REGISTRY, DetectorAdapter


def build_adapter(detector: nn.Module) -> DetectorAdapter:
    """Build the adapter registered for the detector's class or its nearest base class.

    Raises:
        NoAdapterError: there is none, or the detector overrides a function that it replays.
    """
    for cls in type(detector).__mro__:
        name = f"{cls.__name__}Adapter"
        if name in DETECTOR_ADAPTER_REGISTRY:
            return DETECTOR_ADAPTER_REGISTRY.get(name)(detector)
    known = ", ".join(sorted(name for name, _ in DETECTOR_ADAPTER_REGISTRY))
    raise NoAdapterError(
        f"No adapter for {type(detector).__name__} or its bases. Register a class "
        f"{type(detector).__name__}Adapter in DETECTOR_ADAPTER_REGISTRY. Known: {known}."
    )
