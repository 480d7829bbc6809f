"""The distribution-guided quality predictor: statistics, layout, size, start."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.detectors.quality import DGQP

LOWEST = -1e4


def maps(probabilities):
    """(1, 68, 1, 1) logits with the given probabilities on every side."""
    logits = torch.full((17,), LOWEST, dtype=torch.float64)
    for index, p in probabilities.items():
        logits[index] = math.log(p)
    return logits.repeat(4).view(1, 68, 1, 1)


@pytest.mark.parametrize(("probabilities", "expected"), [
    (dict.fromkeys(range(17), 1 / 17), [1 / 17] * 5),
    ({6: 1.0}, [1, 0, 0, 0, 0.25]),
    ({6: 0.75, 7: 0.25}, [0.75, 0.25, 0, 0, 0.25]),
])  # fmt: skip
def test_statistics(probabilities, expected):
    statistics = DGQP(16).statistics(maps(probabilities)).view(4, 5)
    assert_close(statistics, torch.tensor([expected] * 4, dtype=torch.float64))


def test_bins_may_be_permuted_and_sides_are_contiguous():
    predictor = DGQP(16).double()
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 68, 3, 4, generator=rng, dtype=torch.float64)
    order = torch.randperm(17, generator=rng)
    permuted = logits.unflatten(1, (4, 17))[:, :, order].flatten(1, 2)
    assert_close(predictor.statistics(permuted), predictor.statistics(logits))
    assert_close(predictor(permuted), predictor(logits))
    top = logits[:, 17:34].softmax(1).topk(4, 1).values
    statistics = predictor.statistics(logits)
    assert statistics.shape == (2, 20, 3, 4)
    assert_close(statistics[:, 5:9], top)
    assert_close(statistics[:, 9], top.mean(1))


def test_size_and_start():
    torch.manual_seed(0)
    predictor = DGQP(16)
    assert sum(p.numel() for p in predictor.parameters()) == 1409
    assert sorted(predictor.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    quality = predictor(torch.randn(1, 68, 5, 5)).sigmoid()
    assert_close(quality, torch.full_like(quality, 0.5), atol=0.02, rtol=0)
    assert_close(0.01 * quality.mean(), torch.tensor(0.005), atol=1e-4, rtol=0)


def test_gradient_reaches_the_distributions():
    predictor = DGQP(8).double()
    logits = torch.randn(1, 36, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(predictor, logits)
