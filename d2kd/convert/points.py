"""What tensors do not tell about a RepPoints of mmdetection."""

import re

from ..losses.points import TRANSFORMS
from .architecture import Architecture


def transform_of(text: str, arch: Architecture) -> str:
    """How points become a box: "moment" has a tensor of its own, the others do not.

    Raises:
        ValueError: neither the tensors nor the text say it, or points are those of a grid.
    """
    if arch.first_rows == 4:
        raise ValueError(
            "Its first boxes are regressed and filled with a grid of points (use_grid_points), "
            "which is not converted."
        )
    if arch.moment:
        return "moment"
    found = re.search(r"transform_method\s*=\s*['\"](\w+)['\"]", text)
    if not found or found[1] not in TRANSFORMS[1:]:
        raise ValueError(
            "The file has no moment_transfer, so its points become boxes by minmax or "
            "partial_minmax, which tensors do not tell. Give mmdetection's config with --config."
        )
    return found[1]
