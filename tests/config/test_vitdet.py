"""The presets of Detectron2's project ViTDet."""

import pytest
import torch

from d2kd.adapters import build_adapter
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.naming import construct
from d2kd.config.sources import vitdet
from d2kd.config.sources.find import published_weights
from d2kd.inspection.teachers import NumbersOnCpu

MILLIONS = {  # of parameters
    "mask_rcnn_vitdet_b": 111, "mask_rcnn_vitdet_l": 331, "mask_rcnn_vitdet_h": 662,
    "cascade_mask_rcnn_vitdet_b": 141, "cascade_mask_rcnn_vitdet_l": 361,
    "cascade_mask_rcnn_vitdet_h": 692, "cascade_mask_rcnn_swin_b_in21k": 139,
    "cascade_mask_rcnn_swin_l_in21k": 248, "cascade_mask_rcnn_mvitv2_b_in21k": 103,
    "cascade_mask_rcnn_mvitv2_l_in21k": 265, "cascade_mask_rcnn_mvitv2_h_in21k": 718,
}  # fmt: skip


@pytest.mark.parametrize("entry", vitdet.entries(), ids=lambda x: x.name)
def test_presets_are_built_and_pass_the_adapter(entry):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, entry.name, "--teacher")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"), NumbersOnCpu():
        detector = construct(cfg)
    adapter = build_adapter(detector)
    assert {"features", "rpn", "roi", "masks"} <= adapter.provides
    assert list(adapter.spec().features) == [4, 8, 16, 32, 64]
    assert adapter.spec().num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert adapter.divisor == 32
    assert detector.backbone.padding_constraints["square_size"] == 1024
    assert type(detector.roi_heads).__name__ == cfg.MODEL.ROI_HEADS.NAME
    assert detector.input_format == cfg.INPUT.FORMAT == "RGB"
    count = sum(x.numel() for x in detector.parameters()) / 1e6
    assert count == pytest.approx(MILLIONS[entry.name.partition(":")[2]], abs=1)
    assert published_weights(entry.name) == entry.weights


def test_pixels_are_those_of_the_detector():
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "vitdet:mask_rcnn_vitdet_b", "--teacher")
    model = vitdet.lazy_model("mask_rcnn_vitdet_b")
    assert cfg.MODEL.PIXEL_MEAN == list(model.pixel_mean)
    assert cfg.MODEL.PIXEL_STD == list(model.pixel_std)
