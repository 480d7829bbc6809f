"""Targets on their way to the device, which the host does not wait for."""

from functools import singledispatch
from typing import Any

import torch
from detectron2.structures import Boxes, Instances


def to_device(instances: Instances, device: torch.device) -> Instances:
    """A copy whose fields are on a device; `Instances.to` makes the host wait for each of them."""
    out = Instances(instances.image_size)
    for name, value in instances.get_fields().items():
        out.set(name, _moved(value, device))
    return out


@singledispatch
def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


@_moved.register
def _(value: Boxes, device: torch.device) -> Boxes:
    return type(value)(value.tensor.to(device, non_blocking=True))
