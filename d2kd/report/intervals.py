"""How far results, and the difference of two runs, depend on the test images."""

import warnings
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from ..config.loading import load_config
from ..data import first_test_set
from ..data.custom import registered
from ..errors import ConfigError
from ..evaluation import FastCOCOEvaluator
from ..evaluation.bootstrap import bootstrap, weighted_ap
from ..text import file_name
from .found import Found
from .pairs import Pair
from .runs import RunFolder, noted

_RESAMPLES, _OWN_RESAMPLES = 400, 200
_SIZES = ("bbox/APs", "bbox/APm", "bbox/APl")
Intervals = Dict[str, Tuple[float, float]]
"""Metric, such as "bbox/AP" -> ends of an interval."""


def intervals(pairs: Sequence[Pair]) -> Intervals:
    """95 % intervals of distilled minus plain, the mean of all pairs.

    {} where detections are missing, which is noted.
    """
    found = [x for pair in pairs for run in pair if (x := found_by(run))]
    if not found or len(found) < 2 * len(pairs):
        return {}
    ap = bootstrap([x.matches[0] for x in found], max(100, _RESAMPLES // len(pairs)))
    measures = _measures(ap, found[0].classes)
    return _ends({k: (x[:, ::2] - x[:, 1::2]).mean(1) for k, x in measures.items()})


def own_intervals(found: Found) -> Intervals:
    """95 % intervals of one run's AP, of all objects, by size and by class."""
    by_size = [bootstrap([x], _OWN_RESAMPLES)[:, 0] for x in found.matches]
    sizes = {k: _measures(ap, [])["bbox/AP"] for k, ap in zip(_SIZES, by_size[1:], strict=True)}
    return _ends({**_measures(by_size[0], found.classes), **sizes})


def _measures(ap: NDArray[np.float64], classes: Sequence[str]) -> Dict[str, NDArray[np.float64]]:
    """Means of AP (..., T, K): (...) for each metric; nan for samples without an object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = {"bbox/AP": np.nanmean(ap, (-2, -1)), "bbox/AP75": np.nanmean(ap[..., 5, :], -1)}
    return {**means, **{f"bbox/AP-{x}": ap[..., k].mean(-1) for k, x in enumerate(classes)}}


def _ends(samples: Dict[str, NDArray[np.float64]]) -> Intervals:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ends = {k: np.nanquantile(x, [0.025, 0.975]) for k, x in samples.items()}
    return {key: (float(low), float(high)) for key, (low, high) in ends.items()}


def found_by(run: RunFolder) -> Optional[Found]:
    """The detections of the run's last evaluation; None where they are missing, which is noted."""
    if run.found is None and "bbox/AP" in run.results:
        with noted(run, "Detections of the last evaluation"):
            run.found = _read(run)
    return run.found


def _read(run: RunFolder) -> Found:
    cfg = load_config(str(run.folder), [])
    name = first_test_set(cfg)
    folder = run.folder / "inference" / file_name(name)
    with registered(cfg):
        evaluator = FastCOCOEvaluator(name)
        classes = list(MetadataCatalog.get(name).thing_classes)
    detections = evaluator.read(folder / "coco_instances_results.json")
    found = Found(evaluator.truth, detections, classes)
    ones = np.ones(len(evaluator.truth["images"]), np.int64)
    if abs(np.nanmean(weighted_ap(found.matches[0], ones)) - run.results["bbox/AP"]) > 0.01:
        raise ConfigError(f"the detections in {folder} are not those of results.json.")
    return found
