"""Layers of a student that start as its teacher's."""

import logging
from typing import List

import torch
from torch import nn

from .teacher import Teacher

INHERITED = {
    "none": lambda key: False,
    "neck": lambda key: key.startswith(("backbone.fpn_", "backbone.top_block.")),
    "neck+head": lambda key: True,
}
_TRUNK = "backbone.bottom_up."
_BY_CLASS = ".cls_score.", ".box_predictor.", ".mask_head.predictor.", "center_prior."


def initialize_from_teacher(
    student: nn.Module, teachers: List[Teacher], mode: str, same_classes: bool = True
) -> List[str]:
    """Copy every layer of the same name and shapes from teacher 0, as PGD and FGD do.

    A layer of which one tensor does not fit is left whole: a bias alone says nothing.

    It happens when the student is built, so a checkpoint in MODEL.WEIGHTS that holds these tensors
    overrides it; a backbone checkpoint does not.

    Args:
        student: changed in place.
        teachers: the first one is read.
        mode: "none", "neck" (FPN) or "neck+head" (everything but the bottom-up backbone).
        same_classes: otherwise the layers that predict classes are left out.

    Returns:
        List[str]: eligible tensors that were not copied, as the layer has other shapes.
    """
    if mode == "none":
        return []
    source = teachers[0].detector.state_dict()
    state = student.state_dict()
    trunk = _TRUNK if any(key.startswith(_TRUNK) for key in state) else "backbone."  # without FPN
    wanted = {k: v for k, v in state.items() if INHERITED[mode](k) and not k.startswith(trunk)}
    if not same_classes:
        source = {k: v for k, v in source.items() if not any(x in k for x in _BY_CLASS)}
    misfits = {k for k, v in wanted.items() if k not in source or source[k].shape != v.shape}
    broken = {_layer(key) for key in misfits if not key.endswith("num_batches_tracked")}
    fits = {k: source[k] for k in wanted if k not in misfits and _layer(k) not in broken}
    with torch.no_grad():
        for key, value in fits.items():
            wanted[key].copy_(value)
    left = sorted(set(wanted) - set(fits))
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    logging.getLogger(__name__).info(
        "DISTILL.INIT_FROM_TEACHER %s: copied %d tensors; not copied, the teacher lacks "
        "the layer, or it has other shapes or classes: %s%s",
        mode, len(fits), ", ".join(left[:8]) or "none", more,
    )  # fmt: skip
    return left


def _layer(key: str) -> str:
    return key.rpartition(".")[0]
