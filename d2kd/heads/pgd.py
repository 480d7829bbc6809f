"""PGD: Prediction-Guided Distillation for Dense Object Detection.

Yang et al., ECCV 2022 (arXiv 2203.05469).
"""

from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..detectors.assigner import image_of_box
from ..errors import check_choice
from ..losses import mean_over_ranks
from ..losses.pgd import box_tower_loss, class_tower_loss
from ..losses.reduce import total
from .base import DISTILLATION_HEAD_REGISTRY, DistillationHead, by_anchor
from .key_region import covered, key_region_weights
from .options import check_options, filled_in

_PUBLISHED = {"anchor_delta": (0.08, 9), "distance": (0.04, 30), "distribution": (0.04, 30)}
_PUBLISHED["points"] = _PUBLISHED["distance"]  # ours
_COMPAT = ("cross_image", "swapped_axes")


@DISTILLATION_HEAD_REGISTRY.register()
class PGD(DistillationHead):
    """Tower activations, where and as far as the teacher predicts the objects best from there.

    The output of the first block of both towers is compared, after its ReLU: of the class tower
    in the key regions and in the background, of the box tower in the key regions (of their own,
    where boxes count more). See `key_region_weights` for the regions, `class_tower_loss` and
    `box_tower_loss` for the losses. Locations inside an object but in no key region count for
    neither. Gradient reaches the student's trunk, FPN and these two blocks.

    Published with ATSS (IoU branch), FCOS and GFL, together with DISTILL.INIT_FROM_TEACHER
    "neck+head". Ours: RetinaNet, with ATSS's values; RepPoints, with FCOS's; GFLv2's joint score as
    the class score; a 1x1 convolution on the student's activations where tower widths differ; batch
    padding weighs nothing, also for FCOS; counts of the box term over all ranks (`all_ranks`).

    `compat` brings back defects of the released code, with which the published numbers were most
    likely made: "cross_image" weighs every image by the sum of all images' class maps,
    "swapped_axes" takes y for x in the inside test of FCOS.
    """

    requires = frozenset("cls_taps reg_taps scores logits deltas anchors valid gt".split())

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        alpha: float = -1.0,
        beta: float = -1.0,
        gamma: float = -1.0,
        delta: float = 8e-4,
        temperature: float = 0.8,
        top_k: int = -1,
        cls_exponent: float = 0.8,
        reg_exponent: float = 0.6,
        level_weights: Sequence[float] = (1.0, 1.25, 1.5, 1.75, 2.0),
        compat: Sequence[str] = (),
        all_ranks: bool = True,
    ) -> None:
        """Set the options and build projections where tower widths differ.

        Args:
            student, teacher: the two detectors.
            alpha: weight of objects in the class tower; -1 for the published 0.08 of anchor deltas
                or 0.04 of distances, distributions and points.
            beta: weight of the background; -1 for alpha / 2.
            gamma: weight of the box tower; -1 for 1.6 * alpha.
            delta: weight of the attention terms.
            temperature: of the attention, > 0.
            top_k: size of a key region; -1 for the published 9 of anchor deltas or 30 otherwise.
            cls_exponent, reg_exponent: share of the IoU in the quality, in [0, 1], for the class
                tower and for the box tower.
            level_weights: of objects and background, from the finest level on.
            compat: any of "cross_image" and "swapped_axes".
            all_ranks: see above.

        Raises:
            ValueError: an option out of range, or a detector without tower blocks.
        """
        super().__init__()
        self.alpha, self.top_k = filled_in((alpha, top_k), _PUBLISHED[teacher.box_coding])
        self.beta, self.gamma = filled_in((beta, gamma), (self.alpha / 2, 1.6 * self.alpha))
        self.delta, self.temperature = delta, temperature
        self.exponents = cls_exponent, reg_exponent
        self.level_weights = tuple(level_weights)[: len(student.features)]
        self.cross_image = "cross_image" in compat
        self.swap_axes = "swapped_axes" in compat and teacher.box_coding == "distance"
        self.per_cell, self.all_ranks = teacher.num_anchors, all_ranks
        self._check(student, teacher, compat)
        widths = student.tower_width, teacher.tower_width
        self.project = nn.ModuleList(
            nn.Conv2d(*widths, 1) for _ in range(2 if widths[0] != widths[1] else 0)
        )

    def _check(self, student: DetectorSpec, teacher: DetectorSpec, compat: Sequence[str]) -> None:
        weights = {"ALPHA": self.alpha, "BETA": self.beta, "GAMMA": self.gamma, "DELTA": self.delta}
        above_zero = {"TEMPERATURE": self.temperature, "TOP_K": self.top_k}
        check_options("PGD", above_zero=above_zero, terms=weights)
        for name in compat:
            check_choice(name, _COMPAT, "DISTILL.PGD.COMPAT")
        for key, value in zip(("CLS_EXPONENT", "REG_EXPONENT"), self.exponents, strict=True):
            if not 0 <= value <= 1:
                raise ValueError(f"DISTILL.PGD.{key} must be from 0 to 1, not {value}.")
        if len(self.level_weights) < len(student.features):
            raise ValueError(
                f"DISTILL.PGD.LEVEL_WEIGHTS has {len(self.level_weights)} entries, but the "
                f"detectors have {len(student.features)} levels; give one for each."
            )
        if not min(student.num_convs, teacher.num_convs):
            raise ValueError(
                "DISTILL.HEADS: PGD compares the first block of the towers, but student or teacher "
                "has none; set NUM_CONVS to at least 1, or use BCKD."
            )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns "cls" and "reg"."""
        cls_maps, reg_maps, background = self.weight_maps(student, teacher)
        counts = torch.stack([x.count_nonzero() for x in reg_maps.values()]).float()
        counts = (mean_over_ranks(counts) if self.all_ranks else counts).clamp(min=1e-6)
        most = self.top_k * max(len(x) for x in student.gt)
        cls, reg = [], []
        for level, stride in enumerate(cls_maps):
            weight = self.alpha * _shares(cls_maps[stride])
            weight = weight + self.beta * _shares(background[stride].float())
            weight = weight * self.level_weights[level]
            if self.cross_image:
                weight = weight.sum(0, keepdim=True).expand_as(weight)
            a, b = self._activations(student, teacher, 0, stride)
            cls.append(class_tower_loss(a, b, weight, self.delta, self.temperature))
            a, b = self._activations(student, teacher, 1, stride)
            weights = self.gamma, self.delta, self.temperature
            reg.append(box_tower_loss(a, b, reg_maps[stride], counts[level], most, *weights))
        return {"cls": total(cls), "reg": total(reg)}

    @torch.no_grad()
    def weight_maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Tuple[Dict[int, Tensor], Dict[int, Tensor], Dict[int, Tensor]]:
        """Weights of the class and the box tower, and the background, by stride (N, H * W).

        Weights are in {0} or (0, 1]; the background is bool, True outside all objects.
        """
        boxes = [x.gt_boxes.tensor for x in student.gt]
        gt, images = torch.cat(boxes), image_of_box(boxes)
        rows = torch.stack([images, torch.cat([x.gt_classes for x in student.gt])])
        levels = [x.get_centers()[:: self.per_cell] for x in teacher.anchors.values()]
        points, valid = torch.cat(levels), by_anchor(student.valid)[:, :: self.per_cell]
        scores, predicted = by_anchor(teacher.scores), by_anchor(teacher.adapter.decode(teacher))
        maps = key_region_weights(
            scores, predicted, points, valid, gt, rows, self.exponents, self.top_k, self.swap_axes
        )
        inside = covered(points, gt, images, len(boxes), self.swap_axes)
        cells = [len(x) for x in levels]
        cls, reg, background = (
            dict(zip(teacher.anchors, x.split(cells, dim=1), strict=True))
            for x in (*maps, valid & ~inside)
        )
        return cls, reg, background

    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class."""
        names = "classification weight", "regression weight", "background"
        shapes = {s: x.shape[-2:] for s, x in student.features.items()}
        return {
            name: {s: x.view(len(x), *shapes[s]) for s, x in levels.items()}
            for name, levels in zip(names, self.weight_maps(student, teacher), strict=True)
        }

    def _activations(
        self, student: DetectorOutput, teacher: DetectorOutput, tower: int, stride: int
    ) -> Tuple[Tensor, Tensor]:
        a, b = ((x.cls_taps, x.reg_taps)[tower][stride][0].relu() for x in (student, teacher))
        return (self.project[tower](a) if self.project else a), b


def _shares(weight: Tensor) -> Tensor:
    """Each image's weights (N, P) over the number of those that are not 0."""
    return weight / weight.count_nonzero(dim=1)[:, None].clamp(min=1)
