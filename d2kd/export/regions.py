"""Faster, Mask and Cascade R-CNN as one graph of tensors."""

from typing import Any, ClassVar, List, Tuple

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from ..errors import ConfigError
from .base import Graph
from .options import Options


class Regions(Graph):
    """The detections of the stock inference, for one image: as `Detections`, and "masks".

    Masks are the probabilities (N, M, M) in [0, 1] within the boxes or, pasted, (N, H, W) bool.
    """

    limits: ClassVar = {
        "score_threshold": "test_score_thresh",
        "nms_threshold": "test_nms_thresh",
        "max_detections": "test_topk_per_image",
    }
    traced: ClassVar = True

    def __init__(self, detector: GeneralizedRCNN, options: Options) -> None:
        """See the base class."""
        super().__init__(detector, options)
        self.names = (*self.names, "masks") if _has_masks(detector) else self.names

    @classmethod
    def limited(cls, detector: Any) -> List[nn.Module]:
        """The predictor of boxes, or those of a cascade."""
        predictor = detector.roi_heads.box_predictor
        return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]

    @classmethod
    def check(cls, detector: nn.Module, options: Options) -> None:
        """See the base class."""
        name = type(detector).__name__
        if not options.nms:
            raise ConfigError(
                f"{name} cannot be exported without NMS: it selects its proposals by NMS as well."
            )
        if options.dynamic_batch or options.dynamic_size:
            raise ConfigError(
                f"{name} is written for one image of one size: leave dynamic_batch and "
                "dynamic_size (--dynamic-batch, --dynamic-size) out."
            )
        if options.topk is not None:
            raise ConfigError(f"topk is for dense detectors; {name} has proposals: leave it out.")
        if options.masks == "pasted" and not _has_masks(detector):
            raise ConfigError(f"masks='pasted' is for Mask R-CNN; this {name} has no masks.")

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """An image (1, 3, H, W) in 0..255 to the tensors of `names`."""
        found = self.detector.inference([{"image": image[0]}], do_postprocess=False)[0]
        found = found[found.pred_boxes.nonempty()]
        boxes, outputs = found.pred_boxes.tensor, [found.scores, found.pred_classes]
        if "masks" in self.names:
            raw = found.pred_masks[:, 0]
            pasted = self.options.masks == "pasted"
            outputs.append(paste(raw, boxes, self.options.size) if pasted else raw)
        return boxes, *outputs

    def reference(self, image: Tensor) -> Tuple[Tensor, ...]:
        """See the base class; raw masks are those before the detector pastes them."""
        if "masks" not in self.names:
            return super().reference(image)
        if self.options.masks == "raw":
            return self(image)
        found = self.detector([{"image": image[0]}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks


def _has_masks(detector: Any) -> bool:
    return detector.roi_heads.mask_on


def paste(masks: Tensor, boxes: Tensor, size: Tuple[int, int]) -> Tensor:
    """Masks in the image, as Detectron2's `paste_masks_in_image`, all at once.

    That one's loop is over a number of masks that a graph does not know, and onnxruntime refuses
    what becomes of it.

    Args:
        masks: (N, M, M) probabilities in [0, 1].
        boxes: (N, 4) XYXY px.
        size: H and W, px.

    Returns:
        Tensor: (N, H, W) bool.
    """
    y, x = (torch.arange(n, dtype=boxes.dtype) + 0.5 for n in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    gx, gy = (x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1
    shape = (-1, *size)
    grid = torch.stack([gx[:, None].expand(shape), gy[:, :, None].expand(shape)], 3)
    return grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5
