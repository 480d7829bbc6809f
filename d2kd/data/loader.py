"""A training loader whose images and augmentations depend on ``SEED`` alone.

Stock Detectron2 draws its augmentations from numpy's global generator (or, in workers, seeds it
from PyTorch's), which a distilled and a plain run advance differently, so the two see different
images. Here each item is numbered, and the generators are seeded from ``(SEED, number)`` while it
is read. The stream is the same for every ``NUM_WORKERS`` and, taken over all ranks, every number
of GPUs (``DATALOADER.ASPECT_RATIO_GROUPING`` then forms the batches per rank, as stock
Detectron2 does without workers).
"""

import contextlib
import logging
import random
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from ..errors import ConfigError
from .boxes import clean_boxes
from .carried import with_detections
from .catalog import load_labelled, require_registered
from .mapper import BadImageError, ImageMapper, Mapper, build_mapper
from .small_boxes import say_small_boxes
from .unlabelled import unlabelled_records
from .workers import loader_workers

logger = logging.getLogger(__name__)


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> Iterable[list[dict[str, Any]]]:
    """Build Detectron2's training loader on checked data sets and cleaned boxes.

    With ``SEED`` >= 0 two loaders give the same images, bit for bit, whatever else draws random
    numbers; with a negative one, all ranks share a random seed.

    Args:
        cfg: the config; ``register_custom_datasets`` has been called on it.
        start_iter: iterations to skip, for a resumed run. What follows is what an uninterrupted
            run would have had; with another number of ranks, all ranks together get the same
            images, unless ``DATALOADER.ASPECT_RATIO_GROUPING`` is on.

    Returns:
        An endless iterable of lists of ``SOLVER.IMS_PER_BATCH`` / world size mapped records.
    """
    records = with_detections(cfg, [*_train_records(cfg), *unlabelled_records(cfg)])
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = _build_sampler(cfg, records, seed)
    batch = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    by_shape = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    groups: list[Hashable] = [
        (by_shape and r.get("width", 0) > r.get("height", 0), r.get("unlabelled", False))
        for r in records
    ]
    return build_detection_train_loader(
        _SeededDataset(records, build_mapper(cfg, True), seed, cfg.DATALOADER.SKIP_BAD_IMAGES),
        mapper=None,
        sampler=_BatchedSampler(sampler, groups, batch, start_iter),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,  # the sampler does it
        num_workers=loader_workers(cfg),
        seed=seed,
    )


def first_test_set(cfg: CfgNode) -> str:
    """The name ``DATASETS.TEST[0]``.

    Raises:
        ConfigError: there is none.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name a data set there, or a folder with --data.")
    return cfg.DATASETS.TEST[0]


def labelled_test_data(cfg: CfgNode) -> tuple[list[dict[str, Any]], Mapper]:
    """Records of ``DATASETS.TEST[0]``, images without objects too, and a `labelled_mapper`."""
    return load_labelled(cfg, first_test_set(cfg), "DATASETS.TEST"), labelled_mapper(cfg)


def labelled_mapper(cfg: CfgNode) -> Mapper:
    """A mapper that keeps objects; images are resized as for testing and not augmented."""
    size = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return ImageMapper(cfg, is_train=True, augmentations=[size])


def _train_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Read, check, clean and filter all data sets of ``DATASETS.TRAIN``."""
    require_registered(cfg, "TRAIN")
    records = []
    for name in cfg.DATASETS.TRAIN:
        records += clean_boxes(load_labelled(cfg, name, "DATASETS.TRAIN"), name)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [
            r for r in records if not all(a.get("iscrowd", 0) for a in r.get("annotations", ()))
        ]
    if not records:
        raise ValueError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: no image has a box that is not a crowd, "
            "and DATALOADER.FILTER_EMPTY_ANNOTATIONS drops the others. Check the annotations."
        )
    say_small_boxes(cfg, records)
    return records


def _build_sampler(cfg: CfgNode, records: list[dict[str, Any]], seed: int) -> Sampler[int]:
    """Build ``DATALOADER.SAMPLER_TRAIN``, seeded."""
    name, loader = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if name == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = loader.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, loader.REPEAT_THRESHOLD, sqrt=loader.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}: use TrainingSampler, RandomSubsetTrainingSampler "
        "or RepeatFactorTrainingSampler."
    )


class _BatchedSampler(Sampler[int]):
    """Yield ``number * size + index``, the number counting the item over all ranks, in batches.

    Images wait until their group (wide or not, labelled or not) fills a batch; the first ``skip``
    batches are left out.
    """

    def __init__(
        self, sampler: Sampler[int], groups: Sequence[Hashable], batch: int, skip: int
    ) -> None:
        self.sampler, self.groups, self.batch, self.skip = sampler, groups, batch, skip

    def __iter__(self) -> Iterator[int]:
        rank, world, size = comm.get_rank(), comm.get_world_size(), len(self.groups)
        waiting: dict[Hashable, list[int]] = {group: [] for group in set(self.groups)}
        done = 0
        for step, index in enumerate(self.sampler):
            group = waiting[self.groups[index]]
            group.append((step * world + rank) * size + index)
            if len(group) == self.batch:
                if done >= self.skip:
                    yield from group
                done += 1
                group.clear()


class _SeededDataset(Dataset[dict[str, Any]]):
    """Map the records with generators seeded by (seed, number)."""

    def __init__(self, records: list[dict], mapper: Mapper, seed: int, skip: bool = False) -> None:
        self.records = DatasetFromList(records, copy=False)  # serialized: workers share its memory
        self.mapper, self.seed, self.skip = mapper, seed, skip
        self.unlabelled = [x.get("unlabelled", False) for x in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> dict[str, Any]:
        number, index = divmod(item, len(self))
        kind = self.unlabelled[index]
        for place in (x % len(self) for x in range(index, index + len(self))):
            if self.unlabelled[place] != kind:  # its batch is of one kind
                continue
            try:
                with seeded(self.seed, number):
                    return self.mapper(self.records[place])
            except BadImageError as error:
                if not self.skip:
                    raise
                logger.warning("%s (skipped)", error)
        key = "DATASETS.UNLABELLED" if kind else "DATASETS.TRAIN"
        raise BadImageError(f"DATALOADER.SKIP_BAD_IMAGES: no image of {key} can be read.")


@contextlib.contextmanager
def seeded(seed: int, number: int) -> Iterator[None]:
    """Seed numpy's and Python's global generators, and give them their state back."""
    states = np.random.get_state(), random.getstate()
    try:
        np.random.seed([seed, number])
        random.seed(f"{seed} {number}")
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
