"""Ranges in trunks of which a part stays in evaluation mode while the rest is trained."""

import pytest
from torch.nn.modules.batchnorm import _BatchNorm

from d2kd.quantize.layers import Range
from d2kd.testing import make_batch
from tests.helpers import detector


def small(**keys):
    """A GFL over the first stages of a trunk whose batch norm holds hard-swish."""
    pytest.importorskip("timm")
    return detector("GFL", MODEL__BACKBONE__NAME="build_timm_fpn_backbone",
                    MODEL__TIMM__NAME="mobilenetv3_small_050",
                    MODEL__FPN__IN_FEATURES=["c3", "c4"], MODEL__GFL__IN_FEATURES=["p3", "p4"],
                    MODEL__ANCHOR_GENERATOR__SIZES=[[32], [64]], **keys)  # fmt: skip


@pytest.mark.parametrize(
    "keys", [{"MODEL__TIMM__FREEZE_AT": 3}, {"MODEL__BACKBONE__NORM_EVAL": True}]
)
def test_ranges_of_frozen_layers_are_measured(quantized, keys):
    model = quantized(small(**keys), "last convolutions").train()
    norms = [x for x in model.backbone.bottom_up.modules() if isinstance(x, _BatchNorm)]
    assert not norms[0].training
    model(make_batch())
    ranges = {name: x for name, x in model.named_modules() if isinstance(x, Range)}
    assert not [name for name, x in ranges.items() if x.seen < 1]
    model.eval()
    assert not [name for name, x in ranges.items() if x.training]
