"""PKD's loss: hand values, invariances, limits."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import pearson_loss

S = torch.tensor([[[[0.0, 1], [0, 1]], [[1, 0], [0, -1]]]], dtype=torch.float64)
T = torch.tensor([[[[1.0, 0], [0, 1]], [[3, 0], [0, 0]]]], dtype=torch.float64)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_hand_values():
    # r = 0.8 and n = 4: (n - 1) / n * (1 - r) = 0.15
    assert_close(
        pearson_loss(row(1, 2, 3, 4), row(1, 3, 2, 4)).item(), 0.1499998, atol=1e-7, rtol=0
    )
    assert_close(pearson_loss(S, T).item(), 0.443812, atol=1e-6, rtol=0)


def test_opposite_maps():
    x = torch.randn(3, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # 2 (n - 1) / n for n = 60
    assert_close(pearson_loss(x, -x).item(), 1.966663, atol=1e-5, rtol=0)


def test_equals_one_minus_correlation():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 5, 6, 7, dtype=torch.float64, generator=g) for _ in range(2))
    r = [
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        for a, b in zip(x.transpose(0, 1), y.transpose(0, 1), strict=True)
    ]
    n = 2 * 6 * 7
    expected = (n - 1) / n * (1 - torch.stack(r).mean())
    assert_close(pearson_loss(x, y), expected, atol=1e-5, rtol=1e-5)


def test_affine_invariance_and_zero():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert pearson_loss(x, x).item() == 0.0
    assert pearson_loss(3 * x + 7, x).item() < 1e-9
    base = pearson_loss(row(1, 2, 3, 4), row(1, 3, 2, 4))
    assert_close(
        pearson_loss(2 * row(1, 2, 3, 4) + 1, 5 * row(1, 3, 2, 4) - 3), base, atol=1e-5, rtol=0
    )


def test_gradient():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=g, requires_grad=True)
    y = torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: pearson_loss(a, y.detach()), (x,))
    pearson_loss(x, y).backward()
    assert y.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    g = torch.Generator().manual_seed(0)
    x, y = (1000 * torch.randn(2, 3, 8, 8, generator=g).to(dtype) for _ in range(2))
    loss = pearson_loss(x, y)
    assert loss.dtype == torch.float32
    assert_close(loss, pearson_loss(x.float(), y.float()))


def test_constant_channels_and_single_cells_are_finite():
    for shape in ((1, 2, 1, 1), (2, 2, 3, 3)):
        x = torch.full(shape, 5.0, requires_grad=True)
        loss = pearson_loss(x, torch.zeros(shape))
        loss.backward()
        assert loss.item() == 0.0 and bool(x.grad.isfinite().all())
