"""SDGQP: toy cases worked out by hand, the reduction to DGQP, gradients, options."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.detectors.quality import DGQP
from d2kd.detectors.soft_quality import SDGQP, SELECTORS
from tests.detectors.test_quality import maps
from tests.helpers import detector

REDUCED = {"selector": "fixed", "topk": 4, "kappa": 4.0, "tau": 1e-3}
LOGITS = [0, 1, 3, 4, 2, 1, 0, -1, -1, -2, 0, 0, -3, -3, -1, 0, 1]


def statistics(x, **options):
    return SDGQP(16, **options).double().statistics(x).view(4, -1)[0]


def sides(logits):
    return torch.tensor(logits, dtype=torch.float64).repeat(4).view(1, 68, 1, 1)


def test_one_hot():
    """exp(H) = 1, kappa = 2, m_j = sigmoid((2.5 - j) / 0.25)."""
    found = statistics(maps({6: 1.0}))
    m = torch.tensor([0.997527, 0.880797, 0.119203, 0.002473], dtype=torch.float64)
    assert_close(found[0], m[0], atol=1e-6, rtol=0)
    assert not found[1:8].any()
    assert_close(found[8].item(), 0.498752, atol=1e-6, rtol=0)
    assert_close(m, ((2.5 - torch.arange(1, 5).double()) / 0.25).sigmoid(), atol=1e-6, rtol=0)


def test_two_bins():
    """exp(H) = 1.754765 for (3/4, 1/4)."""
    found = statistics(maps({6: 0.75, 7: 0.25}))
    expected = torch.tensor([0.749909, 0.248358, 0, 0, 0, 0, 0, 0, 0.359433], dtype=torch.float64)
    assert_close(found, expected, atol=1e-6, rtol=0)


def test_uniform():
    """kappa is clipped at 8, so all eight are taken."""
    found = statistics(maps(dict.fromkeys(range(17), 1 / 17)))
    assert_close(found[7].item(), 0.880797 / 17, atol=1e-6, rtol=0)
    assert_close(found[8].item(), 1 / 17, atol=1e-6, rtol=0)


def test_a_sharp_selection_of_four_takes_what_dgqp_takes():
    found = statistics(sides(LOGITS), selector="fixed", tau=1e-3)
    four = torch.tensor([0.565396, 0.207998, 0.076518, 0.028149], dtype=torch.float64)
    assert_close(found[:4], four, atol=1e-6, rtol=0)
    assert float(found[4:8].max()) < 1e-200
    assert_close(found[8].item(), 0.219515, atol=1e-6, rtol=0)
    soft = statistics(sides(LOGITS))
    assert_close(soft[8].item(), 0.172407, atol=1e-6, rtol=0)


def test_kappa():
    predictor = SDGQP(16).double()
    for x, expected in (
        (sides(LOGITS), 5.325336), (maps({6: 0.75, 7: 0.25}), 2.754765), (maps({6: 1.0}), 2.0),
        (sides([0.0] * 17), 8.0),
    ):  # fmt: skip
        log_p = x.unflatten(1, (4, 17)).log_softmax(2)
        assert_close(predictor._kappa(log_p)[0, 0].item(), expected, atol=1e-6, rtol=0)


def test_the_special_case_is_dgqp_with_its_weights():
    torch.manual_seed(0)
    hard, soft = DGQP(16).double(), SDGQP(16, **REDUCED).double()
    assert soft.load_state_dict(hard.state_dict()).missing_keys == []
    x = (3 * torch.randn(2, 68, 5, 7)).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    assert_close(soft(x), hard(y))
    soft(x).sum().backward()
    hard(y).sum().backward()
    assert_close(x.grad, y.grad)


def test_size_and_start():
    predictor = SDGQP(16)
    assert sum(p.numel() for p in predictor.parameters()) == 2435
    names = ["0.bias", "0.weight", "2.bias", "2.weight", "offset", "slope"]
    assert sorted(predictor.state_dict()) == names
    quality = predictor(torch.randn(1, 68, 5, 5)).sigmoid()
    assert_close(quality, torch.full_like(quality, 0.5), atol=0.02, rtol=0)
    for selector in ("entropy", "bank"):  # which read no kappa
        SDGQP(16, selector, topk=8, kappa=9.0)


def test_bins_may_be_permuted():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 68, 3, 4, generator=rng, dtype=torch.float64)
    order = torch.randperm(17, generator=rng)
    permuted = logits.unflatten(1, (4, 17))[:, :, order].flatten(1, 2)
    for selector in ("entropy", "learned", "fixed"):
        predictor = SDGQP(16, selector).double()
        assert_close(predictor.statistics(permuted), predictor.statistics(logits))


@pytest.mark.parametrize("selector", SELECTORS)
def test_gradients(selector):
    torch.manual_seed(0)
    predictor = SDGQP(16, selector).double()
    x = torch.randn(1, 68, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(predictor, x)
    predictor(maps({6: 1.0}).requires_grad_()).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in predictor.parameters())


def test_bank():
    """(3/4, 1/4) on bins 6 and 7: means 3/4, 1/2, 1/4, 1/8, variance 3/16, entropy 0.562335."""
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    expected = torch.tensor([0.75, 0.5, 0.25, 0.125, 0.1875, entropy], dtype=torch.float64)
    assert_close(statistics(maps({6: 0.75, 7: 0.25}), selector="bank"), expected)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_detector_with_it_trains_and_detects(selector):
    from d2kd.testing import make_batch

    keys = {"MODEL__GFL__QUALITY": "SDGQP", "MODEL__GFL__SDGQP__SELECTOR": selector}
    model = detector("GFL", **keys)
    losses = model.train()(make_batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(bool(v.isfinite()) for v in model(make_batch()).values())
    model.test_score_thresh = 0.0
    assert len(model.eval()(make_batch())[0]["instances"]) > 0


@pytest.mark.parametrize(("keys", "message"), [
    ({"SELECTOR": "hard"}, "MODEL.GFL.SDGQP.SELECTOR"),
    ({"TOPK": 18}, r"MODEL.GFL.SDGQP.TOPK must be from 2 to MODEL.GFL.REG_MAX \+ 1 = 17, not 18"),
    ({"SELECTOR": "fixed", "KAPPA": 9.0}, "SDGQP.KAPPA must be from 1 to TOPK = 8, not 9"),
    ({"TAU": 0.0}, "MODEL.GFL.SDGQP.TAU must be above 0"),
    ({"SELECTOR": "bank", "TOPK": 4}, "bank needs TOPK of at least 8, not 4"),
])  # fmt: skip
def test_options_out_of_range(keys, message):
    keys = {f"MODEL__GFL__SDGQP__{key}": value for key, value in keys.items()}
    with pytest.raises(ValueError, match=message):
        detector("GFL", MODEL__GFL__QUALITY="SDGQP", **keys)
