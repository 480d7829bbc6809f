"""What detector a checkpoint of mmdetection holds, from the names and shapes of its tensors."""

from dataclasses import dataclass
from typing import Dict, Iterable, Optional, Tuple

import torch
from torch import Tensor

from ..checkpoint.values import first_names
from ..errors import ConfigError
from .trunk import count_modules, depth_of, offset_rows, rows, stages

_MARKS = (  # the first tensor that is there names the detector
    ("MaskRCNN", "roi_head.mask_head.conv_logits.weight"),
    ("FasterRCNN", "roi_head.bbox_head.fc_cls.weight"),
    ("GFLv2", "bbox_head.reg_conf.0.weight"),
    ("GFL", "bbox_head.gfl_cls.weight"),
    ("DDOD", "bbox_head.reg_convs.0.conv.conv_offset.weight"),
    ("DDOD", "bbox_head.reg_convs.0.conv_offset.weight"),  # as old versions of mmcv name it
    ("RepPoints", "bbox_head.reppoints_cls_conv.weight"),
    ("ATSS", "bbox_head.atss_cls.weight"),
    ("RetinaNet", "bbox_head.retina_cls.weight"),
    ("AutoAssign", "bbox_head.center_prior.mean"),
    ("FCOS", "bbox_head.conv_centerness.weight"),
)
PREDICTORS = {  # class and box predictor by detector
    "FasterRCNN": ("roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"),
    "GFL": ("bbox_head.gfl_cls", "bbox_head.gfl_reg"),
    "ATSS": ("bbox_head.atss_cls", "bbox_head.atss_reg"),
    "RetinaNet": ("bbox_head.retina_cls", "bbox_head.retina_reg"),
    "FCOS": ("bbox_head.conv_cls", "bbox_head.conv_reg"),
    "RepPoints": ("bbox_head.reppoints_cls_out", "bbox_head.reppoints_pts_refine_out"),
}
PREDICTORS["AutoAssign"] = PREDICTORS["FCOS"]
PREDICTORS["MaskRCNN"], PREDICTORS["GFLv2"] = PREDICTORS["FasterRCNN"], PREDICTORS["GFL"]
PREDICTORS["DDOD"] = PREDICTORS["ATSS"]
_RESNET_LAYERS = ("backbone.conv1", "backbone.layer1.0.conv2", "neck.lateral_convs.0.conv")


@dataclass(frozen=True)
class Architecture:
    """A detector of mmdetection with a ResNet or ResNeXt and an FPN.

    Names of detectors are those of `_MARKS`. `deform` says for each of the four stages whether it
    is deformable, `tower_deform` the same for the first convolutions of the head's towers; `extra`
    where the FPN's extra levels start, "stage", "output" or "maxpool"; `first_rows` how many
    numbers RepPoints predict first, `moment` whether boxes of points have a parameter.
    """

    detector: str
    num_classes: int
    depth: int
    groups: int
    width_per_group: int
    stem_channels: int
    res2_channels: int
    deform: Tuple[bool, ...]
    modulated: bool
    fpn_channels: int
    fpn_norm: bool
    first_level: int
    extra: str
    num_convs: int
    tower_norm: bool
    tower_bias: bool
    tower_deform: bool
    first_rows: int
    moment: bool
    iou_branch: bool
    reg_max: int
    fc_dim: int
    num_mask_convs: int
    mask_dim: int


def infer(state: Dict[str, Tensor], num_classes: Optional[int] = None) -> Architecture:
    """Infer the architecture.

    Args:
        state: tensors by mmdetection's name.
        num_classes: K, where it is not to be taken from the file.

    Raises:
        ConfigError: not a supported detector, or not `num_classes` classes.
    """
    detector = next((name for name, key in _MARKS if key in state), None)
    if detector is None or not _has_layers(state, (*_RESNET_LAYERS, *PREDICTORS[detector])):
        raise ConfigError(
            f"It is none of {', '.join(dict(_MARKS))} with a ResNet and an FPN; "
            f"its {len(state)} tensors are called {first_names(list(state))}"
        )
    _check_pyramid(state, detector)
    cls_name, reg_name = PREDICTORS[detector]
    blocks, bottleneck = stages(state), "backbone.layer1.0.conv3.weight" in state
    conv2 = state["backbone.layer1.0.conv2.weight"]
    groups = max(conv2.shape[0] // conv2.shape[1], 1) if bottleneck else 1
    last = f"backbone.layer1.0.conv{3 if bottleneck else 2}.weight"
    offsets = [offset_rows(state, f"backbone.layer{n}.0.conv2") for n in range(1, 5)]
    towers = "bbox_head.cls_convs"
    return Architecture(
        detector=detector,
        num_classes=_classes(state, detector, cls_name, reg_name, num_classes),
        depth=depth_of(blocks, bottleneck),
        groups=groups,
        width_per_group=conv2.shape[0] // groups,
        stem_channels=state["backbone.conv1.weight"].shape[0],
        res2_channels=state[last].shape[0],
        deform=tuple(n > 0 for n in offsets),
        modulated=27 in offsets,
        fpn_channels=state["neck.lateral_convs.0.conv.weight"].shape[0],
        fpn_norm="neck.lateral_convs.0.gn.weight" in state,
        first_level=5 - count_modules(state, "neck.lateral_convs") + 1,
        extra=_extra_levels(state, detector),
        num_convs=count_modules(state, towers),
        tower_norm=f"{towers}.0.gn.weight" in state,
        tower_bias=f"{towers}.0.conv.bias" in state,
        tower_deform=detector == "DDOD",
        first_rows=rows(state, "bbox_head.reppoints_pts_init_out.weight"),
        moment="bbox_head.moment_transfer" in state,
        iou_branch="bbox_head.atss_iou.weight" in state,
        reg_max=state[f"{reg_name}.weight"].shape[0] // 4 - 1 if "GFL" in detector else 0,
        fc_dim=rows(state, "roi_head.bbox_head.shared_fcs.0.weight"),
        num_mask_convs=count_modules(state, "roi_head.mask_head.convs"),
        mask_dim=rows(state, "roi_head.mask_head.convs.0.conv.weight"),
    )


def _has_layers(state: Dict[str, Tensor], layers: Iterable[str]) -> bool:
    """Whether the layers are there, and nothing that is read of them or the neck is too short."""
    convs = {
        name: x for name, x in state.items() if name.startswith("neck.") and "conv.weight" in name
    }
    convs |= {f"{layer}.weight": state.get(f"{layer}.weight", torch.empty(0)) for layer in layers}
    return all(x.dim() > 1 for x in convs.values()) and all(
        x.numel() and x.dim() for name, x in state.items() if name.endswith(".weight")
    )


def _check_pyramid(state: Dict[str, Tensor], detector: str) -> None:
    laterals = count_modules(state, "neck.lateral_convs")
    found = laterals, count_modules(state, "neck.fpn_convs") - laterals
    wanted = (4, 0) if "RCNN" in detector else (3, 2)
    if found != wanted:
        raise ConfigError(
            f"Its FPN has {found[0]} levels and {found[1]} convolutions for levels above them; a "
            f"{detector} that can be converted has {wanted[0]} and {wanted[1]}."
        )


def _extra_levels(state: Dict[str, Tensor], detector: str) -> str:
    laterals = count_modules(state, "neck.lateral_convs")
    extra = state.get(f"neck.fpn_convs.{laterals}.conv.weight")
    if extra is None:
        return "maxpool"
    stage = state[f"neck.lateral_convs.{laterals - 1}.conv.weight"].shape[1]
    width = state["neck.lateral_convs.0.conv.weight"].shape[0]
    if stage == width:  # the shapes do not tell; what the released configs do
        return "stage" if detector in ("AutoAssign", "RetinaNet", "RepPoints") else "output"
    return "stage" if extra.shape[1] == stage else "output"


def _classes(
    state: Dict[str, Tensor], detector: str, cls_name: str, reg_name: str, wanted: Optional[int]
) -> int:
    """GFLv2's released files have one row more than classes."""
    rows = state[f"{cls_name}.weight"].shape[0]
    if detector == "RetinaNet":
        anchors = state[f"{reg_name}.weight"].shape[0] / 4
        if anchors != 9 or rows % 9:
            raise ConfigError(f"RetinaNet needs 9 anchors per cell, and the file has {anchors:g}.")
        found = [rows // 9]
    elif detector in ("FasterRCNN", "MaskRCNN"):
        found = [rows - 1]
    else:
        found = [rows - 1, rows] if detector == "GFLv2" else [rows]
    if wanted is not None and wanted not in found:
        raise ConfigError(f"--classes is {wanted}, but the file has {found[0]} classes.")
    return found[0] if wanted is None else wanted
