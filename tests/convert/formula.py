"""Weights and inputs from a formula, so that two toolboxes can be given the same ones."""

import zlib

import torch

BOXES = [[2.0, 3, 40, 60], [30.0, 10, 90, 50], [50.0, 5, 70, 40], [9.0, 9, 15, 15]]
CLASSES = [0, 2, 1, 0]


def values(name: str, shape: tuple) -> torch.Tensor:
    """Tensor in [-1, 1] that depends on name, shape and nothing else."""
    count = int(torch.Size(shape).numel())
    phase = zlib.crc32(name.encode()) % 1000
    index = torch.arange(count, dtype=torch.float64)
    return torch.sin(index * 1.618 + index.square() * 0.0137 + phase).reshape(shape).float()


def weight(name: str, shape: tuple) -> torch.Tensor:
    """A tensor of a detector, scaled so that activations keep their size."""
    x = values(name, shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("integral.project"):
        return torch.arange(shape[0], dtype=torch.float32)
    if name.endswith("running_var"):
        return 1 + 0.3 * x
    if name.endswith(("running_mean", ".bias")):
        return 0.1 * x
    if name.endswith("conv_offset.weight"):
        return 0.02 * x
    if len(shape) < 2 or name.endswith("center_prior.sigma"):
        return 1 + 0.2 * x
    return x * 1.3 / (torch.Size(shape).numel() / shape[0]) ** 0.5


def image(height: int = 64, width: int = 96) -> torch.Tensor:
    """A normalized image (1, 3, height, width)."""
    return values("image", (1, 3, height, width))


def state(shapes: dict) -> dict:
    """Tensors by name, from their shapes."""
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
