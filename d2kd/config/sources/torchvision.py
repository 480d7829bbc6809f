"""torchvision's detectors as Detectron2's own: the same layers, anchors, pixels and thresholds."""

from typing import Any, Dict, List

from .entry import Entry, check_name

PREFIX = "torchvision"
_HOST = "https://download.pytorch.org/models/"
_LICENCE = "none stated (code BSD-3-Clause; trained on COCO)"
_PUBLISHED = {  # box AP, file
    "retinanet_resnet50_fpn": (36.4, "retinanet_resnet50_fpn_coco-eeacb38b.pth"),
    "retinanet_resnet50_fpn_v2": (41.5, "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"),
    "fcos_resnet50_fpn": (39.2, "fcos_resnet50_fpn_coco-99b0c9b7.pth"),
    "fasterrcnn_resnet50_fpn": (37.0, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
    "fasterrcnn_resnet50_fpn_v2": (46.7, "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    "maskrcnn_resnet50_fpn": (37.9, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
    "maskrcnn_resnet50_fpn_v2": (47.4, "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"),
}
Keys = Dict[str, Any]

_RATIOS = [[0.5, 1.0, 2.0]]
_SIZES = (32, 64, 128, 256, 512)
_LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def entries() -> List[Entry]:
    """All of them."""
    return [
        Entry(f"{PREFIX}:{name}", ap, _LICENCE, _HOST + file)
        for name, (ap, file) in _PUBLISHED.items()
    ]


def keys(name: str) -> Keys:
    """The config of a name without its prefix.

    What is left of torchvision's behaviour: its resizing (by `interpolate` without antialiasing,
    sides rounded down), the least side of a box, and RetinaNet's cutting of boxes to the image
    before NMS rather than after it.

    Raises:
        ConfigError: there is no such detector.
    """
    check_name(name, _PUBLISHED, PREFIX)
    second = name.endswith("_v2")
    kind = name.partition("_")[0]
    made = _DENSE[kind](second) if kind in _DENSE else _two_stage(second, kind == "maskrcnn")
    model, test = made
    norm = "BN" if second else "FrozenBN"
    model["PIXEL_MEAN"] = [123.675, 116.28, 103.53]
    model["PIXEL_STD"] = [58.395, 57.12, 57.375]
    model["RESNETS"] = {
        "DEPTH": 50, "NORM": norm, "STRIDE_IN_1X1": False,
        "OUT_FEATURES": model["FPN"]["IN_FEATURES"],
    }  # fmt: skip
    model["BACKBONE"] = {
        "NAME": "build_resnet_pyramid_backbone",
        "FROZEN_BN_EPS": 1e-5 if second or kind == "fcos" else 0.0,  # as torchvision sets them
    }
    model["ANCHOR_GENERATOR"] |= {"NAME": "TorchvisionAnchorGenerator", "OFFSET": 0.0}
    return {
        "VERSION": 2,
        "MODEL": model,
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333},
        "TEST": {"DETECTIONS_PER_IMAGE": test},
        "DATASETS": {"TRAIN": ("coco_2017_train",)},
    }


def _retinanet(second: bool) -> tuple[Keys, int]:
    model = {
        "META_ARCHITECTURE": "RetinaNet",
        "FPN": _dense_fpn("stage" if second else "output"),
        "RETINANET": {
            "NUM_CLASSES": 80, "IN_FEATURES": _LEVELS, "NORM": "GN" if second else "",
            "SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5, "TOPK_CANDIDATES_TEST": 1000,
        },
        "ANCHOR_GENERATOR": {
            "SIZES": [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in _SIZES],
            "ASPECT_RATIOS": _RATIOS,
        },
    }  # fmt: skip
    return model, 300


def _fcos(second: bool) -> tuple[Keys, int]:
    model = {
        "META_ARCHITECTURE": "FCOS",
        "FPN": _dense_fpn("output"),
        "FCOS": {"NUM_CLASSES": 80, "SCORE_THRESH_TEST": 0.2, "NMS_THRESH_TEST": 0.6},
        "ANCHOR_GENERATOR": {
            "SIZES": [[8], [16], [32], [64], [128]], "ASPECT_RATIOS": [[1.0]],
        },
    }  # fmt: skip
    return model, 100


_DENSE = {"retinanet": _retinanet, "fcos": _fcos}


def _dense_fpn(top_block_input: str) -> Keys:
    return {
        "IN_FEATURES": ["res3", "res4", "res5"],
        "TOP_BLOCK": "p6p7",
        "TOP_BLOCK_INPUT": top_block_input,
    }


def _two_stage(second: bool, masks: bool) -> tuple[Keys, int]:
    norm = "BN" if second else ""
    pooler = {"POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2, "NORM": norm}
    model = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": masks,
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "TOP_BLOCK": "maxpool",
                "NORM": norm},
        "PROPOSAL_GENERATOR": {"NAME": "RPN"},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "CONV_DIMS": [-1] * (2 if second else 1),
            "PRE_NMS_TOPK_TEST": 1000, "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads", "NUM_CLASSES": 80, "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead", "POOLER_RESOLUTION": 7, "FC_DIM": 1024,
            "NUM_CONV": 4 if second else 0, "NUM_FC": 1 if second else 2, **pooler,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead", "POOLER_RESOLUTION": 14, "NUM_CONV": 4, **pooler,
        },
        "ANCHOR_GENERATOR": {"SIZES": [[x] for x in _SIZES], "ASPECT_RATIOS": _RATIOS},
    }  # fmt: skip
    return model, 100
