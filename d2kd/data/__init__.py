"""Data sets: named in yaml, checked before training, cleaned, read in a reproducible order."""

from .boxes import clean_boxes
from .builtin import register_builtin_datasets
from .catalog import check_datasets, dataset_num_classes, load_dataset
from .custom import add_data_config, register_custom_datasets
from .loader import build_train_loader, first_test_set, labelled_test_data
from .mapper import BadImageError, build_mapper
from .workers import loader_workers

__all__ = [
    "BadImageError",
    "add_data_config",
    "build_mapper",
    "build_train_loader",
    "check_datasets",
    "clean_boxes",
    "dataset_num_classes",
    "first_test_set",
    "labelled_test_data",
    "load_dataset",
    "loader_workers",
    "register_custom_datasets",
]

register_builtin_datasets()
