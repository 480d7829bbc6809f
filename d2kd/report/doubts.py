"""What a reader of the page should know before believing it."""

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ..checkpoint.checkpointer import FINAL
from ..checkpoint.of_run import BEST
from ..data.catalog import FEW, few_images
from ..data.listing import listed
from ..file_io import sha256_of
from .found import Found
from .pairs import data_of
from .runs import RunFolder

_FEW_OBJECTS = 10
_LITTLE = 5  # box AP
_ADVANTAGE = "distill/teacher_advantage"


def teachers_of(runs: Sequence[RunFolder]) -> List[str]:
    """Names of the runs whose weights a distilled one read, by content."""
    read = {sha for run in runs if run.distilled for sha in _taught_by(run)}
    files = ((run.name, run.folder / x) for run in runs for x in (f"{BEST}.pth", FINAL))
    return [name for name, file in files if read and file.is_file() and sha256_of(file) in read]


def _taught_by(run: RunFolder) -> List[str]:
    """SHA-256 of the weights that it read, those where its training started aside."""
    weights, teachers = run.record.get("weights"), run.config.get("DISTILL.TEACHER.WEIGHTS")
    start = run.config.get("MODEL.WEIGHTS")
    aside = start if not isinstance(teachers, list) or start not in teachers else None
    return [str(x) for k, x in weights.items() if k != aside] if isinstance(weights, dict) else []


def doubts(runs: Sequence[RunFolder], teachers: Sequence[str]) -> List[str]:
    """A sentence each: runs that find nothing yet, weak teachers, few images, few objects."""
    found = [*_little(runs), *_weak_teachers(runs, teachers)]
    seen: Dict[str, Tuple[Any, Any]] = {}
    for run in runs:
        if run.found and (objects := _objects(run.found)) not in seen.values():
            found += [f"{run.name} was evaluated on other images than {name}: their numbers and "
                      "curves cannot be compared." for name in [*seen][:1]]  # fmt: skip
            found += [f"Test images of {run.name}: {text}." for text in _of_data(run.found)]
            seen[run.name] = objects
    return found


def _objects(found: Found) -> Tuple[Any, Any]:
    """Images, and objects with the names of their classes, whose order may be another."""
    objects = [{**x, "category_id": found.classes[x["category_id"]]}
               for x in found.truth["annotations"]]  # fmt: skip
    return found.truth["images"], objects


def _little(runs: Sequence[RunFolder]) -> List[str]:
    reached = [run.results["bbox/AP"] for run in runs if "bbox/AP" in run.results]
    return [
        f"No run reaches {_LITTLE} AP (box AP of 100): they find next to nothing yet, and what "
        "they differ by says nothing. Train for longer."
    ] * (max(reached, default=_LITTLE) < _LITTLE)


def _weak_teachers(runs: Sequence[RunFolder], teachers: Sequence[str]) -> List[str]:
    scored = [run for run in runs if "bbox/AP" in run.results]
    plain = [run for run in scored if run.name not in teachers and not run.distilled]
    pairs = [(x, y) for x in scored if x.name in teachers for y in plain
             if data_of(x, "TEST") == data_of(y, "TEST")]  # fmt: skip
    return [
        f"The teacher {x.name} (AP {x.results['bbox/AP']:.1f}) is no better than the plain student "
        f"{y.name} (AP {y.results['bbox/AP']:.1f}): it has little to teach. Train it for longer, "
        "or take a larger one."
        for x, y in pairs if x.results["bbox/AP"] <= y.results["bbox/AP"]
    ] + [
        f"{run.name}: its teacher has {-x:.1f} AP less than it, on the same images."
        for run in scored if (x := run.results.get(_ADVANTAGE, 0.0)) < 0
    ]  # fmt: skip


def _of_data(found: Found) -> List[str]:
    images = len(found.truth["images"])
    counts = np.bincount(found.judged.object_classes, minlength=len(found.classes))
    without = [found.classes[k] for k in np.flatnonzero(counts == 0)]
    few = [found.classes[k] for k in np.flatnonzero((counts > 0) & (counts < _FEW_OBJECTS))]
    return [
        *[few_images(images)] * (images < FEW),
        *listed(without, "class(es) without an object, which AP leaves out"),
        *listed(few, f"class(es) with fewer than {_FEW_OBJECTS} objects, whose AP says little"),
    ]
