"""What methods that compare FPN maps share: levels, 1x1 projections, presets, boxes, maps."""

from collections import defaultdict
from typing import Callable, Dict, Iterable, List, Mapping, Tuple

import torch
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.boxes_on_cells import background_weights, clip_to_image, foreground_weights
from ..losses.precision import at_least_float
from ..losses.reduce import total
from .base import DistillationHead, common_strides
from .options import check_options


class FeatureHead(DistillationHead):
    """A method on the finest common FPN levels.

    `strides` are the levels in use (px, ascending), `project` the 1x1 convolutions of the student's
    maps by stride. Batch padding takes part, as in the released code of these methods.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        num_levels: int,
        project: str = "differing",
    ) -> None:
        """Choose the levels and build projections.

        Args:
            student, teacher: the two detectors.
            num_levels: number of common strides used, from the finest, >= 1; more than there are
                means all.
            project: "differing" widths only (ours, where a paper asks for equal ones), "all" levels
                or "none".

        Raises:
            ValueError: no common stride, or no level.
        """
        super().__init__()
        name = type(self).__name__
        check_options(name, above_zero={"NUM_LEVELS": num_levels})
        self.strides = common_strides(name, student, teacher)[:num_levels]
        self.widths = {
            s: (student.features[s].channels, teacher.features[s].channels) for s in self.strides
        }
        wanted = {"differing": lambda a, b: a != b, "all": lambda a, b: True}
        wants = wanted.get(project, lambda a, b: False)
        self.project = nn.ModuleDict(
            {str(s): nn.Conv2d(a, b, 1) for s, (a, b) in self.widths.items() if wants(a, b)}
        )

    def levels(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[int, Tuple[Tensor, Tensor]]:
        """Stride -> (projected student map, teacher map), both (N, C, H, W).

        A teacher of half precision has its maps in float32 here, as layers on top of them have.
        """
        maps = {s: at_least_float(teacher.features[s]) for s in self.strides}
        return {s: (self._projected(s, student), t) for s, t in maps.items()}

    @staticmethod
    def summed(
        levels: Dict[int, Tuple[Tensor, Tensor]],
        terms: Callable[[int, Tensor, Tensor], Iterable[Tuple[str, Tensor]]],
    ) -> Dict[str, Tensor]:
        """Sums over levels of terms that each have a name.

        Args:
            levels: stride -> (student map, teacher map).
            terms: those of a level, of its stride and both maps.
        """
        found: Dict[str, List[Tensor]] = defaultdict(list)
        for stride, (s, t) in levels.items():
            for name, value in terms(stride, s, t):
                found[name].append(value)
        return {name: total(values) for name, values in found.items()}

    def _projected(self, stride: int, student: DetectorOutput) -> Tensor:
        x, key = student.features[stride], str(stride)
        return self.project[key](x) if key in self.project else x

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference", the root mean square over channels of s - t."""
        levels = self.levels(student, teacher).items()
        alike = {k: (s, t) for k, (s, t) in levels if s.shape[1] == t.shape[1]}
        return {"difference": {k: difference_map(s, t) for k, (s, t) in alike.items()}}


def difference_map(student: Tensor, teacher: Tensor) -> Tensor:
    """Root mean square of the difference over channels: two (N, C, H, W) -> (N, H, W), >= 0."""
    return (at_least_float(student) - at_least_float(teacher)).square().mean(1).sqrt()


def boxes_on_images(student: DetectorOutput) -> List[Tensor]:
    """Objects (G, 4) of each image, XYXY px, cut to the image; G may be 0."""
    return [clip_to_image(x.gt_boxes.tensor, x.image_size) for x in student.gt]


def object_maps(
    student: DetectorOutput, features: Dict[int, Tensor]
) -> Dict[str, Dict[int, Tensor]]:
    """What the cells of maps by stride weigh: "foreground" on objects, "background" off them."""
    boxes = boxes_on_images(student)
    foreground = {
        k: foreground_weights(boxes, k, (x.shape[2], x.shape[3])) for k, x in features.items()
    }
    background = {k: background_weights(x) for k, x in foreground.items()}
    return {"foreground": foreground, "background": background}


def preset_of(
    preset: str,
    student: DetectorSpec,
    teacher: DetectorSpec,
    dense: Mapping[str, str],
    two_stage: str = "two_stage",
    other: str = "one_stage",
) -> str:
    """`preset`, or what "auto" stands for (ours).

    Args:
        preset: "auto" or a preset's name.
        student, teacher: the two detectors.
        dense: presets of dense students by their coding of boxes.
        two_stage: that of students for which `is_two_stage` holds.
        other: that of dense students of other codings.
    """
    if preset != "auto":
        return preset
    return two_stage if is_two_stage(student, teacher) else dense.get(student.box_coding, other)


def is_two_stage(student: DetectorSpec, teacher: DetectorSpec) -> bool:
    """Whether values published for two-stage students apply (ours).

    They do where the student has no dense head, or the finest common stride is 4 px.
    """
    common = set(student.features) & set(teacher.features)
    return student.num_anchors == 0 or min(common, default=0) == 4
