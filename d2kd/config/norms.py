"""Group norm in Detectron2's own modules: 32 groups, whatever the width."""

from typing import Any, Dict, Iterator, List, Tuple

from ..errors import ConfigError
from .keys import WITH_TEACHERS

_GROUPS = 32
Values = Dict[str, Any]


def check_group_norms(values: Values) -> None:
    """Check the widths that group norm is asked for; d2kd's own heads take any.

    Args:
        values: of all keys, by name.

    Raises:
        ConfigError: a width that 32 groups do not divide; or one channel per group on maps that may
            be of one cell in evaluation.
    """
    for norm, width, stride in _normalized(values):
        if values[norm] != "GN":
            continue
        if values[width] % _GROUPS:
            raise ConfigError(
                f"{norm} is GN, which Detectron2 has with {_GROUPS} groups: {width} is "
                f"{values[width]}, and must be a multiple of {_GROUPS}. Change it, or the norm."
            )
        shortest = min(values["INPUT.MIN_SIZE_TEST"], values["INPUT.MAX_SIZE_TEST"])
        if values[width] == _GROUPS and 0 < shortest <= stride:
            raise ConfigError(
                f"{norm} is GN, and {width} is {_GROUPS}, one channel for each of its groups: on "
                f"images of {shortest} px (INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST) a map has one "
                f"cell, where a group of one number cannot be normalized. Set {width} to "
                f'{2 * _GROUPS}, {norm} to "", or test on images of over {stride} px.'
            )


def _normalized(values: Values) -> Iterator[Tuple[str, str, int]]:
    """Keys of norms and of their widths, and the stride of the smallest map, 0 where none is."""
    detector, backbone = values["MODEL.META_ARCHITECTURE"], values["MODEL.BACKBONE.NAME"]
    detector = values["DISTILL.STUDENT"] if detector in WITH_TEACHERS else detector
    if "fpn" in backbone or "pyramid" in backbone:
        yield "MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS", 32
        if values["MODEL.FPN.TOP_BLOCK"] == "p6p7":
            yield "MODEL.FPN.TOP_BLOCK_NORM", "MODEL.FPN.OUT_CHANNELS", 128
        if detector == "RetinaNet" and values["MODEL.RETINANET.NUM_CONVS"]:
            coarsest = _stride(values["MODEL.RETINANET.IN_FEATURES"])
            yield "MODEL.RETINANET.NORM", "MODEL.FPN.OUT_CHANNELS", coarsest
    if "resnet" in backbone:
        yield "MODEL.RESNETS.NORM", "MODEL.RESNETS.STEM_OUT_CHANNELS", 0
        yield "MODEL.RESNETS.NORM", "MODEL.RESNETS.RES2_OUT_CHANNELS", 0
    if detector == "GeneralizedRCNN":
        parts = ["BOX"] + (["MASK"] if values["MODEL.MASK_ON"] else [])
        for node in (f"MODEL.ROI_{part}_HEAD" for part in parts):
            if values[f"{node}.NUM_CONV"]:
                yield f"{node}.NORM", f"{node}.CONV_DIM", 0


def _stride(levels: List[str]) -> int:
    last = levels[-1][1:] if levels else ""
    return 2 ** int(last) if last.isdecimal() else 0
