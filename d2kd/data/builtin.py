"""Data sets that d2kd knows by name, under DETECTRON2_DATASETS."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from .records import read_records


def register_coco_format(name: str, json_file: str, images: str, evaluator_type: str) -> None:
    """Register a data set in COCO's json format; nothing is read until it is used.

    Args:
        name: for DATASETS.TRAIN and DATASETS.TEST.
        json_file: path.
        images: folder of the image files.
        evaluator_type: "coco" or "crowdhuman".
    """
    DatasetCatalog.register(name, lambda: read_records(name, json_file, images, "any"))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=images, evaluator_type=evaluator_type
    )


def register_builtin_datasets() -> None:
    """Register crowdhuman_train and crowdhuman_val; see datasets/README.md."""
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    folder = os.path.join(root, "crowdhuman")
    for split in ("train", "val"):
        name = f"crowdhuman_{split}"
        json_file = os.path.join(folder, "annotations", f"{name}.json")
        if name not in DatasetCatalog:
            register_coco_format(name, json_file, os.path.join(folder, "Images"), "crowdhuman")
