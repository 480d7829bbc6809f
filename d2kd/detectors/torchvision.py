"""The anchors of torchvision's detectors."""

from typing import List, Sequence

import torch
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class TorchvisionAnchorGenerator(DefaultAnchorGenerator):
    """Anchors at torchvision's places, in Detectron2's order: by size, then by aspect ratio.

    Detectron2's differ in two ways: cell anchors are rounded to whole px, and strides are those
    that the padded image really has, its side divided by the map's and rounded down, which is less
    than 64 and 128 px on the levels that were halved from an odd number of cells.
    """

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (), aspect_ratios: Sequence[float] = ()
    ) -> Tensor:
        """(A, 4) XYXY px around (0, 0); `sizes` in px, `aspect_ratios` height by width."""
        scales = torch.tensor(sizes, dtype=torch.float32)
        heights = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
        widths = 1 / heights
        half = torch.stack([scales.outer(widths), scales.outer(heights)], -1).flatten(0, 1) / 2
        return torch.cat([-half, half], 1).round()

    def forward(self, features: List[Tensor]) -> List[Boxes]:
        """Anchors by level, HWA boxes, XYXY px; features are (N, C, H, W), finest first."""
        first = self.strides[0]
        height, width = (cells * first for cells in features[0].shape[-2:])
        found = []
        for x, base in zip(features, self.cell_anchors, strict=True):
            rows, columns = x.shape[-2:]
            top = torch.arange(rows, device=base.device) * (height // rows)
            left = torch.arange(columns, device=base.device) * (width // columns)
            y, x_ = torch.meshgrid(top, left, indexing="ij")
            corners = torch.stack([x_, y, x_, y], -1).view(-1, 1, 4)
            found.append(Boxes((corners + base).flatten(0, 1)))
        return found
