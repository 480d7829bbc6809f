"""Which annotations of a data set are used, and what is wrong with the others."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .box_checks import Named, check_boxes
from .findings import Finding
from .keypoints import keypoints_of
from .listing import repeated
from .mask_checks import check_masks


class CheckedAnnotations(NamedTuple):
    """Annotations in the order of the json file, N in all.

    Attributes:
        kept: (N,) those that are used.
        areas: (N,) those whose "area" is a number of px^2.
        masks: the `mask_kind` of each; empty if masks are not read.
        findings: what is wrong.
    """

    kept: NDArray[np.bool_]
    areas: NDArray[np.bool_]
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
    named = partial(_ids_of, annotations)
    images = _places(list(sizes), [a["image_id"] for a in annotations])
    classes = _places(
        [x["id"] for x in coco["categories"]], [a["category_id"] for a in annotations]
    )
    known = [*sizes.values(), None]  # the last one for place -1
    limits = np.array([size or (np.inf, np.inf) for size in known], np.float64)[images]
    findings = [
        *_id_findings(coco, named),
        Finding("annotations are of images that are not listed, ids", named(images < 0), "changes",
                "they are left out"),
        Finding("annotations are of classes that are not listed, ids", named(classes < 0), "stops",
                "list the class in categories, or take them out"),
        *_flag_findings(annotations),
    ]  # fmt: skip
    kept, found = check_boxes([a.get("bbox") for a in annotations], limits, named, images >= 0)
    kinds, lost, mask_findings = check_masks(annotations, named, kept, limits, masks)
    kept &= ~lost
    areas = _are_areas([a.get("area") for a in annotations])
    what = "objects have no area; their boxes' is taken for AP by size, ids"
    findings += [*found, *mask_findings, *_keypoint_findings(annotations, named, kept)]
    findings.append(Finding(what, named(kept & ~areas), "changes"))
    return CheckedAnnotations(kept & (classes >= 0), areas, kinds, findings)


def _ids_of(annotations: list[dict[str, Any]], chosen: NDArray[np.bool_]) -> list[Any]:
    """Ids of the chosen annotations (N), or their places where they have none."""
    return [_id_of(annotations, int(i)) for i in np.flatnonzero(chosen)]


def _id_of(annotations: list[dict[str, Any]], place: int) -> Any:
    return annotations[place].get("id", f"place {place}")


def _places(known: list[Any], values: list[Any]) -> NDArray[np.int64]:
    """(N,) place of each value in a list, -1 where it is not in it."""
    places = {value: i for i, value in enumerate(known)}
    return np.fromiter((places.get(value, -1) for value in values), np.int64, len(values))


def _are_areas(values: list[Any]) -> NDArray[np.bool_]:
    if not set(map(type, values)) <= {int, float}:
        values = [x if type(x) in (int, float) else -1 for x in values]
    return np.array([0 <= x < 1e15 for x in values], bool)


def _id_findings(coco: dict[str, Any], named: Named) -> list[Finding]:
    images, classes = coco["images"], coco["categories"]
    linked = np.isin(np.arange(len(coco["annotations"])), coco["linked"])
    return [
        Finding("annotations write the id of their image or class in another way than it is "
                "listed, and are taken as of that one, ids", named(linked), "changes"),
        Finding("image ids are used more than once", repeated(x["id"] for x in images), "stops",
                "give each image an id of its own"),
        Finding("class ids are used twice", repeated(x["id"] for x in classes), "stops",
                "give each class an id of its own"),
        Finding("class names are used twice", repeated(str(x["name"]) for x in classes), "stops",
                "rename one, or give the objects of both one category id and take the other out"),
    ]  # fmt: skip


def _flag_findings(annotations: list[dict[str, Any]]) -> list[Finding]:
    crowds = [a.get("iscrowd", 0) for a in annotations]
    wrong = [i for i, x in enumerate(crowds) if x != 0 and not _is_flag(x)]
    ignored = [i for i, a in enumerate(annotations) if a.get("ignore")]
    return [
        Finding("annotations have an iscrowd that is not 0 or 1, ids",
                [f"{_id_of(annotations, i)} ({crowds[i]!r})" for i in wrong],
                "stops", "write 1 for a region of many objects, else 0"),
        Finding("annotations are marked by ignore, which is not read, ids",
                [_id_of(annotations, i) for i in ignored], "stops",
                "write iscrowd 1 for what neither counts as object nor as background, or take "
                "the annotation or its ignore out"),
    ]  # fmt: skip


def _is_flag(value: Any) -> bool:
    return value is None or (type(value) in (int, float, bool) and value in (0, 1))


def _keypoint_findings(
    annotations: list[dict[str, Any]], named: Named, kept: NDArray[np.bool_]
) -> list[Finding]:
    wrong = [bool(a.get("keypoints")) and not keypoints_of(a) for a in annotations]
    what = "objects have key points that are not x, y, visibility; they are left out, ids"
    return [Finding(what, named(kept & np.array(wrong, bool)), "changes")]
