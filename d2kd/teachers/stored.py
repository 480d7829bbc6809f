"""A teacher that is a file of detections, without a network."""

from typing import List, Optional

import torch
from detectron2.config import CfgNode

from ..adapters import DetectorAdapter, DetectorOutput, DetectorSpec
from ..adapters.sets import of_labels
from ..data.detections import offline_detections, offline_file


class StoredAdapter(DetectorAdapter):
    """What methods are checked against: sets, and nothing else."""

    provides = frozenset({"sets"})

    def __init__(self, num_classes: int) -> None:
        """Set the number of classes."""
        self._count = num_classes

    def spec(self) -> DetectorSpec:
        """See the base class."""
        return DetectorSpec("stored detections", {}, self._count)


class StoredSets:
    """Sets of boxes that came with the images of a batch; their class and score alone are known.

    Attributes:
        classes: names, in order.
        adapter: see `StoredAdapter`.
    """

    def __init__(self, classes: List[str]) -> None:
        """Set the names of the classes of the file."""
        self.classes, self.adapter = classes, StoredAdapter(len(classes))

    def __call__(self, batched_inputs: List[dict], student: DetectorOutput) -> DetectorOutput:
        """The sets of a batch.

        Args:
            batched_inputs: dicts with "set", rows (n, 6) of XYXY px, score and class; an image
                without one has no boxes.
            student: output on the same images.
        """
        device, nothing = student.images.device, torch.zeros(0, 6)
        rows = [x.get("set", nothing).to(device, non_blocking=True) for x in batched_inputs]
        columns = [x[:, :4] for x in rows], [x[:, 4] for x in rows], [x[:, 5].long() for x in rows]
        sets = of_labels(*columns, num_classes=len(self.classes))
        return DetectorOutput(student.images, student.adapter, {}, sets=sets)


def build_stored(cfg: CfgNode) -> Optional[StoredSets]:
    """The teacher of DISTILL.SetKD.OFFLINE; None without one.

    Raises:
        ConfigError: the file cannot be read, or is of another format.
    """
    return StoredSets(list(offline_detections(cfg).classes)) if offline_file(cfg) else None
