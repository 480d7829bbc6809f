"""What rounding must not decide: small differences of large numbers, in every precision."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import decoupled_kl, integral, relation_losses, softened_kl
from d2kd.losses.reduce import l2_norm


def logits(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    student = torch.randn(*shape, generator=rng)
    return student, student + 0.5 * torch.randn(*shape, generator=rng)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_expected_bin_in_mixed_precision(dtype):
    """A product of matrices in half precision would be off by 0.05 bins, 6 px at stride 128."""
    x = 3 * logits(64, 68)[0]
    with torch.autocast("cpu", dtype):
        found, half = integral(x), integral(x.to(dtype))
    assert found.dtype == half.dtype == torch.float32
    assert_close(found, integral(x))
    assert_close(half, integral(x.to(dtype).float()))


@pytest.mark.parametrize("loss", [
    softened_kl, lambda s, t, T: decoupled_kl(s, t, torch.arange(len(s)) % 17, temperature=T),
])  # fmt: skip
@pytest.mark.parametrize("temperature", [1, 10, 100])
def test_divergence_at_high_temperature(loss, temperature):
    """T^2 multiplies what the logarithms round."""
    student, teacher = logits(2000, 17)
    found = loss(student, teacher, temperature)
    exact = loss(student.double(), teacher.double(), temperature).float()
    assert_close(found, exact, atol=2e-7 * temperature**2, rtol=1e-5)
    assert float(softened_kl(student, student + 1e-6 * teacher, temperature).min()) >= 0


@pytest.mark.parametrize("classes", [2, 3, 7, 11, 81])
@pytest.mark.parametrize("regions", [3, 1000])
def test_constant_probabilities_correlate_with_nothing(classes, regions):
    rows, other = logits(1, classes)
    rows, other = rows.expand(regions, -1), other.expand(regions, -1)
    varied = logits(regions, classes, seed=1)[0]
    for a, b in ((rows, other), (rows, varied), (varied, other)):
        assert_close(relation_losses(a, b)[1], torch.tensor(1.0))
    even = torch.zeros(regions, classes)
    assert_close(relation_losses(even, varied)[0], torch.tensor(1.0))
    assert_close(relation_losses(even, even), torch.ones(2))


def test_norm_of_millions_of_values():
    x = torch.full((2, 64, 200, 336), 1e-3)
    assert_close(l2_norm(x).item(), 1e-3 * x.numel() ** 0.5, rtol=1e-5, atol=0)
