"""The size of an exported file, and whether the test images fit into it."""

from typing import Any, Dict, Iterable, List, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge

from ..data.pixels import PixelError, image_size
from ..errors import ConfigError

Size = Tuple[int, int]
"""Height and width, px."""


def size_of(record: Dict[str, Any]) -> Size:
    """Of the image of a record of DATASETS.TEST, which is opened where the record has no size."""
    if {"height", "width"} <= {*record}:
        return record["height"], record["width"]
    try:
        width, height = image_size(record["file_name"])
    except PixelError as error:
        raise ConfigError(f"DATASETS.TEST: {error}") from None
    return height, width


def resized(cfg: CfgNode, sizes: Iterable[Size]) -> List[Size]:
    """Sizes of images as a student's INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST resize them."""
    limits = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return [_in_pytorch(size, limits)[0] for size in sizes]


def _in_pytorch(size: Size, limits: Sequence[int]) -> Tuple[Size, float]:
    """The size and the factor that MIN_SIZE_TEST and MAX_SIZE_TEST give."""
    shortest, longest = limits
    if not shortest:
        return size, 1.0
    scale = min(shortest / min(size), longest / max(size))
    return ResizeShortestEdge.get_output_shape(*size, shortest, longest), scale


def fit(size: Size, description: Dict[str, Any]) -> Tuple[Size, float]:
    """The size that an image is resized to for a file, and the factor.

    That is PyTorch's where the file has place for it, and else the largest that it has; files that
    do not say how PyTorch resizes are filled.

    Args:
        size: of the image.
        description: of the file.
    """
    place = description["size"]
    if description.get("resize"):
        wanted, scale = _in_pytorch(size, description["resize"])
        if wanted[0] <= place[0] and wanted[1] <= place[1]:
            return (max(wanted[0], 1), max(wanted[1], 1)), scale
    scale = min(place[0] / size[0], place[1] / size[1])
    return (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))), scale


def largest(sizes: Sequence[Size]) -> Size:
    """The smallest size that all of them fit into."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def about_fit(size: Size, sizes: Sequence[Size]) -> str:
    """One line: how many images fit, and the size that takes all."""
    smaller = sum(h > size[0] or w > size[1] for h, w in sizes)
    if not smaller:
        return f"size: takes all {len(sizes):,} images of DATASETS.TEST as PyTorch resizes them"
    height, width = largest(sizes)
    return (
        f"size: {smaller:,} of {len(sizes):,} images of DATASETS.TEST are larger than that and are "
        f"shrunk, which costs AP; --size {height} {width} takes all as PyTorch does"
    )
