"""PGD's losses: numbers worked out by hand, gradients, and what holds for any input."""

import pytest
import torch
from torch.testing import assert_close

from d2kd.losses.pgd import box_tower_loss, class_tower_loss

F_T = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]], dtype=torch.float64)
F_S = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64)
OBJECT, BACKGROUND = torch.tensor([[0.5, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()


def by_the_formula(student, teacher, weight, delta, tau):
    """Both attention maps and three sums, as in the paper's equations."""
    n, c, p = student.flatten(2).shape
    s, t = student.flatten(2), teacher.flatten(2)
    spatial = [p * (x.abs().mean(1) / tau).softmax(1) for x in (s, t)]
    channel = [c * (x.abs() / tau).softmax(1) for x in (s, t)]
    feature = (weight * spatial[1] * (channel[1] * (s - t) ** 2).sum(1)).sum() / n
    attention = (channel[0] - channel[1]).abs().sum() / (n * p)
    return feature + delta * (attention + (spatial[0] - spatial[1]).abs().sum() / n)


def random_maps(n=3, c=5, h=4, w=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(n, c, h, w, dtype=torch.float64, generator=rng) for _ in range(2))
    return s, t, torch.rand(n, h * w, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize(("tau", "fg", "bg", "att", "total"), [
    (1.0, 1.287829, 0.537883, 1.685828, 0.125890), (0.8, 1.436671, 0.445400, 1.957483, 0.134316),
])  # fmt: skip
def test_class_tower_toy(tau, fg, bg, att, total):
    """C1: m_fg = (1/2, 0), m_bg = (0, 1), counts are 1."""
    weight = OBJECT
    assert_close(class_tower_loss(F_S, F_T, weight, 0, tau).item(), fg, atol=1e-6, rtol=0)
    assert_close(class_tower_loss(F_S, F_T, BACKGROUND, 0, tau).item(), bg, atol=1e-6, rtol=0)
    assert_close(class_tower_loss(F_S, F_T, 0 * weight, 1, tau).item(), att, atol=1e-6, rtol=0)
    both = 0.08 * weight + 0.04 * BACKGROUND
    assert_close(class_tower_loss(F_S, F_T, both, 8e-4, tau).item(), total, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("tau", "feature", "attention", "total"), [
    (1.0, 0.440399, 0.598954, 0.056850), (0.8, 0.462071, 0.587368, 0.059615),
])  # fmt: skip
def test_box_tower_toy(tau, feature, attention, total):
    """R1: one location, w = 1/2."""
    one = torch.tensor(1.0)
    for gamma, delta, expected in ((1, 0, feature), (0, 1, attention), (0.128, 8e-4, total)):
        for most in (1, 2):
            loss = box_tower_loss(F_S, F_T, OBJECT, one, most, gamma, delta, tau)
            assert_close(loss.item(), expected, atol=1e-6, rtol=0)


def test_two_images():
    """C2: a second image with equal maps, whose weights are (1, 1/4) over a count of 2."""
    student, teacher = torch.cat([F_S, F_T]), torch.cat([F_T, F_T])
    objects = torch.cat([OBJECT, torch.tensor([[0.5, 0.125]]).double()])
    background = torch.cat([BACKGROUND, 0 * BACKGROUND])

    def loss(weight, delta):
        return class_tower_loss(student, teacher, weight, delta, 1.0).item()

    assert_close(loss(objects, 0), 0.643914, atol=1e-6, rtol=0)
    assert_close(loss(background, 0), 0.268941, atol=1e-6, rtol=0)
    assert_close(loss(0 * objects, 1), 0.842914, atol=1e-6, rtol=0)
    assert_close(loss(objects + background, 1), 1.755770, atol=1e-6, rtol=0)
    crossed = objects.sum(0, keepdim=True).expand(2, -1)
    assert_close(loss(crossed, 0), 1.321446, atol=1e-6, rtol=0)
    both = (objects + background).sum(0, keepdim=True).expand(2, -1)
    assert_close(loss(both, 1), 2.433302, atol=1e-6, rtol=0)


def test_attention_sums():
    """sum A_s = P and sum A_c = C: constant maps weigh every location and channel 1."""
    constant = torch.full((2, 3, 4, 5), 2.0, dtype=torch.float64)
    weight = torch.rand(2, 20, dtype=torch.float64)
    loss = class_tower_loss(constant + 1, constant, weight, 0, 0.8)
    assert_close(loss, 3 * weight.sum() / 2)


@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_class_tower_equals_the_formula_in_value_and_gradient(tau):
    student, teacher, weight = random_maps()
    mine, theirs = (student.clone().requires_grad_() for _ in range(2))
    loss = class_tower_loss(mine, teacher, weight, 0.3, tau)
    expected = by_the_formula(theirs, teacher, weight, 0.3, tau)
    assert_close(loss, expected)
    loss.backward()
    (2 * expected).backward()
    assert_close(2 * mine.grad, theirs.grad)


def test_gradients_by_finite_differences():
    student, teacher, weight = random_maps(2, 3, 2, 3)
    student.requires_grad_()
    assert torch.autograd.gradcheck(class_tower_loss, (student, teacher, weight, 0.3, 0.8))
    weight = weight * (weight > 0.5)
    count = weight.count_nonzero()
    for most in (4, 6):
        inputs = (student, teacher, weight, count, most, 0.7, 0.3, 0.8)
        assert torch.autograd.gradcheck(box_tower_loss, inputs)


def test_the_rows_read_do_not_matter_as_long_as_all_weights_are_among_them():
    student, teacher, weight = random_maps()
    weight = weight * (weight > 0.7)
    most = int(weight.count_nonzero(dim=1).max())
    losses = [
        box_tower_loss(student, teacher, weight, weight.count_nonzero(), k, 0.7, 0.3, 0.8)
        for k in (most, most + 2, 24, 1000)
    ]
    for loss in losses[1:]:
        assert_close(loss, losses[0])


def test_equal_maps_give_zero_and_no_gradient_of_the_feature_terms():
    student, _, weight = random_maps()
    twin = student.clone().requires_grad_()
    loss = class_tower_loss(twin, student, weight, 0.3, 0.8) + box_tower_loss(
        twin, student, weight, torch.tensor(5.0), 24, 0.7, 0.3, 0.8
    )
    loss.backward()
    assert loss.item() == 0
    assert not twin.grad.any()


def test_teacher_gets_no_gradient_and_half_precision_is_computed_in_float():
    student, teacher, weight = random_maps()
    teacher.requires_grad_()
    for dtype in (torch.bfloat16, torch.float16):
        half = student.to(dtype).requires_grad_()
        cls = class_tower_loss(half, teacher.to(dtype), weight.float(), 0.3, 0.8)
        box = box_tower_loss(
            half, teacher.to(dtype), weight.float(), torch.tensor(9.0), 24, 1, 1, 1
        )
        assert cls.dtype == box.dtype == torch.float32
        (cls + box).backward()
        assert half.grad.dtype == dtype and teacher.grad is None
        exact = class_tower_loss(student, teacher, weight, 0.3, 0.8).item()
        assert_close(cls.item(), exact, rtol=0.02, atol=0)


def test_no_objects():
    student, teacher, weight = random_maps()
    student.requires_grad_()
    loss = box_tower_loss(student, teacher, 0 * weight, torch.tensor(1e-6), 0, 0.7, 0.3, 0.8)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()
