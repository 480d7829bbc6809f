"""Deformable convolution against plain convolution, where the offsets make them comparable."""

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch.nn.functional import conv2d
from torchvision.ops import deform_conv2d

from d2kd.backbones.deform import DeformConv2d, make_deformable
from d2kd.backbones.sampled_conv import sampled_conv2d


def inputs(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(modulated=False, groups=1, **options):
    torch.manual_seed(0)
    options = {"padding": 1, "bias": False, **options}
    conv = Conv2d(4, 6, 3, **options).double()
    return conv, make_deformable(conv, modulated, groups).double()


@pytest.mark.parametrize("deform_groups", [1, 2])
@pytest.mark.parametrize("options", [
    {}, {"stride": 2}, {"padding": 2, "dilation": 2}, {"groups": 2, "bias": True},
    {"norm": get_norm("GN", 32), "activation": torch.relu, "out": 32},
])  # fmt: skip
def test_zero_offsets_are_the_plain_convolution(options, deform_groups):
    options = {"padding": 1, **options}
    conv = Conv2d(4, options.pop("out", 6), 3, **options).double()
    deformable = make_deformable(conv, False, deform_groups).double()
    assert deformable.offset.out_channels == 18 * deform_groups
    x = inputs(2, 4, 7, 9)
    torch.testing.assert_close(deformable(x), conv(x))


def test_modulation_starts_at_one_half():
    conv, deformable = make(modulated=True, groups=2)
    assert deformable.offset.out_channels == 2 * 27
    torch.testing.assert_close(deformable(inputs(1, 4, 6, 6)), conv(inputs(1, 4, 6, 6)) / 2)
    with torch.no_grad():
        deformable.offset.bias[36:] = 50.0  # the last third, sigmoid 1
    torch.testing.assert_close(deformable(inputs(1, 4, 6, 6)), conv(inputs(1, 4, 6, 6)))


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_are_y_before_x(modulated):
    """All points moved by y = 1 and x = -2 see the input at (row + 1, column - 2)."""
    conv, deformable = make(modulated)
    with torch.no_grad():
        deformable.offset.bias[0:18:2], deformable.offset.bias[1:18:2] = 1.0, -2.0
    x = inputs(1, 4, 8, 10)
    expected = conv(x)[:, :, 2:7, 1:7] / (2 if modulated else 1)
    torch.testing.assert_close(deformable(x)[:, :, 1:6, 3:9], expected)


def test_each_point_has_its_own_offset_and_weight():
    """The last point, moved from (1, 1) to the centre, adds its weights to the centre's."""
    conv, deformable = make(modulated=True)
    with torch.no_grad():
        deformable.offset.bias[16:18] = -1.0
        deformable.offset.bias[18:] = 50.0
        deformable.offset.bias[18] = -50.0  # the first point is switched off
    weight = conv.weight.detach().clone()
    weight[:, :, 1, 1] += weight[:, :, 2, 2]
    weight[:, :, 2, 2] = weight[:, :, 0, 0] = 0
    x = inputs(1, 4, 6, 6)
    torch.testing.assert_close(deformable(x), conv2d(x, weight, padding=1))


def test_groups_move_apart():
    conv, deformable = make(groups=2)
    with torch.no_grad():
        deformable.offset.bias[19:36:2] = 1.0  # x of the second half of the channels
    x = inputs(1, 4, 6, 8)
    moved = torch.cat([x[:, :2, :, :-1], x[:, 2:, :, 1:]], 1)
    torch.testing.assert_close(deformable(x)[:, :, 1:5, 1:6], conv(moved)[:, :, 1:5, 1:6])


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients(modulated):
    """Of the input, weight and offsets; half a pixel from the kinks of bilinear sampling."""
    _, deformable = make(modulated)
    with torch.no_grad():
        deformable.offset.weight.normal_(std=0.01)
        deformable.offset.bias.fill_(0.5)
    x = inputs(1, 4, 4, 4).requires_grad_()
    deformable(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (x, *deformable.parameters()))
    assert torch.autograd.gradcheck(deformable, (inputs(1, 4, 3, 3).requires_grad_(),))


def test_state_dict_and_shared_parameters():
    conv, deformable = make(norm=get_norm("BN", 6))
    names = {"weight", "offset.weight", "offset.bias"}
    norm = {f"norm.{k}" for k in conv.norm.state_dict()}
    assert set(deformable.state_dict()) == names | norm
    assert deformable.weight is conv.weight and deformable.norm is conv.norm
    assert not any(p.any() for p in deformable.offset.parameters())
    assert repr(DeformConv2d(4, 6, 3)).startswith("DeformConv2d(")


def test_frozen_and_mixed_precision():
    conv, _ = make()
    conv.weight.requires_grad_(False)
    frozen = make_deformable(conv.float(), True, 1)
    assert not any(p.requires_grad for p in frozen.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        half = frozen(inputs(1, 4, 6, 6).float())
    full = frozen(inputs(1, 4, 6, 6).float())
    torch.testing.assert_close(half.float(), full, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("groups", "parts", "stride", "padding", "dilation"), [
    (1, 1, (1, 1), (1, 1), (1, 1)), (2, 1, (2, 1), (1, 2), (1, 1)), (1, 2, (1, 1), (2, 1), (2, 1)),
])  # fmt: skip
def test_samples_and_matrices_are_the_operator(groups, parts, stride, padding, dilation, masked):
    """Values and gradients, with points beyond every border and on a map of one column."""
    rng = torch.Generator().manual_seed(0)
    for size in ((7, 9), (5, 1)):
        shapes = [(2, 4, *size), (6, 4 // groups, 3, 3), (6,)]
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        out = conv2d(*(torch.zeros(x) for x in shapes), groups=groups, **geometry).shape[-2:]
        shapes += [(2, 18 * parts, *out), *([(2, 9 * parts, *out)] if masked else [])]
        x, weight, bias, offset, *mask = (
            (3 * torch.randn(shape, generator=rng, dtype=torch.float64)).requires_grad_()
            for shape in shapes
        )
        inputs = x, offset, weight, bias, *mask
        keys = {**geometry, "mask": mask[0] if masked else None}
        found, expected = (
            f(x, offset, weight, bias, **keys) for f in (sampled_conv2d, deform_conv2d)
        )
        torch.testing.assert_close(found, expected)
        grads = (torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


def test_the_numbers_of_the_operator():
    """One channel, weight 1 at the center, moved by (0.5, -0.25), on 10 row + column."""
    x = (10 * torch.arange(5.0)[:, None] + torch.arange(5)).view(1, 1, 5, 5)
    offset, weight = torch.zeros(1, 18, 5, 5), torch.zeros(1, 1, 3, 3)
    offset[:, 8], offset[:, 9], weight[..., 1, 1] = 0.5, -0.25, 1
    offset.requires_grad_()
    out = sampled_conv2d(x, offset, weight, padding=(1, 1))[0, 0]
    torch.testing.assert_close(out[[2, 4, 0], [2, 2, 0]], torch.tensor([26.75, 20.875, 3.75]))
    out[2, 2].backward()
    torch.testing.assert_close(offset.grad[0, 8:10, 2, 2], torch.tensor([10.0, 1.0]))


def test_what_is_exported_is_the_operator():
    conv = DeformConv2d(2, 3, 3, padding=1).eval()
    torch.nn.init.normal_(conv.offset.weight)
    x = torch.rand(1, 2, 5, 7)
    program = torch.export.export(conv, (x,))
    names = [str(node.target) for node in program.graph.nodes]
    assert any("deform_conv2d" in n for n in names) and not any("grid_sampl" in n for n in names)
    torch.testing.assert_close(program.module()(x), conv(x), atol=1e-5, rtol=1e-4)
