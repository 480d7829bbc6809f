"""Detectron2's mapper, with errors that name the image."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from fvcore.transforms.transform import Transform

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class BadImageError(ValueError):
    """An image or its annotation cannot be read; the message names the file."""


def build_mapper(cfg: CfgNode, is_train: bool, first: Sequence[Transform] = ()) -> Mapper:
    """Build a `DatasetMapper` that raises `BadImageError` for whatever it stumbles over.

    Args:
        cfg: the config.
        is_train: whether to augment the images and to keep their objects.
        first: transforms of the image as it is read, before it is resized.
    """
    if not first:
        return _NamedErrors(DatasetMapper(cfg, is_train))
    augmentations = [*first, *build_augmentation(cfg, is_train)]
    return _NamedErrors(DatasetMapper(cfg, is_train, augmentations=augmentations))


class _NamedErrors:
    """A class, since data-loader workers may have to pickle it."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.mapper(copy.copy(record))
        except Exception as error:  # decoders and annotations fail in many ways
            reason = str(error).split("\n")[0] or "no reason given"
            raise BadImageError(
                f"{record.get('file_name', 'an image')} cannot be read: {type(error).__name__}: "
                f"{reason}. Repair the file or its annotation, or take it out of the data set; in "
                "training, DATALOADER.SKIP_BAD_IMAGES True takes the next image instead."
            ) from error
