"""BCKD's two losses: the toy cases of the specification, gradients, properties."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou_loss

from d2kd.losses import binary_distillation_loss, box_iou_loss
from d2kd.losses.divergence import class_gap


def d(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def one():
    return torch.ones(1, dtype=torch.float64)


def close(value, expected, atol=1e-6):
    assert_close(
        torch.as_tensor(value, dtype=torch.float64),
        d(*expected)
        if isinstance(expected, (list, tuple))
        else torch.tensor(expected, dtype=torch.float64),
        atol=atol,
        rtol=0,
    )


def test_identical_logits_give_zero():
    z = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert binary_distillation_loss(z, z, torch.ones(7, dtype=torch.float64)).item() == 0.0
    assert bool((class_gap(z, z) == 0).all())


def test_two_classes():
    close(binary_distillation_loss(d([0.0]), d([2.0]), one()), 0.263948)
    close(binary_distillation_loss(d([0.0]), d([-1.0]), one()), 0.160158)
    close(binary_distillation_loss(d([0.0, 0.0]), d([2.0, -1.0]), one()), 0.424106)


def test_gradient_flows_through_the_gap():
    z = d([0.0]).requires_grad_()
    binary_distillation_loss(z, d([2.0]), one()).backward()
    close(z.grad, [[-0.318293]])  # -0.145006 if the gap were detached


def test_a_shift_of_all_logits_is_seen():
    teacher = d([2.0, -1.0, 0.5])
    close(binary_distillation_loss(teacher + 1, teacher, one()), 0.339108)
    parts = [
        binary_distillation_loss((teacher + 1)[:, j : j + 1], teacher[:, j : j + 1], one())
        for j in range(3)
    ]
    close(torch.stack(parts), [0.029156, 0.160158, 0.149795])


@pytest.mark.parametrize(("z", "slope"), [(2 - 1e-3, -0.038387), (2 + 1e-3, 0.038329)])
def test_kink_at_the_optimum(z, slope):
    z = d([z]).requires_grad_()
    binary_distillation_loss(z, d([2.0]), one()).backward()
    close(z.grad, [[slope]])


@pytest.mark.parametrize(("student", "teacher"), [(-4.0, 4.0), (4.0, -4.0)])
def test_symmetry(student, teacher):
    close(binary_distillation_loss(d([student]), d([teacher]), one()), 3.804251)


CENTRES = d([10, 10], [11, 10])


def boxes(distances):
    return torch.cat(
        [
            CENTRES[: len(distances)] - distances[:, :2],
            CENTRES[: len(distances)] + distances[:, 2:],
        ],
        dim=1,
    )


def test_boxes():
    two, three = boxes(d([2, 2, 2, 2])), boxes(d([3, 3, 3, 3]))
    close(box_iou_loss(two, three, "giou"), [0.555556])
    close(box_iou_loss(two, three, "iou"), [0.555556])
    corner = boxes(d([0, 0, 4, 4]))
    close(box_iou_loss(two, corner, "giou"), [1.079365])
    close(box_iou_loss(two, corner, "iou"), [1 - 0.142857])
    assert box_iou_loss(two, two).item() == 0.0


@pytest.mark.parametrize(
    ("lw", "cls", "loc"), [([1.0, 1.0], 0.343846, 1.289247), ([1.0, 0.0], 0.263948, 0.846216)]
)
def test_two_locations(lw, cls, loc):
    z_s, z_t, lw = d([0, -2], [-1, -3]), d([2, -2], [-3, -3]), d(lw)[0]
    close(class_gap(z_s, z_t), [[0.380797, 0.221516]][0])
    b_s, b_t = boxes(d([2, 2, 2, 2], [1, 1, 1, 1])), boxes(d([3, 3, 3, 3], [1, 2, 1, 2]))
    close(box_iou_loss(b_s, b_t), [0.555556, 0.5])
    close(binary_distillation_loss(z_s, z_t, lw), cls)
    close(4 * (box_iou_loss(b_s, b_t) * lw * class_gap(z_s, z_t)).sum(), loc)


def test_giou_equals_torchvision():
    g = torch.Generator().manual_seed(0)
    low = torch.rand(2, 50, 2, dtype=torch.float64, generator=g) * 10
    both = torch.cat(
        [low, low + 0.1 + 10 * torch.rand(2, 50, 2, dtype=torch.float64, generator=g)], 2
    )
    student, teacher = both[0].clone().requires_grad_(), both[1]
    mine, theirs = box_iou_loss(student, teacher), generalized_box_iou_loss(student, teacher)
    assert_close(mine, theirs, atol=1e-7, rtol=0)
    (grad,) = torch.autograd.grad(mine.sum(), student, retain_graph=True)
    assert_close(grad, torch.autograd.grad(theirs.sum(), student)[0], atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["giou", "iou"])
def test_degenerate_and_far_boxes_are_finite(kind):
    student = d([5, 5, 5, 5], [0, 0, 1, 1], [0, 0, 0, 0]).requires_grad_()
    loss = box_iou_loss(student, d([5, 5, 5, 5], [90, 90, 91, 91], [1, 1, 1, 1]), kind)
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and bool(student.grad.isfinite().all())
    assert bool((loss >= 0).all()) and bool((loss <= 2).all())


def test_unknown_kind():
    with pytest.raises(ValueError, match="'giou' or 'iou'"):
        box_iou_loss(d([0, 0, 1, 1]), d([0, 0, 1, 1]), "diou")


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5])
def test_gradcheck_and_beta(beta):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 3, dtype=torch.float64, generator=g, requires_grad=True)
    t = torch.randn(4, 3, dtype=torch.float64, generator=g)
    w = torch.rand(4, dtype=torch.float64, generator=g)
    assert torch.autograd.gradcheck(lambda x: binary_distillation_loss(x, t, w, beta), (z,))
    assert bool(
        torch.autograd.grad(
            binary_distillation_loss(t.clone().requires_grad_() + 0 * z, t, w, beta), z
        )[0]
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, t = torch.tensor([[60.0, -60.0]], dtype=dtype), torch.tensor([[-60.0, 60.0]], dtype=dtype)
    loss = binary_distillation_loss(z, t, torch.ones(1))
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert_close(loss, torch.tensor(120.0))


def test_empty_input():
    z = torch.zeros(0, 3, requires_grad=True)
    loss = binary_distillation_loss(z, torch.zeros(0, 3), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0 and z.grad.shape == (0, 3)
