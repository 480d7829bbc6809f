"""Whether the tensors of a file are those of a detector, before anything is done with them."""

from typing import Any, Dict, List

import torch
from detectron2.modeling import build_model
from torch import Tensor

from ..config.defaults import get_d2kd_cfg
from ..errors import ConfigError
from ..text import plain
from .architecture import PREDICTORS, Architecture

Shapes = Dict[str, torch.Size]


def target_state(config: Dict[str, Any], device: str) -> Dict[str, Tensor]:
    """The state of a new detector of the config; on "meta" it takes no memory."""
    cfg = get_d2kd_cfg()
    cfg.merge_from_other_cfg(type(cfg)(config))
    cfg.MODEL.DEVICE = device
    with torch.device(device):
        return build_model(cfg).state_dict()


def check_fit(
    state: Dict[str, Tensor], targets: Dict[str, str], config: Dict[str, Any], arch: Architecture
) -> None:
    """Compare all shapes; counters of batch norm may be absent or superfluous.

    Args:
        state: tensors by mmdetection's name.
        targets: from mmdetection's names to Detectron2's; names without one are missing.
        config: of the detector to fill.
        arch: what it is.

    Raises:
        ConfigError: lists what is too many, missing, or of another shape.
    """
    wanted = _wanted(config)
    filled = list(targets.values())
    problems = {
        "source tensors without a place": [
            name for name in state
            if name != "bbox_head.integral.project" and _placeless(targets.get(name, name), wanted)
        ],
        "target tensors left empty": [
            name for name in wanted if name not in filled and not _is_counter(name)
        ],
        "tensors of another shape": _misshapen(state, targets, wanted, arch),
        "targets of several tensors": [x for x in wanted if filled.count(x) > 1],
    }  # fmt: skip
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {what}: {', '.join(plain(name, 150) for name in names[:10])}"
            f"{', ...' if len(names) > 10 else ''}"
            for what, names in problems.items() if names
        )  # fmt: skip
        raise ConfigError(
            f"The checkpoint does not fit a {config['MODEL']['META_ARCHITECTURE']} exactly, so "
            f"nothing is written. {listed}. Supported are RetinaNet, FCOS, ATSS, AutoAssign, DDOD, "
            "GFL, GFLv2, RepPoints, Faster and Mask R-CNN with a ResNet or ResNeXt and an FPN in "
            "their published forms."
        )


def _wanted(config: Dict[str, Any]) -> Shapes:
    try:
        return {name: x.shape for name, x in target_state(config, "meta").items()}
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise ConfigError(
            "Its tensors do not make a detector that Detectron2 can build "
            f"({type(e).__name__}: {plain(e)}), so nothing is written."
        ) from e


def _placeless(name: str, wanted: Shapes) -> bool:
    return name not in wanted and not _is_counter(name)


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _misshapen(
    state: Dict[str, Tensor], targets: Dict[str, str], wanted: Shapes, arch: Architecture
) -> List[str]:
    found = []
    for name, target in targets.items():
        if target in wanted:
            shape = _source_shape(name, wanted[target], state, arch)
            if state[name].shape != shape:
                found.append(f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}")
    return found


def _source_shape(
    name: str, shape: torch.Size, state: Dict[str, Tensor], arch: Architecture
) -> torch.Size:
    """The shape that fills a target: equal, but for GFLv2's row of no class."""
    cls_name = PREDICTORS[arch.detector][0]
    if arch.detector == "GFLv2" and name.startswith(f"{cls_name}."):
        return torch.Size((len(state[f"{cls_name}.weight"]), *shape[1:]))
    return shape
