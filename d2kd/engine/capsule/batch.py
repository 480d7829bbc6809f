"""A training batch as json and tensors, and back."""

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from torch import Tensor

Batch = List[Dict[str, Any]]
Tensors = Dict[str, Tensor]
_FIELDS: Dict[str, Tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "Tensor": (lambda x: x, lambda x: x),
    "Boxes": (Boxes, lambda x: x.tensor),
    "RotatedBoxes": (RotatedBoxes, lambda x: x.tensor),
    "BitMasks": (BitMasks, lambda x: x.tensor),
    "Keypoints": (Keypoints, lambda x: x.tensor),
}
"""Name of a type -> how it is made of a tensor, and the tensor of one."""

_PLAIN = "str", "int", "float", "bool", "NoneType"


def pack(batch: Batch) -> Tuple[List[Dict[str, Any]], Tensors, List[str]]:
    """What json holds of each image, tensors by name, and what neither can hold.

    Args:
        batch: as a mapper gives it: images, `Instances`, plain values.
    """
    packed, left = [], list[str]()
    tensors: Tensors = {}
    for i, record in enumerate(batch):
        found: Dict[str, Any] = {"values": {}, "tensors": [], "instances": {}}
        for key, value in record.items():
            kind = type(value).__name__
            if kind in _PLAIN:
                found["values"][key] = value
            elif kind == "Tensor":
                found["tensors"].append(key)
                tensors[f"{i}.{key}"] = value
            elif kind == "Instances":
                found["instances"][key] = _pack_instances(f"{i}.{key}", value, tensors, left)
            else:
                left.append(f"{key} of image {i} ({kind})")
        packed.append(found)
    return packed, tensors, left


def unpack(packed: List[Dict[str, Any]], tensors: Tensors) -> Batch:
    """The batch that `pack` was given.

    Raises:
        LookupError, TypeError, ValueError, AssertionError, RuntimeError: it is none.
    """
    batch = []
    for i, found in enumerate(packed):
        record = dict(found["values"])
        record |= {key: tensors[f"{i}.{key}"] for key in found["tensors"]}
        for key, kept in found["instances"].items():
            record[key] = _unpack_instances(f"{i}.{key}", kept, tensors)
        batch.append(record)
    return batch


def _pack_instances(
    name: str, value: Instances, tensors: Tensors, left: List[str]
) -> Dict[str, Any]:
    fields: Dict[str, Any] = {}
    for key, x in value.get_fields().items():
        kind = type(x).__name__
        if kind == "PolygonMasks":
            fields[key] = [kind, [[len(part) for part in parts] for parts in x.polygons]]
            numbers = [part for parts in x.polygons for part in parts]
            flat = np.concatenate([np.zeros(0), *numbers])
            tensors[f"{name}.{key}"] = torch.from_numpy(flat.astype(np.float64))
        elif kind in _FIELDS:
            fields[key] = [kind, None]
            tensors[f"{name}.{key}"] = _FIELDS[kind][1](x)
        else:
            left.append(f"{name}.{key} ({kind})")
    return {"size": list(value.image_size), "fields": fields}


def _unpack_instances(name: str, kept: Dict[str, Any], tensors: Tensors) -> Instances:
    height, width = kept["size"]
    found = Instances((int(height), int(width)))
    for key, (kind, lengths) in kept["fields"].items():
        x = tensors[f"{name}.{key}"]
        found.set(key, _polygons(lengths, x) if kind == "PolygonMasks" else _FIELDS[kind][0](x))
    return found


def _polygons(lengths: List[List[int]], numbers: Tensor) -> PolygonMasks:
    parts = iter(numbers.split([n for of_object in lengths for n in of_object]))
    return PolygonMasks([[next(parts).numpy() for _ in of_object] for of_object in lengths])
