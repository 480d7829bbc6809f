"""PKD as a head: levels, projections, errors."""

import pytest
from torch.testing import assert_close

from d2kd.heads import PKD
from d2kd.losses import pearson_loss
from tests.helpers import feature_output as output
from tests.helpers import feature_spec as spec


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
    with pytest.raises(
        ValueError, match=r"PKD found no common FPN stride.*\[8\].*\[4\].* VFM, or SetKD"
    ):
        PKD(spec({8: 4}), spec({4: 4}))


def test_published_weight():
    assert PKD.default_weight == 6.0


def test_levels_are_counted_from_one():
    with pytest.raises(ValueError, match="DISTILL.PKD.NUM_LEVELS must be above 0, not 0"):
        PKD(spec({8: 4}), spec({8: 4}), num_levels=0)
