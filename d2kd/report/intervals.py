"""How far the difference of two runs depends on the test images."""

import warnings
from typing import Dict, Sequence, Tuple

import numpy as np
from detectron2.data import MetadataCatalog

from ..config.loading import load_config
from ..data import first_test_set, register_custom_datasets
from ..errors import ConfigError
from ..evaluation import FastCOCOEvaluator
from ..evaluation.bootstrap import ClassMatches, bootstrap, match, weighted_ap
from ..text import file_name
from .pairs import Pair
from .runs import RunFolder, noted

_RESAMPLES = 400
Intervals = Dict[str, Tuple[float, float]]
"""Metric, such as "bbox/AP" -> ends of an interval."""


def intervals(pairs: Sequence[Pair]) -> Intervals:
    """95 % intervals of distilled minus plain, the mean of all pairs.

    {} where detections are missing, which is noted.
    """
    found = [_matches(run) for pair in pairs for run in pair]
    if not found or not all(found):
        return {}
    ap = bootstrap([list(x.values()) for x in found], max(100, _RESAMPLES // len(pairs)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # samples without an object
        measures = {"bbox/AP": np.nanmean(ap, (2, 3)), "bbox/AP75": np.nanmean(ap[:, :, 5], 2)}
        measures |= {f"bbox/AP-{name}": ap[..., k].mean(2) for k, name in enumerate(found[0])}
        changes = {k: (x[:, ::2] - x[:, 1::2]).mean(1) for k, x in measures.items()}
        ends = {k: np.nanquantile(x, [0.025, 0.975]) for k, x in changes.items()}
    return {key: (float(low), float(high)) for key, (low, high) in ends.items()}


def _matches(run: RunFolder) -> Dict[str, ClassMatches]:
    """Those of the run's last evaluation by class."""
    with noted(run, "Interval over the test images"):
        cfg = load_config(str(run.folder), [])
        register_custom_datasets(cfg)
        name = first_test_set(cfg)
        folder = run.folder / "inference" / file_name(name)
        evaluator = FastCOCOEvaluator(name)
        found = match(evaluator.truth, evaluator.read(folder / "coco_instances_results.json"))
        ap = np.nanmean(weighted_ap(found, np.ones(len(found[0].objects), np.int64)))
        if abs(ap - run.results["bbox/AP"]) > 0.01:
            raise ConfigError(f"the detections in {folder} are not those of results.json.")
        return dict(zip(MetadataCatalog.get(name).thing_classes, found, strict=True))
    return {}
