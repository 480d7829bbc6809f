"""The ranges of a quantized detector, which lie beside its weights in a checkpoint."""

import logging
from typing import Any, Dict, List, Tuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint import SafeCheckpointer, load_detector
from ..errors import ConfigError
from ..losses import mean_over_ranks
from .layers import Range
from .student import is_quantized, set_rounding

SECTION = "quantization"
"""Where a checkpoint has them."""


class Ranges:
    """What a checkpoint holds of a quantized detector beside its plain weights."""

    def __init__(self, detector: nn.Module) -> None:
        """Of a detector that `quantize_student` changed."""
        self._detector = detector

    def state_dict(self) -> Dict[str, Tensor]:
        """low, high and seen (3,) of each range, by the name of its module."""
        return {name: torch.stack(x).cpu() for name, x in _tensors(self._detector)}

    @torch.no_grad()
    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Put them back; the layers round if there are any that have seen something.

        Raises:
            ConfigError: they are of another detector, or of one with another QUANTIZE.FLOAT.
        """
        own = dict(_tensors(self._detector))
        shapes = {getattr(x, "shape", None) for x in state.values()}
        if own.keys() != state.keys() or shapes != {torch.Size([3])}:
            raise ConfigError(
                f"its {len(state)} ranges of quantization are not those of this detector, which "
                f"has {len(own)}: give the QUANTIZE.FLOAT, and the detector, that it was trained "
                "with."
            )
        for name, tensors in own.items():
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)
        set_rounding(self._detector, any(bool(x[2] > 0) for x in state.values()))


def _tensors(detector: nn.Module) -> List[Tuple[str, List[Tensor]]]:
    modules = detector.named_modules()
    return [(name, [x.low, x.high, x.seen]) for name, x in modules if isinstance(x, Range)]


def beside(model: nn.Module) -> Dict[str, Ranges]:
    """What a checkpointer saves and loads beside a detector, also of a distiller's student.

    Nothing of a float one.
    """
    detector: nn.Module = getattr(model, "student", model)
    return {SECTION: Ranges(detector)} if is_quantized(detector) else {}


def load_quantized(detector: nn.Module, path: str, key: str) -> None:
    """Fill a detector, plain or quantized, from a checkpoint; see `load_detector`."""
    load_detector(detector, path, key, **beside(detector))
    check_measured(detector, path)


def load_known(model: nn.Module, path: str, **others: Any) -> None:
    """Load what a checkpoint has of a model, of its ranges, and of others beside it, by name.

    Args:
        model: a detector, plain or quantized, or a distiller.
        path: of the checkpoint; what it lacks or has besides is logged.
        others: as `SafeCheckpointer` takes them.
    """
    SafeCheckpointer(model, **others, **beside(model)).load(path)
    check_measured(getattr(model, "student", model), path)


def check_measured(detector: nn.Module, path: str) -> None:
    """Warn where a quantized detector stays float, since a checkpoint has no ranges.

    Raises:
        ConfigError: it has some, and others that saw nothing, which would cut all values to 0.
    """
    ranges = _tensors(detector)
    unseen = [name for name, (_, _, seen) in ranges if float(seen) == 0]
    if unseen and len(unseen) < len(ranges):
        raise ConfigError(
            f"{path}: {len(unseen)} of its {len(ranges)} ranges of quantization have measured "
            f"nothing, {unseen[0]} first: train it further, with d2kd train FOLDER --resume and a "
            "higher SOLVER.MAX_ITER."
        )
    if unseen:
        logging.getLogger(__name__).warning(
            "%s has no ranges of quantization: the detector computes in float32.", path
        )


def with_ranges(detector: nn.Module) -> Dict[str, Tensor]:
    """The state dict and, of a quantized detector, the buffers of its ranges."""
    ranges = {
        f"{name}.{key}": buffer
        for name, module in detector.named_modules()
        if isinstance(module, Range)
        for key, buffer in module.named_buffers()
    }
    return {**detector.state_dict(), **ranges}


@torch.no_grad()
def load_with_ranges(detector: nn.Module, state: Dict[str, Tensor]) -> None:
    """Put back what `with_ranges` returned."""
    own = detector.state_dict().keys()
    ranges = {k: x for k, x in with_ranges(detector).items() if k not in own}
    detector.load_state_dict({k: x for k, x in state.items() if k not in ranges})
    for name, buffer in ranges.items():
        if name in state:
            buffer.copy_(state[name])


@torch.no_grad()
def copy_ranges(detector: nn.Module, other: nn.Module) -> None:
    """Give a copy of a detector the ranges of it; nothing happens to a float one."""
    ranges, others = ([x for _, y in _tensors(z) for x in y] for z in (detector, other))
    if ranges:
        torch._foreach_copy_(others, ranges)


@torch.no_grad()
def share_ranges(detector: nn.Module) -> None:
    """Let all ranks have the mean of their ranges; all ranks call it."""
    tensors = [x for _, group in _tensors(detector) for x in group]
    if comm.get_world_size() > 1:
        torch._foreach_copy_(tensors, list(mean_over_ranks(torch.stack(tensors)).unbind()))
