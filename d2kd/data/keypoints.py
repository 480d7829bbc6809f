"""Key points of annotations."""

from typing import Any


def keypoints_of(annotation: dict[str, Any]) -> list[float]:
    """x, y, visibility of each point as Detectron2 reads them; [] if there are none.

    COCO states indices of pixels, Detectron2 places in the image: half a pixel is added.
    """
    points = annotation["keypoints"]
    if not isinstance(points, list) or len(points) % 3 or not _are_finite(points):
        return []
    return [x if i % 3 == 2 else x + 0.5 for i, x in enumerate(points)]


def _are_finite(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and abs(sum(values, 0)) < 1e12
