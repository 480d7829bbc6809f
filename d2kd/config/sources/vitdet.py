"""Detectron2's projects ViTDet: detectors whose classes are installed and whose configs are not.

Facts of the projects' configs and model tables (arXiv 2203.16527 and 2112.01526), as edits of the
installed `common/models`.
"""

from functools import partial
from typing import Any, Dict, List, Tuple

from detectron2.config import LazyCall, LazyConfig
from detectron2.layers import ShapeSpec
from detectron2.modeling import MViT, SwinTransformer
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)
from omegaconf import DictConfig
from torch import nn

from ..model_zoo import zoo_folder
from .entry import Entry, check_name

PREFIX = "vitdet"
_SIDE = 1024  # px, of the square that images are padded to, and their long side
_HOST = "https://dl.fbaipublicfiles.com/detectron2/ViTDet/COCO/"
_LICENCE = "CC BY-SA 3.0"  # of Detectron2's models; the project names none of its own
_PUBLISHED = {  # box AP, file
    "mask_rcnn_vitdet_b": (51.6, "f325346929/model_final_61ccd1.pkl"),
    "mask_rcnn_vitdet_l": (55.5, "f325599698/model_final_6146ed.pkl"),
    "mask_rcnn_vitdet_h": (56.7, "f329145471/model_final_7224f1.pkl"),
    "cascade_mask_rcnn_vitdet_b": (54.0, "f325358525/model_final_435fa9.pkl"),
    "cascade_mask_rcnn_vitdet_l": (57.6, "f328021305/model_final_1a9f28.pkl"),
    "cascade_mask_rcnn_vitdet_h": (58.7, "f328730692/model_final_f05665.pkl"),
    "cascade_mask_rcnn_swin_b_in21k": (53.9, "f342979038/model_final_246a82.pkl"),
    "cascade_mask_rcnn_swin_l_in21k": (55.0, "f342979186/model_final_7c897e.pkl"),
    "cascade_mask_rcnn_mvitv2_b_in21k": (55.6, "f325820315/model_final_8c3da3.pkl"),
    "cascade_mask_rcnn_mvitv2_l_in21k": (55.7, "f325607715/model_final_2141b0.pkl"),
    "cascade_mask_rcnn_mvitv2_h_in21k": (55.9, "f326187358/model_final_2234d7.pkl"),
}
_VITS: Dict[str, Tuple[int, int, int, float]] = {  # width, depth, attention heads, drop path
    "vitdet_b": (768, 12, 12, 0.1),
    "vitdet_l": (1024, 24, 16, 0.4),
    "vitdet_h": (1280, 32, 16, 0.5),
}
_SWINS: Dict[str, Tuple[int, List[int]]] = {  # width, attention heads of the stages
    "swin_b": (128, [4, 8, 16, 32]),
    "swin_l": (192, [6, 12, 24, 48]),
}
_MVITS: Dict[str, Tuple[int, int, int, Tuple[int, ...], float]] = {
    # width, depth, attention heads, last block of each stage, drop path
    "mvitv2_b": (96, 24, 1, (1, 4, 20, 23), 0.4),
    "mvitv2_l": (144, 48, 2, (1, 7, 43, 47), 0.5),
    "mvitv2_h": (192, 80, 3, (3, 11, 71, 79), 0.6),
}
_STAGES = 3  # of the cascade


def entries() -> List[Entry]:
    """All of them."""
    return [
        Entry(f"{PREFIX}:{name}", ap, _LICENCE, f"{_HOST}{name}/{file}")
        for name, (ap, file) in _PUBLISHED.items()
    ]


def keys(name: str) -> Dict[str, Any]:
    """The config of a name without its prefix; the detector itself is that of `lazy_model`.

    Raises:
        ConfigError: there is no such detector.
    """
    check_name(name, _PUBLISHED, PREFIX)
    heads = "CascadeROIHeads" if name.startswith("cascade_") else "StandardROIHeads"
    return {
        "VERSION": 2,
        "MODEL": {
            "LAZY_CONFIG": f"{PREFIX}:{name}",
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "MASK_ON": True,
            "ROI_HEADS": {"NAME": heads, "NUM_CLASSES": 80},
        },
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": _SIDE, "MAX_SIZE_TEST": _SIDE},
        "DATASETS": {"TRAIN": ("coco_2017_train",)},
    }


def lazy_model(name: str) -> DictConfig:
    """What `detectron2.config.instantiate` builds the detector of a name from."""
    trunk = name.removeprefix("cascade_").removeprefix("mask_rcnn_").removesuffix("_in21k")
    model = _vitdet(trunk) if trunk in _VITS else _under_fpn(trunk)
    if name.startswith("cascade_"):
        _make_cascade(model)
    return model


def _common(name: str) -> DictConfig:
    model: DictConfig = LazyConfig.load(str(zoo_folder() / "configs/common/models" / name)).model
    return model


def _vitdet(trunk: str) -> DictConfig:
    """Four blocks, evenly spaced, attend to the whole image, the others to windows."""
    model = _common("mask_rcnn_vitdet.py")
    width, depth, heads, drop = _VITS[trunk]
    net = model.backbone.net
    net.embed_dim, net.depth, net.num_heads, net.drop_path_rate = width, depth, heads, drop
    net.window_block_indexes = [i for i in range(depth) if (i + 1) % (depth // 4)]
    return model


def _under_fpn(trunk: str) -> DictConfig:
    model = _common("mask_rcnn_fpn.py")
    vitdet = _common("mask_rcnn_vitdet.py")
    for key in ("pixel_mean", "pixel_std", "input_format"):
        model[key] = vitdet[key]
    model.backbone.bottom_up = _swin(trunk) if trunk in _SWINS else _mvit(trunk)
    names = "p0 p1 p2 p3" if trunk in _SWINS else "scale2 scale3 scale4 scale5"
    model.backbone.in_features = tuple(names.split())
    model.backbone.norm, model.backbone.square_pad = "LN", _SIDE
    model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "LN"
    model.proposal_generator.head.conv_dims = [-1, -1]
    return model


def _swin(trunk: str) -> DictConfig:
    width, heads = _SWINS[trunk]
    return LazyCall(SwinTransformer)(
        depths=[2, 2, 18, 2], drop_path_rate=0.4, embed_dim=width, num_heads=heads
    )


def _mvit(trunk: str) -> DictConfig:
    width, depth, heads, last, drop = _MVITS[trunk]
    return LazyCall(MViT)(
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        last_block_indexes=last,
        residual_pooling=True,
        drop_path_rate=drop,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_features=("scale2", "scale3", "scale4", "scale5"),
    )


def _make_cascade(model: DictConfig) -> None:
    """Three box heads with class-agnostic boxes, each trained at a higher IoU than the last."""
    heads = model.roi_heads
    for key in ("box_head", "box_predictor", "proposal_matcher"):
        heads.pop(key)
    weights = [(10 * k, 10 * k, 5 * k, 5 * k) for k in range(1, _STAGES + 1)]
    heads.update(
        _target_=CascadeROIHeads,
        box_heads=[
            LazyCall(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=256, height=7, width=7),
                conv_dims=[256, 256, 256, 256],
                fc_dims=[1024],
                conv_norm="LN",
            )
            for _ in range(_STAGES)
        ],
        box_predictors=[
            LazyCall(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=1024),
                test_score_thresh=0.05,
                box2box_transform=LazyCall(Box2BoxTransform)(weights=values),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
            )
            for values in weights
        ],
        proposal_matchers=[
            LazyCall(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
            for iou in (0.5, 0.6, 0.7)
        ],
    )
