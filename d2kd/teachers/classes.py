"""The names of a trained detector's classes."""

import contextlib
import os
from pathlib import Path
from typing import Iterator, List

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.catalog import dataset_num_classes
from ..data.class_names import recorded_classes
from ..data.coco_json import read_coco
from ..data.custom import find_path
from ..errors import ConfigError


def detector_classes(config: str, cfg: CfgNode, weights: str, count: int) -> List[str]:
    """Names of a trained detector's `count` classes, in order; [] if they are not known.

    They are looked for in the run.json beside the weights, in that of the run whose folder or file
    is `config`, in the config of a detector of transformers, and in the data sets that the config
    names.

    Args:
        config: a file or the folder of a run, or what else names the detector.
        cfg: what it holds.
        weights: the checkpoint.
        count: of the detector's classes; a list of another length is of something else.

    Raises:
        ConfigError: a run.json is damaged.
    """
    found = (names for names in _candidates(config, cfg, weights) if len(names) == count)
    return next(found, [])


def trained_classes(cfg: CfgNode) -> List[str]:
    """Names of the classes of DATASETS.TRAIN; [] if it is not registered, or cannot be read."""
    name = next(iter(cfg.DATASETS.TRAIN), "")
    if name not in DatasetCatalog:
        return []
    with contextlib.suppress(ConfigError, OSError):  # said where the data are read
        dataset_num_classes(name)
        return list(MetadataCatalog.get(name).thing_classes)
    return []


def _candidates(config: str, cfg: CfgNode, weights: str) -> Iterator[List[str]]:
    yield recorded_classes(weights)
    if os.path.exists(config):
        yield recorded_classes(config)
    yield list(cfg.MODEL.TRANSFORMERS.CLASSES)
    own = {entry[0]: entry[1] for entry in cfg.DATASETS.CUSTOM}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in own:
            with contextlib.suppress(ConfigError, KeyError, OSError):
                dataset_num_classes(name)  # some tell their classes only then
            yield MetadataCatalog.get(name).get("thing_classes", [])
            continue
        with contextlib.suppress(ConfigError, OSError):  # data that is not on this machine
            categories = read_coco(Path(find_path(own[name])))["categories"]
            yield [str(x["name"]) for x in sorted(categories, key=lambda x: x["id"])]
