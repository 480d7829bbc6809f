"""Group norm of any width, on maps of one cell, and what Detectron2's own modules refuse."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.validate import check_config
from d2kd.detectors.norm import build_norm
from d2kd.errors import ConfigError
from d2kd.testing import make_batch
from tests.helpers import d2kd, detector, write_config


@pytest.mark.parametrize("channels", [32, 64, 256])
def test_usual_widths_are_detectron2s(channels):
    mine, stock = build_norm("GN", channels), nn.GroupNorm(32, channels)
    x = torch.randn(2, channels, 3, 5)
    assert torch.equal(mine(x), stock(x)) and isinstance(mine, nn.GroupNorm)
    assert list(mine.state_dict()) == list(stock.state_dict())


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (32, 32), (33, 1), (48, 16), (100, 4)])
def test_any_width_and_a_map_of_one_cell(channels, groups):
    norm = build_norm("GN", channels)
    assert norm.num_groups == groups
    x = torch.randn(1, channels, 1, 1, requires_grad=True)
    two = norm(torch.cat([x, x]))  # what PyTorch computes of several images
    assert_close(norm(x), two[:1])
    norm(x).sum().backward()
    assert norm.weight.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("channels", [32, 48])
@pytest.mark.parametrize("meta", ["FCOS", "ATSS", "DDOD", "GFL", "RepPoints"])
def test_detectors_of_ours_train_and_detect(meta, channels):
    """On an image of 64 px the last level has one cell."""
    model = detector(meta, channels, **{f"MODEL__{meta.upper()}__NORM": "GN"})
    batch = make_batch(((64, 64),))
    assert all(x.isfinite() for x in model.train()(batch).values())
    model.eval()(batch)


def config(meta, **keys):
    cfg = get_d2kd_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", meta
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.merge_from_list([x for k, v in keys.items() for x in (k.replace("__", "."), v)])
    return cfg


RETINA = {"MODEL__RETINANET__NORM": "GN"}
TWO = {"META": "GeneralizedRCNN"}
CASES = [
    ({**RETINA, "MODEL__FPN__OUT_CHANNELS": 48},
     "MODEL.RETINANET.NORM is GN.* 32 groups: MODEL.FPN.OUT_CHANNELS is 48"),
    ({**RETINA, "MODEL__FPN__OUT_CHANNELS": 32, "INPUT__MIN_SIZE_TEST": 128},
     "MODEL.FPN.OUT_CHANNELS is 32, one channel.*128 px.*to 64, MODEL.RETINANET.NORM to"),
    ({**RETINA, "MODEL__FPN__OUT_CHANNELS": 32, "INPUT__MAX_SIZE_TEST": 64}, "images of 64 px"),
    ({"MODEL__FPN__NORM": "GN", "MODEL__FPN__OUT_CHANNELS": 40}, "MODEL.FPN.NORM is GN"),
    ({"MODEL__RESNETS__NORM": "GN", "MODEL__RESNETS__STEM_OUT_CHANNELS": 16},
     "MODEL.RESNETS.STEM_OUT_CHANNELS is 16"),
    ({**TWO, "MODEL__ROI_BOX_HEAD__NORM": "GN", "MODEL__ROI_BOX_HEAD__NUM_CONV": 1,
      "MODEL__ROI_BOX_HEAD__CONV_DIM": 24}, "MODEL.ROI_BOX_HEAD.CONV_DIM is 24"),
    ({**TWO, "MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__NORM": "GN",
      "MODEL__ROI_MASK_HEAD__NUM_CONV": 1, "MODEL__ROI_MASK_HEAD__CONV_DIM": 24},
     "MODEL.ROI_MASK_HEAD.CONV_DIM is 24"),
]  # fmt: skip
FINE = [
    {**RETINA, "MODEL__FPN__OUT_CHANNELS": 32, "INPUT__MIN_SIZE_TEST": 129},
    {**RETINA, "MODEL__FPN__OUT_CHANNELS": 64, "INPUT__MIN_SIZE_TEST": 64},
    {"MODEL__FPN__OUT_CHANNELS": 48},
    {**TWO, "MODEL__ROI_BOX_HEAD__NORM": "GN", "MODEL__ROI_BOX_HEAD__CONV_DIM": 24},
    {"META": "GFL", "MODEL__FPN__OUT_CHANNELS": 48, "INPUT__MIN_SIZE_TEST": 64},
]


@pytest.mark.parametrize(("keys", "match"), CASES)
def test_detectron2s_modules_are_refused_by_key(keys, match):
    keys = dict(keys)
    with pytest.raises(ConfigError, match=match):
        check_config(config(keys.pop("META", "RetinaNet"), **keys))


@pytest.mark.parametrize("keys", FINE)
def test_what_works_is_not_refused(keys):
    keys = dict(keys)
    check_config(config(keys.pop("META", "RetinaNet"), **keys))


def test_distilling_is_checked_too():
    cfg = config("Distiller", **RETINA, MODEL__FPN__OUT_CHANNELS=48, DISTILL__STUDENT="RetinaNet")
    with pytest.raises(ConfigError, match="MODEL.FPN.OUT_CHANNELS is 48"):
        check_config(cfg)


def test_a_run_of_odd_width_is_evaluated(tmp_path, squares):
    path = write_config(tmp_path, squares, "GFL", MODEL__FPN__OUT_CHANNELS=48,
                        MODEL__GFL__NORM="GN", SOLVER__MAX_ITER=1)  # fmt: skip
    done = d2kd("train", path)
    assert done.exit_code == 0, done.output
