"""PKD as a head: levels, projections, errors."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.testing import assert_close

from d2kd import DetectorOutput, DetectorSpec
from d2kd.heads import PKD
from d2kd.losses import pearson_loss


def spec(widths, name="X"):
    features = {s: ShapeSpec(channels=c, stride=s) for s, c in widths.items()}
    return DetectorSpec(name=name, features=features, num_classes=3)


def output(widths, seed):
    g = torch.Generator().manual_seed(seed)
    maps = {s: torch.randn(2, c, 256 // s, 256 // s, generator=g) for s, c in widths.items()}
    return DetectorOutput(images=None, adapter=None, features=maps)


def test_sum_over_the_finest_common_strides():
    widths_s, widths_t = {s: 4 for s in (8, 16, 32, 64, 128)}, {s: 4 for s in (4, 8, 16, 32, 64)}
    head = PKD(spec(widths_s), spec(widths_t))
    assert head.strides == [8, 16, 32, 64] and len(head.project) == 0
    s, t = output(widths_s, 0), output(widths_t, 1)
    expected = sum(pearson_loss(s.features[k], t.features[k]) for k in (8, 16, 32, 64))
    assert_close(head(s, t)["feat"], expected)
    two = PKD(spec(widths_s), spec(widths_t), num_levels=2)
    assert_close(
        two(s, t)["feat"], sum(pearson_loss(s.features[k], t.features[k]) for k in (8, 16))
    )


def test_projection_only_where_widths_differ():
    widths_s, widths_t = {8: 4, 16: 6}, {8: 4, 16: 10}
    head = PKD(spec(widths_s), spec(widths_t))
    assert list(head.project) == ["16"]
    assert head.project["16"].weight.shape == (10, 6, 1, 1)
    loss = head(output(widths_s, 0), output(widths_t, 1))["feat"]
    loss.backward()
    assert head.project["16"].weight.grad.abs().sum() > 0


def test_no_common_stride():
    with pytest.raises(ValueError, match=r"PKD found no common FPN stride.*\[8\].*\[4\]"):
        PKD(spec({8: 4}), spec({4: 4}))


def test_published_weight():
    assert PKD.default_weight == 6.0
