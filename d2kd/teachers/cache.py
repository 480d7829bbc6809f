"""What a frozen teacher computed on an image, kept on disk and read again."""

import hashlib
from typing import Callable, FrozenSet, List

import torch
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import get_event_storage
from torch.nn.utils.rnn import pad_sequence

from ..adapters import DetectorAdapter, DetectorOutput
from ..checkpoint.values import digest as digest_of
from ..detectors import Predicted
from .store import Tensors, TensorStore

_MAPS = ("features", "logits", "deltas", "quality", "valid")
_TAPS = ("cls_taps", "reg_taps")
_BOXES, _ROWS, _LABELS = "set boxes", "set probabilities", "set labels"
_EXCLUSIVE = "set is exclusive"
_SET = {_BOXES, _ROWS, _LABELS, _EXCLUSIVE}
_FORMAT = "3"


class OutputCache:
    """A teacher's outputs, image by image.

    An image is known by its pixels, after augmentation, and the size that its batch is padded to;
    a cached output by that, the teacher's weights and settings, and what the heads need. Images are
    computed one by one, since the last digits of a map depend on how many are computed together:
    so a training step is the same whatever is stored already, and what it would be without a cache
    but for those digits, whatever the augmentation. How often the cache helps is another matter
    (`teacher_cache/hits` in the metrics, 0 to 1). Outputs on a student's proposals are always
    computed, from cached features.
    """

    def __init__(self, store: TensorStore, adapter: DetectorAdapter, settings: str) -> None:
        """Cache the outputs of one teacher.

        Args:
            store: where.
            adapter: the teacher's, with its weights filled.
            settings: text of what the outputs depend on beside the weights.
        """
        self._store, self._adapter = store, adapter
        self._settings = [_FORMAT, torch.__version__, settings, digest_of(adapter.detector)]

    def __call__(
        self,
        batched_inputs: List[dict],
        images: ImageList,
        need: FrozenSet[str],
        run: Callable[[ImageList, FrozenSet[str]], DetectorOutput],
    ) -> DetectorOutput:
        """The teacher's output on a batch; `run` computes it for the images that are not known.

        Args:
            batched_inputs: dicts with "image", (3, H, W) on the CPU.
            images: the same, preprocessed.
            need: field names of `DetectorOutput`.
            run: the teacher's forward.

        Raises:
            ValueError: RPN maps are asked for.
        """
        if "rpn" in need:
            raise ValueError("RPN maps are not cached; leave DISTILL.TEACHER.CACHE_DIR empty.")
        keys = self._keys(batched_inputs, images, need)
        stored = [self._store.read(key) for key in keys]
        known = []
        for i, (key, tensors) in enumerate(zip(keys, stored, strict=True)):
            if tensors is None:
                image = ImageList(images.tensor[i : i + 1], [images.image_sizes[i]])
                tensors = _of_image(run(image, need), need)
                if all(torch.isfinite(x).all() for x in tensors.values()):
                    self._store.write(key, tensors)
            known.append(tensors)
        hits = 1 - stored.count(None) / len(stored)
        get_event_storage().put_scalar("teacher_cache/hits", hits)
        if self._store.damaged:
            damaged = self._store.damaged
            get_event_storage().put_scalar("teacher_cache/damaged", damaged, smoothing_hint=False)
        return self._assemble(known, images, need)

    def _keys(
        self, batched_inputs: List[dict], images: ImageList, need: FrozenSet[str]
    ) -> List[str]:
        padded = str(tuple(images.tensor.shape[2:]))
        settings, keys = [*self._settings, images.device.type, padded, *sorted(need)], []
        settings += [str(self._adapter.least_score)] * ("sets" in need)
        for x in batched_inputs:
            digest = hashlib.blake2b("\n".join(settings).encode(), digest_size=20)
            digest.update(f"{x['image'].dtype} {tuple(x['image'].shape)}".encode())
            digest.update(x["image"].contiguous().cpu().numpy())
            keys.append(digest.hexdigest())
        return keys

    def _assemble(
        self, known: List[Tensors], images: ImageList, need: FrozenSet[str]
    ) -> DetectorOutput:
        out, device = DetectorOutput(images, self._adapter, {}), images.device
        if "sets" in need:
            padded = [pad_sequence([x[y] for x in known], True) for y in (_BOXES, _ROWS)]
            boxes, rows = (x.to(device) for x in padded)
            labels = None
            if _LABELS in known[0]:
                labels = pad_sequence([x[_LABELS] for x in known], True).to(device)
            out.sets = Predicted(boxes, rows, bool(known[0][_EXCLUSIVE]), labels)
        for name in sorted(known[0].keys() - _SET, key=_numbers):
            field, stride, *block = name.split("/")
            values, maps = [x[name] for x in known], getattr(out, field)
            if field == "anchors":
                maps[int(stride)] = Boxes(values[0].to(device))
            elif block:
                maps.setdefault(int(stride), []).append(torch.stack(values).to(device))
            else:
                maps[int(stride)] = torch.stack(values).to(device)
        self._adapter.derive(out, need)
        return out


def _of_image(output: DetectorOutput, need: FrozenSet[str]) -> Tensors:
    """What is stored of the one image, on the CPU: "field/stride" or "field/stride/block"."""
    found = {f"{f}/{s}": x[0] for f in _MAPS for s, x in getattr(output, f).items()}
    for field in _TAPS:
        for stride, blocks in getattr(output, field).items():
            found.update({f"{field}/{stride}/{i}": x[0] for i, x in enumerate(blocks)})
    if "sets" in need:
        sets = output.sets
        found |= {_BOXES: sets.boxes[0], _ROWS: sets.probabilities[0]}
        found[_EXCLUSIVE] = torch.tensor(sets.exclusive)
        found |= {} if sets.labels is None else {_LABELS: sets.labels[0]}
    if not need & {"features", "roi", "masks"}:
        found = {name: x for name, x in found.items() if not name.startswith("features/")}
    found.update({f"anchors/{stride}": x.tensor for stride, x in output.anchors.items()})
    return {name: x.cpu().contiguous().clone() for name, x in found.items()}


def _numbers(name: str) -> List[int]:
    """Stride and block: levels in order, as a detector gives them."""
    return [int(x) for x in name.split("/")[1:]]
