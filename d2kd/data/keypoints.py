"""Key points of annotations."""

import logging
from typing import Any

from ..errors import ConfigError

logger = logging.getLogger(__name__)


def with_keypoints(records: list[dict[str, Any]], count: int, name: str) -> list[dict[str, Any]]:
    """Records whose objects all have `count` key points: unseen ones where they have others.

    Args:
        records: in Detectron2's format; they are not modified.
        count: K, as in MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS.
        name: of the data set, for the warning that counts these objects.

    Raises:
        ConfigError: objects have key points, and none has K.
    """
    found = [len(a.get("keypoints", ())) for x in records for a in x.get("annotations", ())]
    lacking = sum(x != 3 * count for x in found)
    if lacking == len(found) and any(found):
        raise ConfigError(
            f"{name} has objects of {max(found) // 3} key points, and none of {count}: set "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS to the data's, or MODEL.KEYPOINT_ON False."
        )
    if not lacking:
        return records
    logger.warning(
        f"{name}: {lacking:,} of {len(found):,} objects do not have {count} key points; theirs are "
        "taken as unseen."
    )
    return [{**x, "annotations": [_filled(a, count) for a in x.get("annotations", ())]}
            for x in records]  # fmt: skip


def _filled(annotation: dict[str, Any], count: int) -> dict[str, Any]:
    if len(annotation.get("keypoints", ())) == 3 * count:
        return annotation
    return {**annotation, "keypoints": [0.0] * (3 * count)}


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
