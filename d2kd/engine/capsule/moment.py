"""What a training step changes before the optimizer's turn, kept from its start."""

import random
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from ...detectors.loss_normalizer import moving_averages, set_moving_averages
from ...distiller import Distiller

_WORDS = 624  # of a Mersenne twister


class Moment:
    """Random states, buffers (statistics of batch norm) and averages of losses at one time.

    Parameters and frozen norms are not among them: until the optimizer's turn a step does not
    change them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Set whose moment it is: the trained model's, without its DDP wrapper."""
        student = model.student if isinstance(model, Distiller) else model
        self._detector: nn.Module = getattr(student, "detector", student)
        self._device = next(model.parameters()).device
        self._owners = [x for x in model.modules() if _may_change(x)]
        self._kept: List[Tensor] = []

    def take(self) -> None:
        """Remember all; waits for no device."""
        self._torch = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda = torch.cuda.get_rng_state(self._device)
        self._numpy: Any = np.random.get_state()
        self._python = random.getstate()
        self._averages: Dict[str, Any] = dict(moving_averages(self._detector))
        buffers = self._buffers()
        if [x.shape for x in self._kept] != [x.shape for x in buffers]:
            self._kept = [torch.empty_like(x) for x in buffers]
        if buffers:
            torch._foreach_copy_(self._kept, buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        """Let everything be as it was."""
        torch.set_rng_state(self._torch)
        if self._device.type == "cuda" and hasattr(self, "_cuda"):
            torch.cuda.set_rng_state(self._cuda, self._device)
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        set_moving_averages(self._detector, self._averages)
        for buffer, kept in zip(self._buffers(), self._kept, strict=True):
            buffer.copy_(kept)

    def _buffers(self) -> List[Tensor]:
        return [x for owner in self._owners for x in owner.buffers(recurse=False)]

    def save(self) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
        """What json holds, and tensors; without buffers, which the model's state has."""
        name, words, *rest = self._numpy
        version, numbers, gauss = self._python
        tensors = {"random.torch": self._torch}
        if hasattr(self, "_cuda"):
            tensors["random.cuda"] = self._cuda
        tensors["random.numpy"] = torch.from_numpy(words.astype(np.int64))
        tensors["random.python"] = torch.tensor(numbers, dtype=torch.int64)
        for key, value in self._averages.items():
            tensors[f"average.{key}"] = torch.as_tensor(value, dtype=torch.float64)
        return {"numpy": [name, *map(float, rest)], "python": [version, gauss]}, tensors

    def load(self, record: Dict[str, Any], tensors: Dict[str, Tensor]) -> None:
        """Take what `save` gave, with the model's buffers as they are now.

        Raises:
            LookupError, TypeError, ValueError, RuntimeError: it is nothing of the kind.
        """
        self.take()
        self._torch = tensors["random.torch"]
        if "random.cuda" in tensors:
            self._cuda = tensors["random.cuda"]
        name, position, has_gauss, gauss = record["numpy"]
        words = tensors["random.numpy"].numpy().astype(np.uint32)
        self._numpy = (name, words, int(position), int(has_gauss), gauss)
        version, gauss = record["python"]
        numbers = tuple(tensors["random.python"].tolist())
        if len(words) != _WORDS or len(numbers) != _WORDS + 1:
            raise ValueError("its random states are of another length")
        self._python = (version, numbers, gauss)
        found = {k.removeprefix("average."): x for k, x in tensors.items() if "average." in k}
        self._averages = {key: x.tolist() for key, x in found.items()}
        self.put_back()


def _may_change(module: nn.Module) -> bool:
    """Whether it has buffers of its own that are not frozen."""
    frozen = isinstance(module, FrozenBatchNorm2d)
    return not frozen and any(True for _ in module.buffers(recurse=False))
