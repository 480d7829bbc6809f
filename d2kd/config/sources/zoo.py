"""Detectron2's model zoo: detectors trained on COCO, as its MODEL_ZOO.md lists them."""

from typing import Dict, List

from ..model_zoo import zoo_checkpoint_url
from .entry import Entry

_LICENCE = "CC BY-SA 3.0"
_PUBLISHED: Dict[str, Dict[str, float]] = {  # box AP; proposals, panoptic and others left out
    "COCO-Detection/": {
        "faster_rcnn_R_50_C4_1x.yaml": 35.7, "faster_rcnn_R_50_DC5_1x.yaml": 37.3,
        "faster_rcnn_R_50_FPN_1x.yaml": 37.9, "faster_rcnn_R_50_C4_3x.yaml": 38.4,
        "faster_rcnn_R_50_DC5_3x.yaml": 39.0, "faster_rcnn_R_50_FPN_3x.yaml": 40.2,
        "faster_rcnn_R_101_C4_3x.yaml": 41.1, "faster_rcnn_R_101_DC5_3x.yaml": 40.6,
        "faster_rcnn_R_101_FPN_3x.yaml": 42.0, "faster_rcnn_X_101_32x8d_FPN_3x.yaml": 43.0,
        "retinanet_R_50_FPN_1x.yaml": 37.4, "retinanet_R_50_FPN_3x.yaml": 38.7,
        "retinanet_R_101_FPN_3x.yaml": 40.4,
    },
    "COCO-InstanceSegmentation/": {
        "mask_rcnn_R_50_C4_1x.yaml": 36.8, "mask_rcnn_R_50_DC5_1x.yaml": 38.3,
        "mask_rcnn_R_50_FPN_1x.yaml": 38.6, "mask_rcnn_R_50_C4_3x.yaml": 39.8,
        "mask_rcnn_R_50_DC5_3x.yaml": 40.0, "mask_rcnn_R_50_FPN_3x.yaml": 41.0,
        "mask_rcnn_R_101_C4_3x.yaml": 42.6, "mask_rcnn_R_101_DC5_3x.yaml": 41.9,
        "mask_rcnn_R_101_FPN_3x.yaml": 42.9, "mask_rcnn_X_101_32x8d_FPN_3x.yaml": 44.3,
    },
    "Misc/": {
        "cascade_mask_rcnn_R_50_FPN_1x.yaml": 42.1, "cascade_mask_rcnn_R_50_FPN_3x.yaml": 44.3,
        "mask_rcnn_R_50_FPN_3x_gn.yaml": 42.6, "mask_rcnn_R_50_FPN_3x_syncbn.yaml": 41.9,
        "scratch_mask_rcnn_R_50_FPN_9x_gn.yaml": 43.7,
    },
    "new_baselines/mask_rcnn_": {
        "R_50_FPN_100ep_LSJ.py": 44.6, "R_50_FPN_200ep_LSJ.py": 46.3, "R_50_FPN_400ep_LSJ.py": 47.4,
        "R_101_FPN_100ep_LSJ.py": 46.4, "R_101_FPN_200ep_LSJ.py": 48.0,
        "R_101_FPN_400ep_LSJ.py": 48.9, "regnetx_4gf_dds_FPN_100ep_LSJ.py": 46.0,
        "regnetx_4gf_dds_FPN_200ep_LSJ.py": 48.1, "regnetx_4gf_dds_FPN_400ep_LSJ.py": 48.6,
        "regnety_4gf_dds_FPN_100ep_LSJ.py": 46.1, "regnety_4gf_dds_FPN_200ep_LSJ.py": 47.8,
        "regnety_4gf_dds_FPN_400ep_LSJ.py": 48.2,
    },
}  # fmt: skip


def entries() -> List[Entry]:
    """All of them."""
    return [
        Entry(start + name, ap, _LICENCE, zoo_checkpoint_url(start + name) or "")
        for start, aps in _PUBLISHED.items()
        for name, ap in aps.items()
    ]
