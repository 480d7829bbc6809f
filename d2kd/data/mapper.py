"""Detectron2's mapper, with errors that name the image."""

import copy
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class BadImageError(ValueError):
    """An image or its annotation cannot be read; the message names the file."""


def build_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """Build a `DatasetMapper` that raises `BadImageError` for whatever it stumbles over."""
    return _NamedErrors(DatasetMapper(cfg, is_train))


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
