"""What tensors do not tell about a detector of mmdetection, from the text of its config."""

import re
from dataclasses import dataclass, replace
from typing import Dict, List, Tuple

from .architecture import Architecture
from .points import transform_of

_IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_CAFFE = [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]
_CAFFE_FCOS = [102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0]

Anchors = Dict[str, List[float]]

_RATIOS = [0.5, 1.0, 2.0]
_ONE: Anchors = {"ratios": [1.0], "octave_base_scale": [8], "scales_per_octave": [1]}
_RPN: Anchors = {"ratios": _RATIOS, "scales": [8], "strides": [4, 8, 16, 32, 64]}
_ANCHORS: Dict[str, Anchors] = {  # the ones that `build_config` writes
    "RetinaNet": {"ratios": _RATIOS, "octave_base_scale": [4], "scales_per_octave": [3]},
    "ATSS": _ONE, "DDOD": _ONE, "GFL": _ONE, "GFLv2": _ONE, "FasterRCNN": _RPN, "MaskRCNN": _RPN,
}  # fmt: skip


@dataclass(frozen=True)
class Details:
    """What tensors do not tell.

    Args:
        caffe: stride in the 1x1 convolution.
        mean, std: of the pixels, in the order of the channels.
        rgb: order of the channels, BGR otherwise.
        norm_on_bbox: FCOS predicts distances in strides, not their logarithm in px.
        centerness_on_reg: FCOS predicts centerness from the box tower.
        center_sampling: FCOS trains on points near the centers of boxes only.
        extra_relu: ReLU between the FPN's extra levels; FCOS and AutoAssign always have it.
        topk_assigner: DDOD trains by PGD's rule.
        transform: how RepPoints make a box of points.
    """

    caffe: bool
    mean: List[float]
    std: List[float]
    rgb: bool
    norm_on_bbox: bool = False
    centerness_on_reg: bool = False
    center_sampling: bool = False
    extra_relu: bool = False
    topk_assigner: bool = False
    transform: str = "moment"


def details_from_text(
    text: str, arch: Architecture, style: str = ""
) -> Tuple[Details, Dict[str, str]]:
    """Look for the details in the text of the config, which is data and is never run.

    Args:
        text: mmdetection's config, "" if there is none.
        arch: what the tensors say.
        style: "caffe" (also BGR images, not scaled) or "pytorch" (RGB) to overrule the text.

    Returns:
        Tuple: the details, and for each where it comes from.

    Raises:
        ValueError: the text is not complete, or describes what cannot be converted.
    """
    _check_text(text, arch.detector)
    if arch.detector == "FCOS" and arch.tower_norm and arch.tower_bias and not text:
        raise ValueError(
            "The file has no config, and its towers look like FCOS with norm_on_bbox and "
            "centerness_on_reg, which tensors do not tell. Give mmdetection's config with --config."
        )
    details, sources = _pixel_details(text, arch.detector, style)
    details = replace(
        details,
        norm_on_bbox=_flag(text, "norm_on_bbox"),
        centerness_on_reg=_flag(text, "centerness_on_reg"),
        center_sampling=_flag(text, "center_sampling"),
        extra_relu=_flag(text, "relu_before_extra_convs"),
        topk_assigner="TopkAssigner" in text,
        transform=transform_of(text, arch) if arch.detector == "RepPoints" else "moment",
    )
    if arch.detector == "FCOS":
        origin = "config" if text else "assumed"
        names = ("norm_on_bbox", "centerness_on_reg", "center_sampling")
        sources |= {name: f"{getattr(details, name)} ({origin})" for name in names}
    return details, sources


def _pixel_details(text: str, detector: str, style: str) -> Tuple[Details, Dict[str, str]]:
    """The ResNet's style and what images it takes, and for each where it comes from."""
    found = re.search(r"style\s*=\s*['\"](caffe|pytorch)['\"]", text)
    caffe = (style or (found[1] if found else "pytorch")) == "caffe"
    source = "option" if style else "config" if found else "assumed"
    default = (
        (_CAFFE_FCOS if detector in ("FCOS", "AutoAssign") else _CAFFE) if caffe else _IMAGENET
    )
    mean, std = (_numbers(text, key) for key in ("mean", "std"))
    stated = bool(mean and std and not style)
    mean, std = (mean, std) if stated else default
    order = None if style else re.search(r"\b(?:bgr_to_rgb|to_rgb)\s*=\s*(True|False)", text)
    rgb = order[1] == "True" if order else not caffe
    sources = {
        "style": f"{'caffe' if caffe else 'pytorch'} ({source})",
        "pixel mean": f"{mean} ({'config' if stated else source})",
        "channels": f"{'RGB' if rgb else 'BGR'} ({'config' if order else source})",
    }
    return Details(caffe, mean, std, rgb), sources


def states_classes(text: str, count: int) -> bool:
    """Whether the text says that there are `count` classes."""
    found = re.search(r"\bnum_classes\s*=\s*(\d+)", text)
    return found is not None and int(found[1]) == count


def states_ddod(text: str) -> bool:
    """Whether the text is of a DDOD, whose tensors are an ATSS's where nothing is deformable."""
    return re.search(r"DDOD\w*Head|\breg_assigner\s*=", text) is not None


def _check_text(text: str, detector: str) -> None:
    if re.search(r"^\s*_base_\s*=", text, re.MULTILINE):
        raise ValueError(
            "The config refers to others by _base_. Give a complete one with --config: "
            "mmdetection's tools/misc/print_config.py prints it."
        )
    if re.search(r"add_extra_convs\s*=\s*['\"]on_lateral", text):
        raise ValueError("Levels above the FPN's laterals (on_lateral) cannot be converted.")
    if re.search(r"type\s*=\s*['\"](PAA|LAD)Head", text):
        raise ValueError("PAA and LAD have the tensors of ATSS but other scores; not converted.")
    found = re.search(r"anchor_generator\s*=\s*dict\(([^()]*)\)", text)
    for key, value in _ANCHORS.get(detector, {}).items():
        stated = re.search(rf"\b{key}\s*=\s*(\[[^\]]*\]|[\d.]+)", found[1]) if found else None
        if stated and _floats(stated[1]) != value:
            raise ValueError(
                f"Its anchors have {key} {_floats(stated[1])}; only {detector} with {value} is "
                "converted."
            )


def _floats(text: str) -> List[float]:
    return [float(x) for x in re.findall(r"[\d.]+", text)]


def _numbers(text: str, key: str) -> List[float]:
    found = re.search(rf"\b{key}\s*=\s*[\[(]\s*([\d.,\s]+)[\])]", text)
    return [float(x) for x in found[1].split(",") if x.strip()] if found else []


def _flag(text: str, key: str) -> bool:
    return re.search(rf"\b{key}\s*=\s*True", text) is not None
