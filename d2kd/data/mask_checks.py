"""Which objects of a data set have a mask, and what follows for those that have none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box_checks import Named
from .findings import Finding
from .masks import mask_kind

_FEW = 0.01  # share of the objects that training does without, as Detectron2 does
_ADVICE = (
    "give each a polygon of three points or more in px, or an RLE of its image's size, "
    "or train boxes alone with MODEL.MASK_ON False"
)


def check_masks(
    annotations: list[dict[str, Any]],
    named: Named,
    kept: NDArray[np.bool_],
    limits: NDArray[np.float64],
    masks: str,
) -> tuple[list[str], NDArray[np.bool_], list[Finding]]:
    """Find the masks that can be read.

    Training needs no mask of a crowd, and does without a few objects that have none; an evaluation
    of masks needs them all.

    Args:
        annotations: N, in the order of the json file.
        named: gives the ids of chosen annotations, to be shown.
        kept: (N,) those whose boxes can be used.
        limits: (N, 2), widths and heights of their images, px.
        masks: see `read_records`.

    Returns:
        The `mask_kind` of each, or nothing if masks are not read; (N,) mask of the objects that are
        left out for want of one; and what was found.
    """
    lost = np.zeros(len(annotations), bool)
    if not masks:
        return [], lost, []
    segmentations = [a.get("segmentation") for a in annotations]
    kinds = [
        mask_kind(x, (size[0], size[1])) if keep else ""
        for x, size, keep in zip(segmentations, limits.tolist(), kept, strict=True)
    ]
    without = kept & np.array([not kind for kind in kinds], bool)
    objects = kept & ~np.array([bool(a.get("iscrowd")) for a in annotations], bool)
    few = (without & objects).sum() < _FEW * objects.sum()
    if masks == "any":
        given = any(bool(x) for x, keep in zip(segmentations, kept, strict=True) if keep)
        refuse = "train without them, but cannot be tested on the set" if few else "refuse the set"
        what = f"objects have no mask that can be read, and mask detectors {refuse}, ids"
        return kinds, lost, [Finding(what, named(without) if given else [])]
    if masks != "all":
        without &= objects
        lost = without & few
    rle = objects & np.array([kind == "rle" for kind in kinds], bool)
    what = "objects have no mask that can be read and are left out, ids"
    return kinds, lost, [
        Finding(what, named(lost), "changes"),
        Finding("objects without a mask", named(without & ~lost), "stops", _ADVICE),
        Finding("objects with an RLE as mask, ids", named(rle) if masks == "polygon" else [],
                "stops", "set INPUT.MASK_FORMAT bitmask"),
    ]  # fmt: skip
