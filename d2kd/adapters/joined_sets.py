"""The sets of several teachers as one, in the student's classes."""

import copy
from typing import Mapping

from .class_map import ClassMap
from .output import DetectorOutput
from .sets import union


def with_sets(
    outputs: Mapping[int, DetectorOutput], maps: Mapping[int, ClassMap], threshold: float
) -> DetectorOutput:
    """The first of several outputs with all their sets as one, in the student's classes.

    Args:
        outputs: by the teacher's index.
        maps: by index, of teachers whose classes are not the student's.
        threshold: see `union`; a single set stays as it is.
    """
    sets = [maps[i].of_sets(x.sets) if i in maps else x.sets for i, x in outputs.items()]
    out = copy.copy(next(iter(outputs.values())))
    out.sets = sets[0] if len(sets) == 1 else union(sets, threshold)
    return out
