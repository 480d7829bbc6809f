"""Frozen teachers: built from a config, filled from a checkpoint, never part of the student."""

import logging
import os
from pathlib import Path
from typing import FrozenSet, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import nn

from ..adapters import DetectorOutput, build_adapter
from ..adapters.padding import padded_size
from ..adapters.sets import usable
from ..checkpoint import load_detector, run_checkpoint
from ..config.loading import teacher_config
from ..config.naming import construct
from ..config.sources.find import published_as, published_weights
from ..errors import check_choice
from .cache import OutputCache
from .classes import teacher_classes
from .own_size import own_size_adapter
from .store import TensorStore

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
            precision: "fp32", "bf16" or "fp16", of its forward (autocast).
            channels_last: keep maps as (N, H, W, C) in memory, which many convolutions are faster
                on. Shapes stay, numbers differ by rounding.
            cache: outputs that are already known.

        Raises:
            ValueError: unknown precision.
        """
        check_choice(precision, _PRECISIONS, "DISTILL.TEACHER.PRECISION")
        self.detector = detector.eval().requires_grad_(False)
        if channels_last:
            self.detector.to(memory_format=torch.channels_last)
        self.adapter = build_adapter(detector)
        self.input_format = input_format
        self.cache = cache
        self.weights = ""  # the file or address that it was filled from
        self.size: Optional[Tuple[int, int]] = None  # short and long side (px) other than given
        self.classes: List[str] = []  # names, in order; none if they are not known
        self._dtype = _PRECISIONS[precision]

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

    def autocast(self) -> torch.autocast:
        """The context of the teacher's precision."""
        device, dtype = self.adapter.device.type, self._dtype
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def build_teacher(cfg: CfgNode, index: int = 0) -> Teacher:
    """Build and fill teacher `index` of DISTILL.TEACHER.

    The config may be plain, or itself a distillation config, whose student is then meant.

    Raises:
        FileNotFoundError: no such config or checkpoint.
        ValueError: unsafe or malformed yaml, unknown detector, or the checkpoint does not fill it.
    """
    options = cfg.DISTILL.TEACHER
    teacher_cfg = teacher_config(cfg, index)
    detector = construct(teacher_cfg, f"DISTILL.TEACHER.CONFIG_FILES[{index}]: ")
    weights, said = _checkpoint(cfg, index, teacher_cfg)
    load_detector(detector, weights, f"DISTILL.TEACHER.WEIGHTS[{index}]")
    logging.getLogger(__name__).info(
        "Teacher %d: %s from %s, weights %s",
        index, teacher_cfg.MODEL.META_ARCHITECTURE, options.CONFIG_FILES[index], said,
    )  # fmt: skip
    if text := published_as(options.CONFIG_FILES[index]):
        logging.getLogger(__name__).info("Teacher %d: %s", index, text)
    teacher = Teacher(
        detector,
        input_format=teacher_cfg.INPUT.FORMAT,
        precision=options.PRECISION,
        channels_last=options.CHANNELS_LAST,
    )
    teacher.weights = weights
    count, name = teacher.adapter.spec().num_classes, options.CONFIG_FILES[index]
    teacher.classes = teacher_classes(name, teacher_cfg, weights, count)
    if options.SIZE == "own":
        teacher.adapter = own_size_adapter(teacher.adapter, cfg, teacher_cfg)
        teacher.size = teacher.adapter.size
    if options.CACHE_DIR:
        teacher.cache = build_cache(cfg, teacher, teacher_cfg)
    return teacher


def build_cache(cfg: CfgNode, teacher: Teacher, teacher_cfg: CfgNode) -> OutputCache:
    """The cache in DISTILL.TEACHER.CACHE_DIR, of which each rank may fill its share.

    Raises:
        ValueError: the folder cannot be written to.
    """
    options = cfg.DISTILL.TEACHER
    model = teacher_cfg.MODEL.clone()
    model.WEIGHTS = ""
    formats = f"{cfg.INPUT.FORMAT} {teacher_cfg.INPUT.FORMAT}"
    size = teacher.size or ""
    settings = f"{options.PRECISION} {options.CHANNELS_LAST} {formats} {size}{model.dump()}"
    store = TensorStore(Path(options.CACHE_DIR), int(options.CACHE_GB * 1e9))
    return OutputCache(store, teacher.adapter, settings)


def teacher_weights(cfg: CfgNode, index: int) -> str:
    """Path or address of the checkpoint of teacher `index`; it is not read."""
    return _checkpoint(cfg, index, teacher_config(cfg, index))[0]


def _checkpoint(cfg: CfgNode, index: int, teacher_cfg: CfgNode) -> Tuple[str, str]:
    given, name = cfg.DISTILL.TEACHER.WEIGHTS, cfg.DISTILL.TEACHER.CONFIG_FILES[index]
    path = given[index] if index < len(given) else ""
    if not path and os.path.isdir(name):
        return run_checkpoint(name)
    path = path or published_weights(name) or teacher_cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            f"DISTILL.TEACHER.WEIGHTS[{index}] is empty and {name} sets no MODEL.WEIGHTS. Give the "
            "teacher's checkpoint: a file, a URL or a detectron2:// address."
        )
    return path, path
