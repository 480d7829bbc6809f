"""Which annotations of a data set are used, and what is wrong with the others."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .box_checks import check_boxes
from .findings import Finding
from .keypoints import keypoints_of
from .listing import repeated
from .masks import mask_kind


class CheckedAnnotations(NamedTuple):
    """Annotations in the order of the json file, N in all.

    Attributes:
        kept: (N,) those that are used.
        masks: the `mask_kind` of each; empty if masks are not read.
        findings: what is wrong.
    """

    kept: NDArray[np.bool_]
    masks: list[str]
    findings: list[Finding]


def check_annotations(
    coco: dict[str, Any], sizes: dict[Any, tuple[int, int] | None], masks: str = ""
) -> CheckedAnnotations:
    """Find what cannot be used, and what stops training.

    Args:
        coco: see `read_coco`.
        sizes: widths and heights (px) by image id; None if unknown.
        masks: see `read_records`.
    """
    annotations = coco["annotations"]
    names = np.empty(len(annotations), object)
    names[:] = [a.get("id", f"place {i}") for i, a in enumerate(annotations)]
    findings = _id_findings(coco)
    listed = np.array([a["image_id"] in sizes for a in annotations], bool)
    classes = {x["id"] for x in coco["categories"]}
    classless = np.array([a["category_id"] not in classes for a in annotations], bool)
    limits = np.array(
        [sizes.get(a["image_id"]) or (np.inf, np.inf) for a in annotations], float
    ).reshape(-1, 2)
    findings += [
        Finding("annotations are of images that are not listed, ids", names[~listed], "changes",
                "they are left out"),
        Finding("annotations are of classes that are not listed, ids", names[classless], "stops",
                "list the class in categories, or take them out"),
        *_flag_findings(annotations, names),
    ]  # fmt: skip
    kept, found = check_boxes([a.get("bbox") for a in annotations], limits, names, listed)
    kinds, mask_findings = _check_masks(annotations, names, kept, sizes, masks)
    findings += [*found, *mask_findings, *_side_findings(annotations, names, kept)]
    return CheckedAnnotations(kept & ~classless, kinds, findings)


def is_area(value: Any) -> bool:
    """Whether a value of "area" is a number of px^2."""
    return type(value) in (int, float) and 0 <= value < 1e15


def _id_findings(coco: dict[str, Any]) -> list[Finding]:
    images, classes = coco["images"], coco["categories"]
    return [
        Finding("image ids are used more than once", repeated(x["id"] for x in images), "stops",
                "give each image an id of its own"),
        Finding("class ids are used twice", repeated(x["id"] for x in classes), "stops",
                "give each class an id of its own"),
        Finding("class names are used twice", repeated(str(x["name"]) for x in classes), "stops",
                "rename one, or give the objects of both one category id and take the other out"),
    ]  # fmt: skip


def _flag_findings(annotations: list[dict[str, Any]], names: NDArray[Any]) -> list[Finding]:
    crowds = [a.get("iscrowd", 0) for a in annotations]
    wrong = [f"{n} ({x!r})" for n, x in zip(names, crowds, strict=True) if not _is_flag(x)]
    ignored = [n for n, a in zip(names, annotations, strict=True) if a.get("ignore")]
    return [
        Finding("annotations have an iscrowd that is not 0 or 1, ids", wrong, "stops",
                "write 1 for a region of many objects, else 0"),
        Finding("annotations are marked by ignore, which is not read, ids", ignored, "stops",
                "write iscrowd 1 for what neither counts as object nor as background, or take "
                "the annotation or its ignore out"),
    ]  # fmt: skip


def _is_flag(value: Any) -> bool:
    return value is None or (type(value) in (int, float, bool) and value in (0, 1))


def _side_findings(
    annotations: list[dict[str, Any]], names: NDArray[Any], kept: NDArray[np.bool_]
) -> list[Finding]:
    areas = np.array([is_area(a.get("area")) for a in annotations], bool)
    pointed = [bool(a.get("keypoints")) and not keypoints_of(a) for a in annotations]
    return [
        Finding("objects have no area; their boxes' is taken for AP by size, ids",
                names[kept & ~areas], "changes"),
        Finding("objects have key points that are not x, y, visibility; they are left out, ids",
                names[kept & np.array(pointed, bool)], "changes"),
        Finding("annotations are there twice, with image, class and box, ids",
                _copies(annotations, names, kept)),
    ]  # fmt: skip


def _copies(
    annotations: list[dict[str, Any]], names: NDArray[Any], kept: NDArray[np.bool_]
) -> list[Any]:
    seen, copies = set(), []
    for a, name, keep in zip(annotations, names, kept, strict=True):
        what = keep and (a["image_id"], a["category_id"], *a["bbox"])
        if keep and what in seen:
            copies.append(name)
        seen.add(what)
    return copies


def _check_masks(
    annotations: list[dict[str, Any]],
    names: NDArray[Any],
    kept: NDArray[np.bool_],
    sizes: dict[Any, tuple[int, int] | None],
    masks: str,
) -> tuple[list[str], list[Finding]]:
    """Kinds of all masks, and which objects have none that can be read."""
    if not masks:
        return [], []
    segmentations = [a.get("segmentation") for a in annotations]
    kinds = [
        mask_kind(x, sizes[a["image_id"]] or (0, 0)) if keep else ""
        for x, a, keep in zip(segmentations, annotations, kept, strict=True)
    ]
    without = kept & np.array([not kind for kind in kinds], bool)
    if masks == "any":
        given = any(bool(x) for x, keep in zip(segmentations, kept, strict=True) if keep)
        what = "objects have no mask that can be read, and mask detectors refuse the set, ids"
        return kinds, [Finding(what, names[without] if given else [])]
    crowds = np.array([bool(a.get("iscrowd")) for a in annotations], bool)
    rle = ~crowds & np.array([kind == "rle" for kind in kinds], bool)
    return kinds, [
        Finding("objects without a mask", names[without], "stops",
                "give each a polygon of three points or more in px, or an RLE of its image's size, "
                "or train boxes alone with MODEL.MASK_ON False"),
        Finding("objects with an RLE as mask, ids", names[rle] if masks == "polygon" else [],
                "stops", "set INPUT.MASK_FORMAT bitmask"),
    ]  # fmt: skip
