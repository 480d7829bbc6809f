"""Masks of receptive tokens: hand values, and that fast forms equal plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from d2kd.losses.maskd import (
    cell_weights,
    dice,
    pooled_convolution,
    shifted_sums,
    token_masks,
    weighted_mask,
    weighted_mse,
)

X = torch.tensor([[[[1.0, 0, 2]], [[0, 1, -1]]]], dtype=torch.float64)
Y = torch.tensor([[[[0.0, 1, 1]], [[1, 0, 0]]]], dtype=torch.float64)
TOKENS = torch.tensor([[1.0, 0], [0, 2]], dtype=torch.float64)
KERNEL = torch.arange(1, 37, dtype=torch.float64).view(2, 2, 3, 3) / 36
BIAS = torch.tensor([0.0, 1], dtype=torch.float64)
P = pooled_convolution(X, KERNEL, BIAS).softmax(1)


def near(found, expected):
    assert_close(found.squeeze(), torch.tensor(expected).double(), atol=1e-6, rtol=0)


def random(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def plain_dice(masks):
    """One pair after the other."""
    count, values = masks.shape[1], []
    for m in masks:
        for k in range(count):
            for j in set(range(count)) - {k}:
                over = 2 * (m[k] * m[j]).sum()
                values.append(over / (m[k].square().sum() + m[j].square().sum() + 2e-12))
    return torch.stack(values).mean()


def plain_loss(student, teacher, masks, weights):
    """Both maps under every mask, as the paper writes it."""
    s, t = (masks[:, :, None] * x[:, None] for x in (student, teacher))
    error = (s - t).square().mean(2).sum((2, 3)) / masks.sum((2, 3))
    return (weights * error).sum() / len(student)


def test_masks_and_their_overlap():
    tokens = TOKENS.clone().requires_grad_()
    masks = token_masks(X, tokens)
    near(masks, [[0.731059, 0.5, 0.880797], [0.5, 0.880797, 0.119203]])
    near(dice(masks), 0.700638)
    dice(masks).backward()
    near(tokens.grad, [[-0.082266, 0.142215], [0.201982, -0.073843]])


def test_weights_and_the_masked_map():
    """The sum of the masked map, as a loss of the teacher, and the overlap."""
    near(pooled_convolution(X, KERNEL, BIAS), [0.407407, 2.574074])
    near(P, [0.102784, 0.897216])
    tokens = TOKENS.clone().requires_grad_()
    masks = token_masks(X, tokens)
    masked = X * weighted_mask(masks, P)[:, None]
    near(masked, [[0.523749, 0, 0.394965], [0, 0.841657, -0.197483]])
    loss = masked.sum() + dice(masks)
    near(loss, 2.263527)
    loss.backward()
    near(tokens.grad, [[-0.040474, 0.157119], [0.614690, -0.073843]])


@pytest.mark.parametrize(("with_student", "value", "gradient"), [
    (False, 0.698015, [-0.175548, 0.476210, -0.046258]),
    (True, 0.424449, [-0.195033, 0.195033, -0.034384]),
])  # fmt: skip
def test_distillation(with_student, value, gradient):
    y = Y.clone().requires_grad_()
    masks = token_masks(X, TOKENS) * (token_masks(Y, TOKENS) if with_student else 1)
    loss = weighted_mse(y, X, cell_weights(masks, P))
    near(loss, value)
    loss.backward()
    near(y.grad, [gradient, [-x for x in gradient]])


def test_tokens_of_zero_halve_the_mean_squared_error():
    masks = token_masks(X, 0 * TOKENS)
    near(F.mse_loss(Y, X), 1.0)
    near(weighted_mse(Y, X, cell_weights(masks, P)), 0.5)
    near(weighted_mse(Y, X, cell_weights(masks * masks, P)), 0.25)


def test_equal_tokens():
    masks = token_masks(X, TOKENS[:1].expand(4, 2))
    near(dice(masks), 1.0)
    losses = [
        weighted_mse(Y, X, cell_weights(masks, random(1, 4, seed=seed).softmax(1)))
        for seed in (0, 1)
    ]
    assert_close(*losses)
    assert dice(masks[:, :1]).item() == 0


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (2, 1), (1, 1)])
def test_nine_sums_are_the_mean_of_a_convolution(size):
    x, weight, bias = random(2, 3, *size), random(4, 3, 3, 3, seed=1), random(4, seed=2)
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    fast, plain = pooled_convolution(x, *leaves), F.conv2d(x, *leaves, padding=1).mean((2, 3))
    assert_close(fast, plain, atol=1e-12, rtol=0)
    pull = random(2, 4, seed=3)
    found = (torch.autograd.grad((y * pull).sum(), leaves) for y in (fast, plain))
    for a, b in zip(*found, strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)
    unit = torch.zeros(9, 1, 3, 3, dtype=torch.float64)
    unit.view(9, 9).fill_diagonal_(1)
    shifted = F.conv2d(x[:, :1], unit, padding=1).sum((2, 3)).view(2, 3, 3)
    assert_close(shifted_sums(x)[:, 0], shifted, atol=1e-12, rtol=0)


def test_the_overlap_by_products():
    masks = random(2, 5, 3, 4).sigmoid().requires_grad_()
    for fast, plain in zip(*(
        (f(masks), *torch.autograd.grad(f(masks), masks)) for f in (dice, plain_dice)
    ), strict=True):  # fmt: skip
        assert_close(fast, plain, atol=1e-12, rtol=0)


def test_one_map_of_weights_is_all_masks():
    s, t, masks = (
        random(2, 6, 3, 4).requires_grad_(),
        random(2, 6, 3, 4, seed=1),
        random(2, 5, 3, 4),
    )
    masks, weights = masks.sigmoid(), random(2, 5, seed=2).softmax(1)
    fast = weighted_mse(s, t, cell_weights(masks, weights))
    plain = plain_loss(s, t, masks, weights)
    assert_close(fast, plain, atol=1e-12, rtol=0)
    assert_close(*(torch.autograd.grad(x, s)[0] for x in (fast, plain)), atol=1e-12, rtol=0)
    assert weighted_mse(t, t, cell_weights(masks, weights)).item() == 0


def test_closed_masks_are_no_division_by_zero():
    masks = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    assert cell_weights(masks, P).tolist() == [[[0, 0, 0]]]
    masks[0, 0, 0, 0] = 1e-9
    assert cell_weights(masks, P).isfinite().all()
    assert dice(0 * masks).item() == 0


def test_gradients():
    leaves = random(1, 2, 2, 2).requires_grad_(), TOKENS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, e: dice(token_masks(x, e)), leaves)
    weights = cell_weights(token_masks(X, TOKENS), P)
    assert torch.autograd.gradcheck(
        lambda y: weighted_mse(y, X, weights), Y.clone().requires_grad_()
    )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(kind):
    x = (100 * torch.randn(1, 256, 100, 160, generator=torch.Generator().manual_seed(0))).to(kind)
    tokens, kernel = torch.full((3, 256), 0.1), torch.full((3, 256, 3, 3), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        masks = token_masks(x, tokens)
        weights = pooled_convolution(x, kernel, torch.zeros(3)).softmax(1)
        found = [dice(masks), weighted_mse(x, 0 * x, cell_weights(masks, weights))]
    assert all(v.dtype == torch.float32 and v.isfinite() for v in found)
    assert_close(masks, token_masks(x.float(), tokens), atol=1e-6, rtol=0)
