"""Evaluation on another data set, whose classes are matched by name."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch
from detectron2.structures import Instances

from ..data.class_names import matching
from ..errors import ConfigError, check_choice
from .records import RecordsEvaluator, boxes_of


@dataclass(frozen=True)
class ClassMapping:
    """Which class of a detector stands for which class of a data set.

    Attributes:
        classes: names of the data set's classes that count, in its order.
        detector_to: for each class of the detector, its place in `classes`, or -1.
        dataset_to: for each class of the data set, its place in `classes`, or -1.
        ignored_detector, ignored_dataset: names of the classes that do not count.
    """

    classes: List[str]
    detector_to: List[int]
    dataset_to: List[int]
    ignored_detector: List[str]
    ignored_dataset: List[str]


def map_classes(
    detector: Sequence[str], dataset: Sequence[str], names: Optional[Mapping[str, str]] = None
) -> ClassMapping:
    """Match classes by name.

    Args:
        detector: the detector's class names.
        dataset: the data set's.
        names: name in the detector -> name in the data set, several to one if need be; None
            matches equal names.

    Raises:
        ConfigError: an unknown name, or nothing matches.
    """
    pairs = {str(k): str(v) for k, v in (names or {}).items()}
    if names is None:
        pairs = {name: name for name in detector if name in dataset}
    for mine, theirs in pairs.items():
        check_choice(mine, detector, "classes, of the detector")
        check_choice(theirs, dataset, "classes, of the data set")
    if not pairs:
        raise ConfigError(
            f"no class of the detector ({_some(detector)}) is one of the data set "
            f"({_some(dataset)}): give classes, a map from the detector's names to the data set's."
        )
    classes = [name for name in dataset if name in pairs.values()]
    place = {name: i for i, name in enumerate(classes)}
    return ClassMapping(
        classes=classes,
        detector_to=[place[pairs[name]] if name in pairs else -1 for name in detector],
        dataset_to=[place.get(name, -1) for name in dataset],
        ignored_detector=[name for name in detector if name not in pairs],
        ignored_dataset=[name for name in dataset if name not in place],
    )


def mapping_by_name(
    detector: Sequence[str], dataset: Sequence[str], given: Sequence[Sequence[str]] = ()
) -> ClassMapping:
    """Match classes by what their names mean; see `d2kd.data.class_names.matching`.

    Args:
        detector: the detector's class names.
        dataset: the data set's.
        given: pairs (detector's name, data set's name) beside those that mean the same anyway.

    Raises:
        ConfigError: an unknown name, or nothing matches.
    """
    found = zip(dataset, matching(dataset, detector, given), strict=True)
    if not (classes := {detector[i]: name for name, js in found for i in js}):
        raise ConfigError(
            f"no class of the detector ({_some(detector, 90)}) is one of the data set "
            f"({_some(dataset, 90)}): say which mean the same in DISTILL.TEACHER.CLASS_MAP, pairs "
            "(detector's name, data set's name)."
        )
    return map_classes(detector, dataset, classes)


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def mapped_records(records: Sequence[Dict[str, Any]], mapping: ClassMapping) -> List[dict]:
    """Records of the data set with the objects that count, in the classes of the mapping."""
    result = []
    for record in records:
        kept = [
            {**x, "category_id": mapping.dataset_to[x["category_id"]]}
            for x in record.get("annotations", ())
            if mapping.dataset_to[x["category_id"]] >= 0
        ]
        result.append({**record, "annotations": kept})
    return result


class MappedEvaluator(RecordsEvaluator):
    """COCO's box metrics of a detector on a data set with other classes.

    Objects and detections of classes that are not mapped are ignored; a detection of a mapped class
    on an ignored object is a false positive. The detector's limit of detections per image counts
    the ignored ones too. "classes" in the results is the number that counts.
    """

    def __init__(self, records: Sequence[Dict[str, Any]], mapping: ClassMapping) -> None:
        """Keep the objects of the mapped classes.

        Args:
            records: of the data set, in Detectron2's format.
            mapping: see `map_classes`.
        """
        super().__init__(mapped_records(records, mapping), mapping.classes)
        self.mapping = mapping
        self._lookup = torch.tensor(mapping.detector_to)

    def process(self, inputs: List[dict], outputs: List[dict]) -> None:
        """See the base class."""
        mapped = [{"instances": self._map(boxes_of(x["instances"]))} for x in outputs]
        super().process(inputs, mapped)

    def _map(self, found: Instances) -> Instances:
        found.pred_classes = self._lookup[found.pred_classes.long()]
        return found[found.pred_classes >= 0]

    def analyse(self) -> Dict[str, Dict[str, float]]:
        """See the base class."""
        results = super().analyse()
        results["bbox"]["classes"] = len(self.class_names)
        return results
