"""What transformers' detectors compute: the maps of their encoders, boxes, probabilities."""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import box_convert

from .transformers_maps import (
    BOXES_OF_IMAGES,
    Model,
    maps_alone,
    maps_among,
    patch_grid,
    run_whole,
)


class Predicted(NamedTuple):
    """Boxes of N images with the probabilities of all classes.

    Attributes:
        boxes: (N, Q, 4) XYXY px of the padded batch.
        probabilities: (N, Q, K).
        exclusive: with that of background, which is left out, they sum to 1.
        labels: (N, Q) bool, boxes of which one class and its score alone are known: all other
            probabilities are 0; None for no box.
        known: (K,) bool, classes of which something is said; None for all.
        of_box: (N, Q, K) bool, those of which a box says something; None where `known` holds.
    """

    boxes: Tensor
    probabilities: Tensor
    exclusive: bool
    labels: Optional[Tensor] = None
    known: Optional[Tensor] = None
    of_box: Optional[Tensor] = None


class TransformersBackbone(Backbone):
    """The encoder's maps as "s<stride>"; the whole detector is in `model`.

    Where patches have no power of 2 as their side, maps are made of images resized so that a cell
    stands for the next one: a patch of 14 px for 16 px.
    """

    model: Model

    def __init__(self, model: Model) -> None:
        """Find strides and channels on a blank image."""
        super().__init__()
        self.model = model.eval()
        patch, windows = patch_grid(model.config)
        cell = 1 << (patch - 1).bit_length()
        self._divisor = math.lcm(cell * windows, 32)
        self.step = patch * windows if patch > 1 else self._divisor
        self._scale = patch / cell
        side = 2 * math.lcm(self._divisor, 64)
        blank = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
        with torch.no_grad():
            maps = maps_alone(self.model, *_inputs(blank, self._scale))
        strides = {side // x.shape[-1]: x.shape[1] for x in maps}
        self._out_features = [f"s{stride}" for stride in strides]
        self._out_feature_strides = {f"s{stride}": stride for stride in strides}
        self._out_feature_channels = {f"s{stride}": width for stride, width in strides.items()}

    @property
    def size_divisibility(self) -> int:
        """What maps need of the sides of padded images, px; detections need `step`."""
        return self._divisor

    def forward(self, image: Tensor) -> Dict[str, Tensor]:
        """The maps of a batch without padding, which is a multiple of `size_divisibility`."""
        return self.encode(ImageList(image, [tuple(image.shape[-2:])] * len(image)))

    def encode(self, images: ImageList) -> Dict[str, Tensor]:
        """The maps of a padded batch; only families that need their decoder for it run it."""
        return self._named(maps_alone(self.model, *_inputs(images, self._scale)))

    def encode_and_predict(self, images: ImageList) -> Tuple[Dict[str, Tensor], Predicted]:
        """Maps and predictions of one run."""
        pixels, mask = _inputs(images, self._scale)
        outputs = run_whole(self.model, pixels, mask)
        maps = maps_among(self.model, outputs, pixels, mask)
        return self._named(maps), _predicted(self.model, outputs, images)

    def predict_alone(self, images: ImageList) -> Predicted:
        """The predictions of `encode_and_predict`."""
        outputs = run_whole(self.model, *_inputs(images, self._scale))
        return _predicted(self.model, outputs, images)

    def predict(self, images: ImageList) -> Predicted:
        """Predictions on images as they are, padded to multiples of `step`."""
        outputs = run_whole(self.model, *_inputs(images, 1.0))
        return _predicted(self.model, outputs, images)

    def _named(self, maps: List[Tensor]) -> Dict[str, Tensor]:
        return dict(zip(self._out_features, maps, strict=True))


def _inputs(images: ImageList, scale: float) -> Tuple[Tensor, Tensor]:
    """Pixels, maybe resized, and the mask that is 1 on images and 0 in the padding."""
    pixels = images.tensor
    mask = torch.zeros_like(pixels[:, 0], dtype=torch.long)
    for row, (height, width) in zip(mask, images.image_sizes, strict=True):
        row[:height, :width] = 1
    if scale == 1:
        return pixels, mask
    size = [round(side * scale) for side in pixels.shape[-2:]]
    pixels = interpolate(pixels, size, mode="bicubic", antialias=True)
    return pixels, interpolate(mask[:, None].float(), size)[:, 0].long()


def _predicted(model: Model, outputs: Any, images: ImageList) -> Predicted:
    boxes = box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy")
    of_images = model.config.model_type in BOXES_OF_IMAGES
    sizes = images.image_sizes if of_images else [images.tensor.shape[-2:]]
    sides = torch.tensor([[width, height] * 2 for height, width in sizes])[:, None]
    boxes = boxes * sides.to(boxes.device, non_blocking=True)
    logits, classes = outputs.logits.float(), model.config.num_labels
    exclusive = logits.shape[-1] > classes  # the last one is of no object
    scores = logits.softmax(-1)[..., :classes] if exclusive else logits.sigmoid()
    return Predicted(boxes, scores, exclusive)
