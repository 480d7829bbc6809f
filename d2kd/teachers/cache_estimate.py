"""What a cache of a teacher's outputs will take and give, before a training."""

import math
from typing import NamedTuple

from detectron2.config import CfgNode


class CacheEstimate(NamedTuple):
    """Of a run.

    Attributes:
        nbytes: of one image.
        images: that are trained on.
        versions: of an image by size and flip; infinite where images are cropped.
        draws: how often each image is read.
    """

    nbytes: float
    images: int
    versions: float
    draws: float

    @property
    def stored(self) -> float:
        """Versions of an image that a run is expected to meet."""
        if math.isinf(self.versions):
            return self.draws
        return self.versions * -math.expm1(self.draws * math.log1p(-1 / self.versions)) \
            if self.versions > 1 else min(self.draws, 1.0)  # fmt: skip

    @property
    def size(self) -> float:
        """Bytes of all that."""
        return self.nbytes * self.images * self.stored

    @property
    def hits(self) -> float:
        """Part of the images that are found, if there is room for all and batches pad alike."""
        return max(0.0, 1 - self.stored / self.draws)

    def text(self, cfg: CfgNode) -> str:
        """For the log, of one of the config's teachers, which share DISTILL.TEACHER.CACHE_GB."""
        options = cfg.DISTILL.TEACHER
        count = len(options.CONFIG_FILES)
        shared = f", shared by {count} teachers" if count > 1 else ""
        known = "which are cropped" if math.isinf(self.versions) else (
            f"of {self.versions:g} versions by size and flip each")  # fmt: skip
        room = min(1.0, options.CACHE_GB * 1e9 / max(count * self.size, 1.0))
        return (
            f"an image takes {self.nbytes / 1e6:.2f} MB, so {self.images:,} images, {known}, "
            f"{self.size / 1e9:.2f} GB (DISTILL.TEACHER.CACHE_GB {options.CACHE_GB:g}{shared}); "
            f"this run finds at most {self.hits * room:.0%} of its images there, fewer where "
            "batches are padded to many sizes"
        )


def estimate_cache(cfg: CfgNode, images: int, nbytes: float) -> CacheEstimate:
    """The estimate for a training of a config that is alone with its folder.

    Args:
        cfg: the config.
        images: that are trained on.
        nbytes: that the outputs on one of them take.
    """
    inputs, solver = cfg.INPUT, cfg.SOLVER
    sizes = inputs.MIN_SIZE_TRAIN
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    ranged = inputs.MIN_SIZE_TRAIN_SAMPLING == "range"
    count = max(sizes) - min(sizes) + 1 if ranged else len(set(sizes))
    versions = math.inf if inputs.CROP.ENABLED else count * (1 + (inputs.RANDOM_FLIP != "none"))
    return CacheEstimate(nbytes, images, versions, solver.MAX_ITER * solver.IMS_PER_BATCH / images)
