"""YOLO's layout: a data.yaml, and a text file of labels for each image."""

from .convert import yolo_to_coco
from .data_yaml import find_data_yaml, image_root, read_data_yaml
from .draft import draft, has_labels, write_draft

__all__ = [
    "draft",
    "find_data_yaml",
    "has_labels",
    "image_root",
    "read_data_yaml",
    "write_draft",
    "yolo_to_coco",
]
