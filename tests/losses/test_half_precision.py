"""Every loss on float16 inputs as large and as many as a training of 800 x 1344 px has.

Inside they compute in float32: values are those of the same inputs in float32, to float32's own
rounding, and so are gradients, to the rounding of float16, in which an input's gradient is.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import d2kd.losses
from d2kd.losses import (
    attention,
    auto_assign,
    box,
    boxes_on_cells,
    detkds,
    distribution,
    divergence,
    feature,
    focal,
    focal_global,
    maskd,
    pgd,
    points,
    reduce,
    region,
    sets,
)

HEIGHT, WIDTH = 200, 336  # cells of P2, 67,200
CELLS, BOXES, CLASSES = HEIGHT * WIDTH, 500, 80
UNTRIED = {  # of whole numbers, between ranks, or a step of others, which give it float32
    "labels.foreground", "labels.positives_per_batch", "level_factors.level_factors",
    "precision.at_least_float", "precision.no_autocast", "reduce.total", "reduce.mean_over_ranks",
    "reduce.sum_over_ranks", "boxes_on_cells.has_area", "detkds.channel_scale", "detkds.unit",
    "stable.log1p", "stable.softplus", "box.boxes_around", "box.side_distances",
    "box.centers",
}  # fmt: skip


def normal(limit, *shape):
    return (torch.randn(shape) * limit / 3).clamp(-limit, limit)


def maps(channels=4, height=HEIGHT, width=WIDTH, count=2):
    """Features up to 1000 of a student and a teacher."""
    return [normal(1000, 1, channels, height, width) for _ in range(count)]


def wide():
    """As many channels as pyramids have, on a small level of two images."""
    return [torch.cat([x, x.flip(3)]) for x in maps(256, 13, 21)]


def logits(*shape):
    return normal(50, *shape)


def pixels(*shape):
    """Boxes inside of an image of 800 x 1344 px."""
    low = torch.rand(*shape, 2) * torch.tensor([1000.0, 600.0])
    return torch.cat([low, low + 1 + torch.rand(*shape, 2) * torch.tensor([340.0, 199.0])], -1)


def probabilities(*shape):
    return torch.rand(shape)


def on_cells(x):
    """A weight of each cell of a map, constant."""
    return torch.rand(len(x), *x.shape[2:])


ON_MAPS = {  # a loss of a student's map s and a teacher's t
    "attention.spatial_pool": lambda s, t: attention.spatial_pool(s, absolute=True),
    "attention.channel_pool": lambda s, t: attention.channel_pool(s, absolute=True),
    "attention.spatial_mask": lambda s, t: attention.spatial_mask([s, t], 0.1),
    "attention.channel_mask": lambda s, t: attention.channel_mask([s, t], 0.1),
    "attention.masked_distance": attention.masked_distance,
    "detkds.global_distance": detkds.global_distance,
    "detkds.region_distance": lambda s, t: detkds.region_distance(s, t, on_cells(s), "channel"),
    "detkds.instance_distance": lambda s, t: detkds.instance_distance(
        s, t, [pixels(4 * BOXES // s.shape[1]) for _ in s], 4
    ),
    "divergence.softened_kl": lambda s, t: divergence.softened_kl(s.flatten(2), t.flatten(2)),
    "feature.pearson_loss": feature.pearson_loss,
    "feature.instance_norm_loss": feature.instance_norm_loss,
    "feature.instance_norm": lambda s, t: feature.instance_norm(s),
    "feature.cosine_distance": feature.cosine_distance,
    "feature.align_channels": feature.align_channels,
    "focal_global.attention": lambda s, t: focal_global.attention(s, 0.5),
    "focal_global.attention_distance": lambda s, t: focal_global.attention_distance(
        focal_global.attention(s, 0.5), focal_global.attention(t, 0.5)
    ),
    "focal_global.guided_error": lambda s, t: focal_global.guided_error(
        s, *focal_global.attention(t.detach(), 0.5)
    ),
    "focal_global.relation_distance": lambda s, t: focal_global.relation_distance(
        s, t[:, :, 0, 0].float()
    ),
    "maskd.shifted_sums": lambda s, t: maskd.shifted_sums(s),
    "maskd.token_masks": lambda s, t: maskd.token_masks(s, torch.randn(2, s.shape[1]) / 1000),
    "maskd.weighted_mse": lambda s, t: maskd.weighted_mse(s, t, on_cells(s)),
    "maskd.pooled_convolution": lambda s, t: maskd.pooled_convolution(
        s, torch.randn(2, s.shape[1], 3, 3), torch.zeros(2)
    ),
    "pgd.class_tower_loss": lambda s, t: pgd.class_tower_loss(
        s, t, on_cells(s).flatten(1), 0.03, 0.8
    ),
    "pgd.box_tower_loss": lambda s, t: pgd.box_tower_loss(
        s, t, on_cells(s).flatten(1), torch.tensor(500.0), BOXES, 0.02, 0.03, 0.8
    ),
    "reduce.l2_norm": lambda s, t: reduce.l2_norm(s),
}  # fmt: skip

ON_OTHERS = {  # a loss, and what makes its inputs
    "auto_assign.bag_loss": (
        lambda c, p: auto_assign.bag_loss(c, p, torch.randint(BOXES, c.shape), BOXES),
        lambda: [probabilities(CELLS), probabilities(CELLS)],
    ),
    "auto_assign.joint_negative_loss": (
        lambda z, o: auto_assign.joint_negative_loss(z, o, probabilities(*z.shape)),
        lambda: [logits(CELLS, 4), logits(CELLS, 1)],
    ),
    "auto_assign.negative_factors": (
        lambda o: auto_assign.negative_factors(o, torch.randint(BOXES, o.shape), BOXES),
        lambda: [probabilities(CELLS)],
    ),
    "auto_assign.prior_loss": (
        lambda p: auto_assign.prior_loss(p, torch.randint(2, p.shape), torch.tensor([BOXES, 1])),
        lambda: [probabilities(CELLS)],
    ),
    "box.box_area": (lambda b: box.box_area(b[:, :2], b[:, 2:]), lambda: [pixels(BOXES)]),
    "box.box_iou_loss": (box.box_iou_loss, lambda: [pixels(BOXES), pixels(BOXES)]),
    "box.intersection_and_union": (
        lambda a, b: box.intersection_and_union(a[:, None], b[None]),
        lambda: [pixels(BOXES), pixels(BOXES)],
    ),
    "boxes_on_cells.background_weights": (
        boxes_on_cells.background_weights, lambda: [torch.zeros(1, HEIGHT, WIDTH)]
    ),
    "boxes_on_cells.cells_of_boxes": (
        lambda b: boxes_on_cells.cells_of_boxes(b, 4), lambda: [pixels(BOXES)]
    ),
    "boxes_on_cells.clip_to_image": (
        lambda b: boxes_on_cells.clip_to_image(b, (800, 1344)), lambda: [pixels(BOXES)]
    ),
    "boxes_on_cells.foreground_weights": (
        lambda b: boxes_on_cells.foreground_weights([b], 4, (HEIGHT, WIDTH)),
        lambda: [torch.cat([pixels(BOXES), torch.tensor([[0.0, 0, 1344, 800]])])],
    ),
    "distribution.distribution_focal_loss": (
        lambda z: distribution.distribution_focal_loss(z, 16 * probabilities(len(z), 4)),
        lambda: [logits(4 * BOXES, 68)],
    ),
    "distribution.integral": (distribution.integral, lambda: [logits(4 * BOXES, 68)]),
    "divergence.binary_distillation_loss": (
        lambda s, t: divergence.binary_distillation_loss(s, t, probabilities(CELLS)),
        lambda: [logits(CELLS, 4), logits(CELLS, 4)],
    ),
    "divergence.class_gap": (
        divergence.class_gap, lambda: [logits(CELLS, 4), logits(CELLS, 4)]
    ),
    "focal.class_focal_loss": (
        lambda z: focal.class_focal_loss(z, torch.randint(-1, 5, (CELLS,))),
        lambda: [logits(CELLS, 4)],
    ),
    "focal.joint_quality_focal_loss": (
        lambda z, q: focal.joint_quality_focal_loss(z, q, probabilities(*z.shape)),
        lambda: [logits(CELLS, 4), logits(CELLS, 1)],
    ),
    "focal.quality_focal_loss": (
        lambda z: focal.quality_focal_loss(z, probabilities(*z.shape)), lambda: [logits(CELLS, 4)]
    ),
    "maskd.cell_weights": (
        lambda m: maskd.cell_weights(m, torch.tensor([[0.4, 0.6]])),
        lambda: [probabilities(1, 2, HEIGHT, WIDTH)],
    ),
    "maskd.dice": (maskd.dice, lambda: [probabilities(1, 2, HEIGHT, WIDTH)]),
    "maskd.weighted_mask": (
        lambda m: maskd.weighted_mask(m, torch.tensor([[0.4, 0.6]])),
        lambda: [probabilities(1, 2, HEIGHT, WIDTH)],
    ),
    "points.boxes_of_points": (
        lambda p: points.boxes_of_points(p, "moment"), lambda: [800 * probabilities(CELLS, 18)]
    ),
    "region.decoupled_kl": (
        lambda s, t: region.decoupled_kl(s, t, torch.randint(CLASSES, (BOXES,))),
        lambda: [logits(BOXES, CLASSES + 1), logits(BOXES, CLASSES + 1)],
    ),
    "region.relation_losses": (
        region.relation_losses,
        lambda: [logits(BOXES, CLASSES + 1), logits(BOXES, CLASSES + 1)],
    ),
    "region.mask_divergence": (
        region.mask_divergence, lambda: [logits(BOXES, 28, 28), logits(BOXES, 28, 28)]
    ),
    "sets.region_targets": (
        lambda p: sets.region_targets(p, torch.rand(len(p)) > 0.5),
        lambda: [probabilities(BOXES, CLASSES)],
    ),
    "sets.set_class_loss": (
        lambda z: sets.set_class_loss(z, probabilities(*z.shape), probabilities(len(z))),
        lambda: [logits(CELLS, 4)],
    ),
    "sets.soft_cross_entropy": (
        lambda z: sets.soft_cross_entropy(z, probabilities(*z.shape)),
        lambda: [logits(BOXES, CLASSES + 1)],
    ),
}  # fmt: skip


def result(loss, inputs):
    """What it gives, a list, and the gradient of a weighted sum, by a factor of that."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    torch.manual_seed(1)
    values = [x for x in tree_leaves(loss(*inputs)) if isinstance(x, torch.Tensor)]
    total = sum((x.double() * torch.rand_like(x)).sum() for x in values)

    def gradients(factor):
        found = torch.autograd.grad(total * factor, inputs, retain_graph=True, allow_unused=True)
        return [x for x in found if x is not None]

    return values, gradients if total.requires_grad else lambda factor: []


def scale(gradients):
    """As a scaler would find it: the largest gradient is near a thousand."""
    largest = max((x.abs().max() for x in gradients), default=torch.ones(()))
    return 1000 / largest.clamp(min=1e-9)


def check(loss, inputs):
    inputs = [x.half() for x in inputs]
    values, gradients = result(loss, inputs)
    expected, expected_gradients = result(loss, [x.float() for x in inputs])
    assert {x.dtype for x in values} == {torch.float32}
    assert all(x.isfinite().all() for x in values)
    assert_close(values, expected, rtol=1e-6, atol=0)
    factor = scale(expected_gradients(1.0))
    for x, y in zip(gradients(factor), expected_gradients(factor), strict=True):
        assert_close(x.float(), y, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("size", [maps, wide])
@pytest.mark.parametrize("name", ON_MAPS)
def test_on_maps(name, size):
    torch.manual_seed(0)
    check(ON_MAPS[name], size())


@pytest.mark.parametrize("name", ON_OTHERS)
def test_on_predictions(name):
    torch.manual_seed(0)
    loss, inputs = ON_OTHERS[name]
    check(loss, inputs())


def test_none_is_left_out():
    found = set()
    for module in pkgutil.iter_modules(d2kd.losses.__path__):
        for name, x in vars(importlib.import_module(f"d2kd.losses.{module.name}")).items():
            own = getattr(x, "__module__", "") == f"d2kd.losses.{module.name}"
            if inspect.isfunction(x) and own and not name.startswith("_"):
                found.add(f"{module.name}.{name}")
    assert found == set(ON_MAPS) | set(ON_OTHERS) | UNTRIED
