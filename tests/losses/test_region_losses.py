"""Losses on regions: numbers worked out by hand in float64, gradients, what holds for any input."""

import math

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses import decoupled_kl, mask_divergence, relation_losses, softened_kl


def logits(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def random_logits(seed=0, regions=6, classes=5):
    rng = torch.Generator().manual_seed(seed)
    shape = regions, classes
    student, teacher = (torch.randn(shape, dtype=torch.float64, generator=rng) for _ in range(2))
    return student, teacher, torch.randint(classes, (regions,), generator=rng)


def test_decoupled_by_hand():
    """t = (1/2, 1/4, 1/4), s = (1/4, 1/4, 1/2), label 0.

    Label: KL((1/2, 1/2) || (1/4, 3/4)) = (ln 2 + ln(2/3)) / 2 = ln(4/3) / 2 = 0.143841. Others:
    KL((1/2, 1/2) || (1/3, 2/3)) = (ln(3/2) + ln(3/4)) / 2 = ln(9/8) / 2 = 0.058892. With
    (alpha, beta) = (1, 1/4) 0.158564; with (1, 1/2), 1/2 = 1 - p_y, the plain KL ln 2 / 4.
    """
    student, teacher, label = (
        logits((0.25, 0.25, 0.5)),
        logits((0.5, 0.25, 0.25)),
        torch.tensor([0]),
    )
    parts = math.log(4 / 3) / 2, math.log(9 / 8) / 2
    for alpha, beta in ((1, 0), (0, 1), (1, 0.25)):
        expected = alpha * parts[0] + beta * parts[1]
        assert_close(decoupled_kl(student, teacher, label, alpha, beta).item(), expected)
    assert_close(decoupled_kl(student, teacher, label).item(), 0.158564, atol=1e-6, rtol=0)
    whole = decoupled_kl(student, teacher, label, 1, 0.5)
    assert_close(whole, softened_kl(student, teacher))
    assert_close(whole.item(), math.log(2) / 4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_decoupled_parts_add_up_to_the_divergence(temperature):
    student, teacher, labels = random_logits()
    p = (teacher / temperature).softmax(1).gather(1, labels[:, None])[:, 0]
    label, others = (
        decoupled_kl(student, teacher, labels, *w, temperature) for w in ((1, 0), (0, 1))
    )
    assert_close(label + (1 - p) * others, softened_kl(student, teacher, temperature))


def test_relations_by_hand():
    """Probabilities t = (1/2, 1/4, 1/4), (1/4, 1/2, 1/4); s = (1/2, 1/4, 1/4), (1/4, 1/4, 1/2).

    Rows: correlations 1 and, of (-1, 2, -1) with (-1, -1, 2), -1/2: mean of 1 - r is 3/4. Columns:
    t (1/2, 1/4), (1/4, 1/2), (1/4, 1/4); s (1/2, 1/4), (1/4, 1/4), (1/4, 1/2): 1, and two columns
    of which one is constant: mean of 1 - r is 2/3.
    """
    teacher = logits((0.5, 0.25, 0.25), (0.25, 0.5, 0.25))
    student = logits((0.5, 0.25, 0.25), (0.25, 0.25, 0.5))
    expected = torch.tensor([3 / 4, 2 / 3], dtype=torch.float64)
    assert_close(relation_losses(student, teacher), expected)


def test_relations_see_no_positive_affine_change_of_a_row_of_probabilities():
    teacher = random_logits()[1].softmax(1)
    student = 0.5 * teacher + 0.5 / teacher.shape[1]
    assert_close(relation_losses(student.log(), teacher.log())[0].item(), 0.0, atol=1e-12, rtol=0)


def test_masks_by_hand():
    """p^t = 3/4, p^s = 1/2 on one pixel and equal on three: (3/4 ln(3/2) + 1/4 ln(1/2)) / 4."""
    teacher = torch.zeros(1, 2, 2, dtype=torch.float64)
    teacher[0, 0, 0] = math.log(3)
    student = torch.zeros_like(teacher)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 4
    assert_close(mask_divergence(student, teacher).item(), expected)
    assert_close(expected, 0.032703, atol=1e-6, rtol=0)


def test_masks_are_cross_entropy_less_entropy_and_resized():
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 6, 6, dtype=torch.float64, generator=rng) for _ in range(2))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    target = (teacher / 2).sigmoid()
    both = (bce(x / 2, target, reduction="none").mean((1, 2)) for x in (student, teacher))
    cross, entropy = both
    assert_close(mask_divergence(student, teacher, 2.0), 4 * (cross - entropy))
    flat = torch.full((3, 3, 3), 0.7, dtype=torch.float64)
    assert_close(
        mask_divergence(flat, torch.full((3, 6, 6), 0.7).double()), torch.zeros(3).double()
    )


@pytest.mark.parametrize("name", ["decoupled", "relation", "mask"])
def test_gradients_and_equal_inputs(name):
    student, teacher, labels = random_logits()
    functions = {
        "decoupled": lambda s, t: decoupled_kl(s, t, labels, 1.0, 0.25, 2.0),
        "relation": lambda s, t: relation_losses(s, t, 2.0),
        "mask": lambda s, t: mask_divergence(s[None], t[None], 2.0),
    }
    function = functions[name]
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), student.requires_grad_())
    same = function(student, student)
    assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)
    teacher.requires_grad_()
    function(student, teacher).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float(dtype):
    student, teacher, labels = random_logits()
    half = [x.to(dtype) for x in (student, teacher)]
    for loss, exact in (
        (decoupled_kl(*half, labels), decoupled_kl(student, teacher, labels)),
        (relation_losses(*half), relation_losses(student, teacher)),
        (mask_divergence(*(x[None] for x in half)), mask_divergence(student[None], teacher[None])),
    ):
        assert loss.dtype == torch.float32
        assert_close(loss.double(), exact, atol=0.02, rtol=0.02)


def test_order_of_regions_and_none_at_all():
    student, teacher, labels = random_logits()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    found = relation_losses(student[order], teacher[order])
    assert_close(found, relation_losses(student, teacher))
    found = decoupled_kl(student[order], teacher[order], labels[order])
    assert_close(found, decoupled_kl(student, teacher, labels)[order])
    none = student[:0].requires_grad_()
    larger = torch.zeros(0, 3, 3, dtype=torch.float64)
    for loss in (
        decoupled_kl(none, teacher[:0], labels[:0]), relation_losses(none, teacher[:0]),
        mask_divergence(none.view(0, 5, 1).expand(-1, -1, 5), larger),
    ):  # fmt: skip
        loss.sum().backward()
        assert loss.sum().item() == 0 and none.grad.shape == (0, 5)
