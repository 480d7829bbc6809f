"""Detectron2's mapper, on the pixels of the one reader and with errors that name the image."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import build_augmentation, check_image_size
from detectron2.data.transforms import AugInput
from fvcore.transforms.transform import Transform

from .carried import carried
from .pixels import PixelError, read_pixels

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class BadImageError(ValueError):
    """An image or its annotation cannot be read; the message names the file."""

    def __init__(self, text: str) -> None:
        """Take what to say; PyTorch puts a worker's traceback before it, which is the cause."""
        traceback, _, said = text.rpartition("BadImageError: ")
        super().__init__(said.strip())
        self.__cause__ = RuntimeError(traceback) if traceback else None


def build_mapper(cfg: CfgNode, is_train: bool, first: Sequence[Transform] = ()) -> Mapper:
    """Build an `ImageMapper`.

    Args:
        cfg: the config.
        is_train: whether to augment the images and to keep their objects.
        first: transforms of the image as it is read, before it is resized.
    """
    if not first:
        return ImageMapper(cfg, is_train)
    return ImageMapper(cfg, is_train, augmentations=[*first, *build_augmentation(cfg, is_train)])


class ImageMapper(DatasetMapper):
    """A `DatasetMapper` that reads images as all of d2kd does: see `read_pixels`.

    For pictures with 8 bits its results are Detectron2's, bit by bit.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record to a model's input; see `DatasetMapper`.

        Raises:
            BadImageError: the image or its annotations cannot be read.
        """
        try:
            return self._map(copy.deepcopy(dataset_dict))
        except Exception as error:  # decoders and annotations fail in many ways
            raise BadImageError(
                f"{_reason(dataset_dict.get('file_name', 'an image'), error)}. Repair the file or "
                "its annotation, or take it out of the data set; in training, "
                "DATALOADER.SKIP_BAD_IMAGES True takes the next image instead."
            ) from error

    def _map(self, record: dict[str, Any]) -> dict[str, Any]:
        image = read_pixels(record["file_name"], self.image_format)
        check_image_size(record, image)
        labels = record.pop("sem_seg_file_name", None)
        inputs = AugInput(image, sem_seg=labels and read_pixels(labels, "L").squeeze(2))
        transforms = self.augmentations(inputs)
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if labels:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype("long"))
        if "set" in record:
            rows = carried(record["set"], transforms, inputs.image.shape[:2])
            record["set"] = torch.as_tensor(rows)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, inputs.image.shape[:2])
        return record


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, PixelError):
        return str(error)
    reason = str(error).split("\n")[0] or "no reason given"
    return f"{name} cannot be read: {type(error).__name__}: {reason}"
