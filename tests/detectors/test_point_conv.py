"""Deformable convolution: numbers worked out by hand, both ways of computing it, its ends."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import deform_conv2d

from d2kd.detectors.point_conv import conv_at_points, kernel_grid


def operator(x, points, weight):
    return deform_conv2d(x, points - kernel_grid(points).view(-1, 1, 1), weight, padding=1)


@pytest.mark.parametrize("function", [conv_at_points, operator])
def test_by_hand(function):
    x = torch.arange(5.0)[:, None] * 10 + torch.arange(5.0)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    points = kernel_grid(x).view(1, -1, 1, 1).repeat(1, 1, 5, 5)
    points[:, 8], points[:, 9] = 0.5, -0.25
    points.requires_grad_()
    found = function(x[None, None], points, weight)[0, 0]
    assert_close(found[[2, 4, 0], [2, 2, 0]], torch.tensor([26.75, 20.875, 3.75]))
    found[2, 2].backward()
    assert_close(points.grad[0, 8:10, 2, 2], torch.tensor([10.0, 1.0]))


def inputs(size, spread=3.0):
    rng = torch.Generator().manual_seed(0)
    shapes = (2, 4, *size), (2, 18, *size), (5, 4, 3, 3)
    x, points, weight = (torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes)
    return [v.requires_grad_() for v in (x, spread * points, weight)]


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 1)])
def test_both_ways_are_equal(size):
    """Values and gradients, also of points far outside and of maps smaller than the kernel."""
    values = []
    for function in (conv_at_points, operator):
        x, points, weight = inputs(size)
        points.retain_grad()
        found = function(x, points, weight)
        found.square().sum().backward()
        values.append([found, x.grad, points.grad, weight.grad])
    assert_close(values[0], values[1])


def test_gradients():
    assert torch.autograd.gradcheck(conv_at_points, inputs((2, 3), 0.7))


def test_what_is_exported_is_the_operator():
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return conv_at_points(*args)

    args = tuple(x.detach().float() for x in inputs((5, 7)))
    program = torch.export.export(Layer(), args)
    names = [str(node.target) for node in program.graph.nodes]
    assert any("deform_conv2d" in x for x in names) and not any("grid_sampl" in x for x in names)
    assert_close(program.module()(*args), conv_at_points(*args), atol=1e-4, rtol=1e-4)
