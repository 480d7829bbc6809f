"""A teacher that sees images at its own size, whose maps are brought to the student's cells."""

import copy
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .base import DetectorAdapter
from .output import DetectorOutput, DetectorSpec
from .padding import Size


def resize(image: Tensor, size: Size) -> Tensor:
    """An image (3, H, W) in 0..255 whose sides fit the shorter and the longest of `size`, px."""
    shape = ResizeShortestEdge.get_output_shape(*image.shape[-2:], *size)
    return F.interpolate(image.float()[None], shape, mode="bilinear", antialias=True)[0]


class OwnSizeAdapter(DetectorAdapter):
    """Another adapter's features, of the student's images resized to the size of its training.

    The level of stride s of the resized image stands for the stride s / 2^shift of the student's
    image: cells of the same width in both, up to a factor of the square root of 2. Its map is
    sampled bilinearly where the student's cells have their centers, and is 0 in batch padding.
    Boxes of its set come back to the student's px. Other predictions belong to other cells, so
    there are none.
    """

    def __init__(self, adapter: DetectorAdapter, size: Size, shift: int) -> None:
        """Wrap an adapter.

        Args:
            adapter: of the teacher.
            size: its images' shorter side, px, and what the longer one may have at most.
            shift: log2 of how much larger its images are, rounded.
        """
        self._adapter, self.size, self._shift = adapter, size, shift
        self.detector = adapter.detector
        self.provides = frozenset({"features", "gt"}) | (adapter.provides & {"sets"})

    @property
    def backbone(self) -> Backbone:
        """The detector's backbone."""
        return self._adapter.backbone

    @property
    def divisor(self) -> int:
        """It asks nothing of the student's padding."""
        return 1

    def spec(self) -> DetectorSpec:
        """See the base class; strides in px of the student's images."""
        spec = self._adapter.spec()
        features = {self._stride(s): ShapeSpec(channels=x.channels, stride=self._stride(s))
                    for s, x in spec.features.items() if self._stride(s)}  # fmt: skip
        return DetectorSpec(spec.name, features, spec.num_classes)

    def _stride(self, stride: int) -> int:
        """In px of the student's images; 0 below one."""
        return int(stride * 2.0**-self._shift)

    def preprocess(
        self, batched_inputs: List[dict], divisor: int, flip_channels: bool = False
    ) -> ImageList:
        """See the base class; `divisor` is the adapter's own."""
        images = (x["image"].to(self.device, non_blocking=True) for x in batched_inputs)
        resized = [{"image": resize(x, self.size)} for x in images]
        return self._adapter.preprocess(resized, self._adapter.divisor, flip_channels)

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """See the base class."""
        self._adapter.least_score = self.least_score
        return self._adapter.forward(images, None, need & self.provides)

    def fit(self, output: DetectorOutput, sizes: Sequence[Size], padded: Size) -> DetectorOutput:
        """See the base class."""
        out = copy.copy(output)
        maps: Dict[int, Tensor] = {}
        for theirs, x in output.features.items():
            if stride := self._stride(theirs):
                maps[stride] = _sampled(x, theirs, output.images.image_sizes, stride, sizes, padded)
        out.features = maps
        if hasattr(output, "sets"):
            pairs = zip(sizes, output.images.image_sizes, strict=True)
            ratios = [[b / a for a, b in zip(theirs, ours, strict=True)] for ours, theirs in pairs]
            y, x = torch.tensor(ratios)[:, None].unbind(-1)
            sides = torch.stack([x, y, x, y], -1).to(self.device, non_blocking=True)
            out.sets = output.sets._replace(boxes=output.sets.boxes * sides)
        return out


def _sampled(
    x: Tensor,
    stride: int,
    sizes: Sequence[Tuple[int, ...]],
    wanted: int,
    student: Sequence[Size],
    padded: Size,
) -> Tensor:
    """Maps (N, C, H, W) of resized images at the centers of the cells of the student's images."""
    axes = []
    for axis, cells in enumerate(x.shape[2:]):
        count = -(-padded[axis] // wanted)
        centers = (torch.arange(count, dtype=torch.float32) + 0.5) * wanted
        ratio = torch.tensor([a[axis] / b[axis] for a, b in zip(sizes, student, strict=True)])
        there = ratio[:, None] * centers / (cells * stride) * 2 - 1
        inside = centers - wanted / 2 < torch.tensor([b[axis] for b in student])[:, None]
        axes.append((there.to(x.device, non_blocking=True), inside.to(x.device, non_blocking=True)))
    (y, rows), (across, columns) = axes
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], y[:, :, None]), -1)
    found = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    return (found * (rows[:, None, :, None] & columns[:, None, None, :])).to(x.dtype)
