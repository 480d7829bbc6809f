"""The check of the data that a config names, as far as it is quick."""

from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .catalog import is_json_set
from .coco_json import read_coco
from .folder import Split
from .problems import compare_splits, find_problems

_MOST = 2_000  # images of a set that are opened


def check_data(cfg: CfgNode) -> Iterator[str]:
    """What is wrong with DATASETS.TRAIN and TEST, and what is not checked; one line for each.

    Args:
        cfg: its data sets are registered, and can be read.
    """
    splits: dict[str, Split] = {}
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        if not is_json_set(name):
            yield f"Data {name}: not checked, for a function gives it"
            continue
        metadata = MetadataCatalog.get(name)
        split = Split(Path(metadata.json_file), Path(metadata.image_root), metadata.thing_classes)
        opened = len(read_coco(split.json)["images"]) <= _MOST
        found = find_problems(split, opened, name in cfg.DATASETS.TRAIN) or ["no problem found"]
        found += ["images are not opened, for there are many: d2kd data does"] * (not opened)
        yield from (f"Data {name}: {line}" for line in found)
        splits[name] = split
    yield from (f"Data: {line}" for line in compare_splits(splits, cfg.DATASETS.TRAIN))
