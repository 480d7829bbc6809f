"""The yaml that loads a converted checkpoint."""

from typing import Any, Dict

from .architecture import Architecture
from .details import Details

_RELU = "AutoAssign", "FCOS"  # between the levels on top, as published
_DATASETS = {80: ("coco_2017_train", "coco_2017_val"), 20: ("voc_2007_trainval", "voc_2007_test")}


def build_config(arch: Architecture, details: Details, weights: str) -> Dict[str, Any]:
    """The config, as nested dicts, of the detector that `target_names` leads to.

    80 classes are taken for COCO, 20 for VOC; DATASETS stays empty for others.

    Args:
        arch: what the tensors say.
        details: what they do not.
        weights: becomes MODEL.WEIGHTS.
    """
    model = {
        "WEIGHTS": weights,
        "PIXEL_MEAN": details.mean,
        "PIXEL_STD": details.std,
        **_backbone(arch, details),
        **_head(arch, details),
    }
    train, test = _DATASETS.get(arch.num_classes, ("", ""))
    return {
        "VERSION": 2,
        "MODEL": model,
        "DATASETS": {"TRAIN": [train] if train else [], "TEST": [test] if test else []},
        "INPUT": {"FORMAT": "RGB" if details.rgb else "BGR", "MIN_SIZE_TRAIN": [800]},
    }


def _backbone(arch: Architecture, details: Details) -> Dict[str, Any]:
    stages = [f"res{n}" for n in range(arch.first_level, 6)]
    norm = "GN" if arch.fpn_norm else ""
    fpn = {"IN_FEATURES": stages, "OUT_CHANNELS": arch.fpn_channels, "NORM": norm,
           "TOP_BLOCK": "maxpool"}  # fmt: skip
    if arch.extra != "maxpool":
        fpn |= {"TOP_BLOCK": "p6p7", "TOP_BLOCK_INPUT": arch.extra, "TOP_BLOCK_NORM": norm,
                "TOP_BLOCK_RELU": details.extra_relu or arch.detector in _RELU}  # fmt: skip
    return {
        "BACKBONE": {"NAME": "build_resnet_pyramid_backbone", "NORM_EVAL": True},
        "RESNETS": {
            "DEPTH": arch.depth,
            "OUT_FEATURES": stages,
            "NORM": "FrozenBN" if details.caffe else "BN",  # whose affine their configs freeze
            "NUM_GROUPS": arch.groups,
            "WIDTH_PER_GROUP": arch.width_per_group,
            "STEM_OUT_CHANNELS": arch.stem_channels,
            "RES2_OUT_CHANNELS": arch.res2_channels,
            "STRIDE_IN_1X1": details.caffe,
            "DEFORM_ON_PER_STAGE": list(arch.deform),
            "DEFORM_MODULATED": arch.modulated,
        },
        "FPN": fpn,
    }


def _head(arch: Architecture, details: Details) -> Dict[str, Any]:
    if arch.detector in ("FasterRCNN", "MaskRCNN"):
        return _two_stage(arch)
    name = "GFL" if arch.detector == "GFLv2" else arch.detector
    node: Dict[str, Any] = {
        "NUM_CLASSES": arch.num_classes,
        "NUM_CONVS": arch.num_convs,
        "NORM": "GN" if arch.tower_norm else "",
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    }
    if name == "GFL":
        node |= {"REG_MAX": arch.reg_max, "QUALITY": "DGQP" if arch.detector == "GFLv2" else "none"}
    if name == "ATSS":
        node |= {"QUALITY": "iou" if arch.iou_branch else "centerness"}
    if name == "DDOD":
        node |= {"DEFORM": arch.tower_deform}
        node |= {"ASSIGNER": "topk", "REG_EXPONENT": 0.6} if details.topk_assigner else {}
    if name == "FCOS":
        node |= _fcos(arch, details)
    if name == "RepPoints":
        node |= {"TRANSFORM": details.transform}
    if name == "RetinaNet":
        node |= {"IOU_THRESHOLDS": [0.4, 0.5], "IOU_LABELS": [0, -1, 1], "SMOOTH_L1_LOSS_BETA": 0.0}
    anchors = {"SIZES": [[8 * 2**n] for n in range(3, 8)], "ASPECT_RATIOS": [[1.0]]}
    if name == "RetinaNet":
        sizes = [[4 * 2 ** (n + octave / 3) for octave in range(3)] for n in range(3, 8)]
        anchors = {"SIZES": sizes, "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]}
    return {"META_ARCHITECTURE": name, "ANCHOR_GENERATOR": anchors, name.upper(): node}


def _fcos(arch: Architecture, details: Details) -> Dict[str, Any]:
    return {
        "HEAD": "scaled",
        "CONV_BIAS": arch.tower_bias,
        "BOX_ACTIVATION": "relu" if details.norm_on_bbox else "exp",
        "CTRNESS_ON": "bbox" if details.centerness_on_reg else "cls",
        "SCORE": "product",
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.6 if details.norm_on_bbox else 0.5,
        "CENTER_SAMPLING_RADIUS": 1.5 if details.center_sampling else 1e8,
    }


def _two_stage(arch: Architecture) -> Dict[str, Any]:
    mask = arch.detector == "MaskRCNN"
    node = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": mask,
        "ANCHOR_GENERATOR": {
            "SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 2000, "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000, "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": arch.num_classes,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": arch.fc_dim,
                         "POOLER_RESOLUTION": 7},
    }  # fmt: skip
    if mask:
        node["ROI_MASK_HEAD"] = {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": arch.num_mask_convs,
            "CONV_DIM": arch.mask_dim,
            "POOLER_RESOLUTION": 14,
        }
    return node
