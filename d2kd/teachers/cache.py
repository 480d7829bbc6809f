"""What a frozen teacher computed on an image, kept on disk and read again."""

import hashlib
import time
from typing import Callable, FrozenSet, Iterable, List

import torch
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..adapters import DetectorAdapter, DetectorOutput
from ..checkpoint.values import digest as digest_of
from .cache_clock import CacheClock
from .cached_image import of_batch, of_image
from .store import TensorStore

_FORMAT = "4"


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

    def __init__(
        self, store: TensorStore, adapter: DetectorAdapter, settings: str, half: bool = False
    ) -> None:
        """Cache the outputs of one teacher.

        Args:
            store: where.
            adapter: the teacher's, with its weights filled.
            settings: text of what the outputs depend on beside the weights.
            half: keep maps in 16 bits. What is computed is rounded alike.
        """
        self._store, self._adapter, self._half = store, adapter, half
        self._settings = [_FORMAT, torch.__version__, settings, digest_of(adapter.detector)]
        self.depends_on(*["16 bits"] * half)
        self.clock = CacheClock()

    def depends_on(self, *settings: str) -> None:
        """Tell more of what the outputs depend on."""
        self._settings += settings

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
        keys = [""] * len(batched_inputs)
        if not self.clock.off:
            keys = self._keys(batched_inputs, images, need)
        known, found = [], 0
        for i, key in enumerate(keys):
            start = time.perf_counter()
            tensors = self._store.read(key) if key else None
            is_read = tensors is not None
            if tensors is None:
                image = ImageList(images.tensor[i : i + 1], [images.image_sizes[i]])
                tensors = of_image(run(image, need), need, self._half)
            # Waits for the device, so that the clock has the whole forward.
            is_new = bool(key) and not is_read and _is_finite(tensors.values())
            self.clock.add(is_read, time.perf_counter() - start)
            found += is_read
            if is_new:
                self._store.write(key, tensors)
            known.append(tensors)
        hits = found / len(keys)
        get_event_storage().put_scalar("teacher_cache/hits", hits)
        if self._store.damaged:
            damaged = self._store.damaged
            get_event_storage().put_scalar("teacher_cache/damaged", damaged, smoothing_hint=False)
        return of_batch(known, images, self._adapter, need, self._half)

    def size_of(
        self,
        images: ImageList,
        need: FrozenSet[str],
        run: Callable[[ImageList, FrozenSet[str]], DetectorOutput],
    ) -> int:
        """Bytes that are stored of the first image of a batch."""
        first = ImageList(images.tensor[:1], images.image_sizes[:1])
        return sum(x.nbytes for x in of_image(run(first, need), need, self._half).values())

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


def _is_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in tensors)
