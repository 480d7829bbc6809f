"""Frozen teachers, which are never part of the student."""

from typing import FrozenSet, List, Optional, Tuple

import torch
from detectron2.structures import ImageList
from torch import nn

from ..adapters import DetectorOutput, build_adapter
from ..adapters.padding import padded_size
from ..adapters.sets import usable
from ..errors import check_choice
from .cache import OutputCache

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": None}


class Teacher:
    """A frozen detector in eval mode, with its own normalization, channel order and precision.

    A plain object, not a module: optimizer, DDP, checkpoints and `.train()` do not reach it.
    """

    def __init__(
        self,
        detector: nn.Module,
        *,
        input_format: str = "BGR",
        precision: str = "fp32",
        channels_last: bool = False,
        cache: Optional[OutputCache] = None,
    ) -> None:
        """Freeze a detector.

        Args:
            detector: any detector with an adapter; changed in place.
            input_format: channel order that it was trained on, "BGR" or "RGB".
            precision: "fp32", "bf16" or "fp16", of its forward (autocast); "auto" is fp32 until it
                is settled, see `d2kd.teachers.precision`.
            channels_last: keep maps as (N, H, W, C) in memory, which many convolutions are faster
                on. Shapes stay, numbers differ by rounding.
            cache: outputs that are already known.

        Raises:
            ValueError: unknown precision.
        """
        check_choice(precision, _PRECISIONS, "DISTILL.TEACHER.PRECISION")
        self.detector = detector.eval().requires_grad_(False)
        self.undecided = precision == "auto"
        self._channels_last = channels_last
        self.adapter = build_adapter(detector)
        self.input_format = input_format
        self.cache = cache
        self.weights = ""  # the file or address that it was filled from
        self.size: Optional[Tuple[int, int]] = None  # short and long side (px) other than given
        self.classes: List[str] = []  # names, in order; none if they are not known
        self.set_precision("fp32" if self.undecided else precision)

    @torch.no_grad()
    def __call__(
        self, batched_inputs: List[dict], divisor: int, input_format: str, need: FrozenSet[str]
    ) -> DetectorOutput:
        """Run what `need` asks for, on the student's batch.

        Args:
            batched_inputs: dicts with "image", (3, H, W) in 0..255.
            divisor: padding divisor common to student and teacher, px.
            input_format: channel order of the images.
            need: field names of `DetectorOutput`.

        Returns:
            DetectorOutput: maps of the cells that the student has, whatever this teacher pads to.
        """
        images = self.preprocess(batched_inputs, divisor, input_format)
        if self.cache is not None:
            output = self.cache(batched_inputs, images, need, self.run)
        else:
            output = self.run(images, need)
        pixels = [x["image"] for x in batched_inputs]
        sizes = [(x.shape[-2], x.shape[-1]) for x in pixels]
        output = self.adapter.fit(output, sizes, padded_size(pixels, divisor))
        if "sets" in need:
            output.sets = usable(output.sets, sizes, self.adapter.least_score)
        return output

    def preprocess(self, batched_inputs: List[dict], divisor: int, input_format: str) -> ImageList:
        """The batch as the teacher was trained to see it; arguments as for a call."""
        flip = self.input_format != input_format
        return self.adapter.preprocess(batched_inputs, divisor, flip)

    def run(self, images: ImageList, need: FrozenSet[str]) -> DetectorOutput:
        """Run what `need` asks for on preprocessed images."""
        with self.autocast():
            return self.adapter.forward(images, None, need)

    @torch.no_grad()
    def add_regions(
        self, output: DetectorOutput, student: DetectorOutput, need: FrozenSet[str]
    ) -> None:
        """Fill `output.roi` and `output.masks`, as needed, on the student's proposals."""
        with self.autocast():
            self.adapter.add_regions(output, student, need)

    def look_ahead(
        self, batched_inputs: List[dict], divisor: int, input_format: str, need: FrozenSet[str]
    ) -> None:
        """Told of a batch that it will be called with; see `AheadTeacher`."""

    def set_precision(self, precision: str) -> None:
        """Compute so; where "auto" may choose, bf16 goes with maps in NHWC order."""
        self.precision, self._dtype = precision, _PRECISIONS[precision]
        last = self._channels_last or (self.undecided and precision == "bf16")
        order = torch.channels_last if last else torch.contiguous_format
        self.detector.to(memory_format=order)

    def settle(self, precision: str) -> None:
        """Compute so from now on, where that was undecided."""
        self.set_precision(precision)
        self.undecided = False
        if self.cache is not None:
            self.cache.depends_on(precision)

    def lost(self) -> str:
        """Why a run cannot go on with it; "" if it can."""
        return ""

    def drain(self) -> None:
        """Wait until nothing is computed in advance any more."""

    def close(self) -> None:
        """Told that it will not be called any more."""

    def autocast(self) -> torch.autocast:
        """The context of the teacher's precision."""
        device, dtype = self.adapter.device.type, self._dtype
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
