"""DetKDS: Knowledge Distillation Search for Object Detectors.

Li et al., ICML 2024 (PMLR 235:27399). What the search found, from the released configs.
"""

from functools import partial
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.boxes_on_cells import background_weights, foreground_weights, has_area
from ..losses.detkds import global_distance, instance_distance, region_distance
from ..losses.reduce import mean_over_ranks
from .base import DISTILLATION_HEAD_REGISTRY
from .options import check_options, filled_in
from .projection import FeatureHead, boxes_on_images, object_maps, preset_of


class Values(NamedTuple):
    """Weights of the terms a level, share of the cells that are left out, number of levels."""

    whole: float
    fg: float
    bg: float
    instance: float
    mask_ratio: float
    levels: int


_PUBLISHED = {
    "gfl": Values(10, 0, 0, 0, 0.65, 5),
    "retinanet_r101": Values(6, 2, 1, 0, 0, 5),
    "retinanet_x101": Values(0, 0, 0, 50, 0.65, 5),
    "fcos": Values(5, 2, 1, 0, 0.65, 5),
    "faster_r101": Values(2, 0, 0, 0, 0.65, 4),
}
_BY_BLOCK = "retinanet_r101"
_OF_CODING = {"anchor_delta": "retinanet_r101", "distance": "fcos"}


@DISTILLATION_HEAD_REGISTRY.register()
class DetKDS(FeatureHead):
    """Absolute differences of normalized maps: whole, on objects, off them, and object by object.

    Terms of a level, each its weight times a function of `losses.detkds`, a mean over all values:

    - "global": `global_distance`, in which the images of a rank's batch are normalized together.
      It needs two of them, two ranks do not give what one process does with all their images, and
      the published 2 images per GPU (4 for retinanet_r101) belong to its weight.
    - "fg", "bg": `region_distance` of the maps times FGD's weights of the cells on objects and off
      them, of which a share, `mask_ratio`, is left out at random in each step.
    - "instance": `instance_distance`, a mean over the objects of all ranks.

    Presets as (global, fg, bg, instance, normalized by, mask ratio, levels): gfl (10, 0, 0, 0, -,
    -, 5), retinanet_r101 (6, 2, 1, 0, block, 0, 5), retinanet_x101 (0, 0, 0, 50, -, -, 5), fcos (5,
    2, 1, 0, channel, 0.65, 5) and faster_r101 (2, 0, 0, 0, -, -, 4), all with gradients clipped at
    norm 35 and with DISTILL.INIT_FROM_TEACHER "neck+head". That of RepPoints is
    gfl's. They are what the released code adds to the loss, or, for retinanet_x101, a line that is
    commented out there; faster_r101 names further terms that it drops, and the configs of other
    pairs run into errors and define none.

    Ours: `preset` "auto"; one random mask a level and step, where the released code draws four, so
    that student and teacher lose different cells; cells are px / stride and boxes cut to the image,
    see `FGD`; 0 without objects; values of 0 have no gradient where they are normalized; a 1x1
    convolution on the student's side where the widths differ.
    """

    requires = frozenset({"features", "gt"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        preset: str = "auto",
        global_weight: float = -1.0,
        fg_weight: float = -1.0,
        bg_weight: float = -1.0,
        instance_weight: float = -1.0,
        normalize: str = "preset",
        mask_ratio: float = -1.0,
        num_levels: int = -1,
    ) -> None:
        """Set the options.

        Args:
            student, teacher: the two detectors.
            preset: "gfl", "retinanet_r101", "retinanet_x101", "fcos" or "faster_r101"; "auto" is
                faster_r101 for a student without a dense head or with a common stride of 4 px,
                retinanet_r101 for one that predicts deltas of anchors, fcos for distances, else
                gfl, whose "global" alone fits all.
            global_weight, fg_weight, bg_weight, instance_weight: of the terms, >= 0; -1 for the
                preset's.
            normalize: what has norm 1 in "fg" and "bg", the values of a "channel" or of a "block";
                "preset" is block for retinanet_r101, else channel.
            mask_ratio: share of the cells that "fg" and "bg" leave out, in [0, 1); -1 for the
                preset's.
            num_levels: number of common strides used, from the finest; -1 for the preset's.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        check_options("DetKDS", choices={
            "PRESET": (preset, ("auto", *_PUBLISHED)),
            "NORMALIZE": (normalize, ("preset", "channel", "block")),
        })  # fmt: skip
        preset = preset_of(preset, student, teacher, _OF_CODING, "faster_r101", "gfl")
        given = Values(global_weight, fg_weight, bg_weight, instance_weight, mask_ratio, num_levels)
        values = filled_in(given, _PUBLISHED[preset])
        super().__init__(student, teacher, values.levels)
        self.values = _checked(values)
        self.normalize = normalize
        if normalize == "preset":
            self.normalize = "block" if preset == _BY_BLOCK else "channel"
        self.least_images = 2 if self.values.whole > 0 else 1

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns the terms of the class docstring; not those of weight 0.

        Raises:
            ValueError: one image, where there is a "global" term.
        """
        if len(student.gt) < self.least_images:
            raise ValueError(
                "DISTILL.DetKDS.GLOBAL_WEIGHT is above 0, so DetKDS compares the images of a batch "
                "with each other, but there is only one: give each rank at least 2 with "
                "SOLVER.IMS_PER_BATCH, or set GLOBAL_WEIGHT to 0 and FG_WEIGHT, BG_WEIGHT or "
                "INSTANCE_WEIGHT above 0."
            )
        boxes, number = boxes_on_images(student), None
        if self.values.instance > 0:
            number = mean_over_ranks(has_area(torch.cat(boxes)).sum().float())
        return self.summed(self.levels(student, teacher), partial(self._level, boxes, number))

    def _level(
        self, boxes: List[Tensor], number: Optional[Tensor], stride: int, s: Tensor, t: Tensor
    ) -> Iterator[Tuple[str, Tensor]]:
        """Weighted terms of one level."""
        values = self.values
        if values.whole > 0:
            yield "global", values.whole * global_distance(s, t)
        if values.fg > 0 or values.bg > 0:
            foreground = foreground_weights(boxes, stride, (s.shape[2], s.shape[3]))
            keep = torch.ones_like(foreground)
            if values.mask_ratio > 0:
                keep = torch.rand(foreground.shape, device=s.device) >= values.mask_ratio
            for name, weight, mask in (
                ("fg", values.fg, foreground),
                ("bg", values.bg, background_weights(foreground)),
            ):
                if weight > 0:
                    yield name, weight * region_distance(s, t, mask * keep, self.normalize)
        if values.instance > 0:
            distance = instance_distance(s, t, boxes, stride, number)
            yield "instance", values.instance * distance

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference", and the weights "foreground" and "background"."""
        used = {k: teacher.features[k] for k in self.strides}
        return {**super().maps(student, teacher), **object_maps(student, used)}


def _checked(values: Values) -> Values:
    names = "GLOBAL_WEIGHT", "FG_WEIGHT", "BG_WEIGHT", "INSTANCE_WEIGHT"
    weights = dict(zip(names, values[:4], strict=True))
    check_options("DetKDS", terms=weights, below_one={"MASK_RATIO": values.mask_ratio})
    return values
