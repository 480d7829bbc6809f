"""Inference time of several detectors, measured in turns on the same images."""

import time
from itertools import chain, islice
from typing import List, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..data import build_mapper, load_dataset

ROUNDS, IMAGES = 5, 40


def first_test_images(cfg: CfgNode, count: int) -> List[dict]:
    """The first `count` records of DATASETS.TEST as model inputs, at INPUT.MIN_SIZE_TEST."""
    records = chain.from_iterable(load_dataset(name, "DATASETS.TEST") for name in cfg.DATASETS.TEST)
    mapper = build_mapper(cfg, is_train=False)
    return [mapper(record) for record in islice(records, count)]


@torch.no_grad()
def measure_inference(
    models: Sequence[nn.Module], images: Sequence[Sequence[dict]], rounds: int = ROUNDS
) -> List[float]:
    """Median time of one image, batches of one, pre- and post-processing included.

    The models take turns on every image, so that a busy machine slows all of them alike.

    Args:
        models: detectors in evaluation mode, on one device.
        images: each model's inputs, of the same images; see `first_test_images`.
        rounds: passes over the images, after one that is not counted.

    Returns:
        List[float]: milliseconds for each model.
    """
    times = np.zeros((rounds + 1, len(images[0]), len(models)))
    for index in np.ndindex(times.shape):
        _, image, model = index
        start = time.perf_counter()
        models[model]([images[model][image]])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times[index] = time.perf_counter() - start
    return [float(t) * 1000 for t in np.median(times[1:], axis=(0, 1))]
