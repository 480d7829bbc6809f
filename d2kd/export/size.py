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
    found = (
        (record["height"], record["width"])
        for record in records
        if {"height", "width"} <= {*record}
    )
    if not cfg.INPUT.MIN_SIZE_TEST:
        return list(found)
    return [ResizeShortestEdge.get_output_shape(*size, *limits) for size in found]


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
