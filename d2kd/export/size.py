"""The size of an exported file, and whether the test images fit into it."""

from typing import Any, Dict, List, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge

Size = Tuple[int, int]
"""Height and width, px."""


def resized(cfg: CfgNode, records: Sequence[Dict[str, Any]]) -> List[Size]:
    """Sizes of images as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST resize them.

    Args:
        cfg: of the student.
        records: of a data set; those without height and width are left out.
    """
    limits = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return [
        _in_pytorch((record["height"], record["width"]), limits)[0]
        for record in records
        if {"height", "width"} <= {*record}
    ]


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
