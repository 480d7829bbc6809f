"""What a cache keeps of a teacher's output on one image, and batches of that."""

from typing import Dict, FrozenSet, List

import torch
from detectron2.structures import Boxes, ImageList
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..adapters import DetectorAdapter, DetectorOutput
from ..detectors import Predicted

Tensors = Dict[str, Tensor]
_MAPS = ("features", "logits", "deltas", "quality", "valid")
_TAPS = ("cls_taps", "reg_taps")
_BOXES, _ROWS, _LABELS = "set boxes", "set probabilities", "set labels"
_EXCLUSIVE = "set is exclusive"
_SET = {_BOXES, _ROWS, _LABELS, _EXCLUSIVE}
_16_BITS = (torch.float16, torch.bfloat16)


def of_image(output: DetectorOutput, need: FrozenSet[str], half: bool) -> Tensors:
    """What is stored of the one image, on the CPU: "field/stride" or "field/stride/block".

    Args:
        output: of a batch of one image.
        need: fields that are asked for.
        half: maps in 16 bits, float16 if their numbers are in its range, otherwise bfloat16.
    """
    found = {f"{f}/{s}": x[0] for f in _MAPS for s, x in getattr(output, f).items()}
    for field in _TAPS:
        for stride, blocks in getattr(output, field).items():
            found.update({f"{field}/{stride}/{i}": x[0] for i, x in enumerate(blocks)})
    if not need & {"features", "roi", "masks"}:
        found = {name: x for name, x in found.items() if not name.startswith("features/")}
    if half:
        found = {name: _rounded(x) for name, x in found.items()}
    if "sets" in need:
        sets = output.sets
        found |= {_BOXES: sets.boxes[0], _ROWS: sets.probabilities[0]}
        found[_EXCLUSIVE] = torch.tensor(sets.exclusive)
        found |= {} if sets.labels is None else {_LABELS: sets.labels[0]}
    found.update({f"anchors/{stride}": x.tensor for stride, x in output.anchors.items()})
    return {name: x.cpu().contiguous().clone() for name, x in found.items()}


def _rounded(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    half = x.half()
    return half if half.isfinite().all() else x.bfloat16()


def of_batch(
    known: List[Tensors],
    images: ImageList,
    adapter: DetectorAdapter,
    need: FrozenSet[str],
    half: bool,
) -> DetectorOutput:
    """The output on a batch of what `of_image` gave for its images; `half` maps are float32."""
    out, device = DetectorOutput(images, adapter, {}), images.device
    if "sets" in need:
        padded = [pad_sequence([x[y] for x in known], True) for y in (_BOXES, _ROWS)]
        boxes, rows = (x.to(device) for x in padded)
        labels = None
        if _LABELS in known[0]:
            labels = pad_sequence([x[_LABELS] for x in known], True).to(device)
        out.sets = Predicted(boxes, rows, bool(known[0][_EXCLUSIVE]), labels)
    for name in sorted(known[0].keys() - _SET, key=_numbers):
        field, stride, *block = name.split("/")
        values, maps = [x[name].to(device) for x in known], getattr(out, field)
        if field == "anchors":
            maps[int(stride)] = Boxes(values[0])
            continue
        batch = torch.stack([x.float() if half and x.dtype in _16_BITS else x for x in values])
        if block:
            maps.setdefault(int(stride), []).append(batch)
        else:
            maps[int(stride)] = batch
    adapter.derive(out, need)
    return out


def _numbers(name: str) -> List[int]:
    """Stride and block: levels in order, as a detector gives them."""
    return [int(x) for x in name.split("/")[1:]]
