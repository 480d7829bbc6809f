"""FGD: Focal and Global Knowledge Distillation for Detectors.

Yang et al., CVPR 2022 (arXiv 2111.11837). Values are those of the released configs.
"""

from functools import partial
from typing import Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.boxes_on_cells import background_weights, foreground_weights
from ..losses.focal_global import attention, attention_distance, guided_error, relation_distance
from ..losses.precision import at_least_float
from .base import DISTILLATION_HEAD_REGISTRY
from .global_context import GlobalContext
from .options import check_options, filled_in
from .projection import FeatureHead, boxes_on_images, object_maps, preset_of


class Values(NamedTuple):
    """Weights of the terms, T of the attention, number of levels."""

    alpha: float
    beta: float
    gamma: float
    relation: float
    temperature: float
    levels: int


_PUBLISHED = {
    "two_stage": Values(5e-5, 2.5e-5, 5e-5, 5e-7, 0.5, 4),
    "one_stage": Values(1e-3, 5e-4, 5e-4, 5e-6, 0.5, 5),
    "fcos": Values(1.6e-3, 8e-4, 8e-4, 8e-6, 0.8, 5),
    "reppoints": Values(1.6e-3, 8e-4, 8e-4, 8e-6, 0.5, 5),
}
_OF_CODING = {"distance": "fcos", "points": "reppoints"}


@DISTILLATION_HEAD_REGISTRY.register()
class FGD(FeatureHead):
    """Objects and background apart, where the teacher looks, and how the cells of a map relate.

    With S and K the attention over cells and channels (`losses.focal_global`) and m_fg, m_bg the
    weights of the cells on objects and off them (`losses.boxes_on_cells`), terms of a level are

    - "fg", "bg": alpha / N and beta / N times sum of m S(t) K(t) (s - t)^2, m one of the two;
    - "attention": gamma / N times sum of the absolute differences of S and of K;
    - "relation": lambda / N times sum of (s + g_s - t - g_t)^2, g trained `GlobalContext` blocks.

    They are sums over channels, so the published weights mean 256 of them. Published (alpha, beta,
    gamma, lambda, T, levels): two_stage (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5, 4), one_stage (1e-3, 5e-4,
    5e-4, 5e-6, 0.5, 5), fcos (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8, 5), reppoints the same with T 0.5;
    all with gradients clipped at norm 35 and, for a teacher of the same family,
    DISTILL.INIT_FROM_TEACHER "neck+head".

    Ours: `preset` "auto"; cells are px / stride, where the released code stretches the boxes of an
    image that is smaller than its batch; boxes are cut to the image, and those without area count
    for nothing; a 1x1 convolution on the student's side where the widths differ.
    """

    requires = frozenset({"features", "gt"})

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        preset: str = "auto",
        alpha: float = -1.0,
        beta: float = -1.0,
        gamma: float = -1.0,
        relation_weight: float = -1.0,
        temperature: float = -1.0,
        num_levels: int = -1,
    ) -> None:
        """Build the context blocks of both detectors; without a "relation" term there are none.

        Args:
            student, teacher: the two detectors.
            preset: "two_stage", "one_stage", "fcos" or "reppoints"; "auto" is two_stage for a
                student without a dense head or with a common stride of 4 px, fcos for one that
                predicts distances, reppoints for points, else one_stage.
            alpha, beta, gamma: weights of "fg", "bg" and "attention", >= 0; -1 for the preset's.
            relation_weight: lambda, that of "relation", >= 0; -1 for the preset's.
            temperature: T > 0; -1 for the preset's.
            num_levels: number of common strides used, from the finest; -1 for the preset's.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        check_options("FGD", choices={"PRESET": (preset, ("auto", *_PUBLISHED))})
        preset = preset_of(preset, student, teacher, _OF_CODING)
        given = Values(alpha, beta, gamma, relation_weight, temperature, num_levels)
        values = filled_in(given, _PUBLISHED[preset])
        names = "ALPHA", "BETA", "GAMMA", "RELATION_WEIGHT"
        weights = dict(zip(names, values[:4], strict=True))
        check_options("FGD", above_zero={"TEMPERATURE": values.temperature}, terms=weights)
        super().__init__(student, teacher, values.levels)
        self.values = values
        related = self.widths.items() if values.relation > 0 else ()
        self.context_student, self.context_teacher = (
            nn.ModuleDict({str(stride): GlobalContext(width) for stride, (_, width) in related})
            for _ in range(2)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns the terms of the class docstring; not those of weight 0."""
        boxes = boxes_on_images(student)
        return self.summed(self.levels(student, teacher), partial(self._level, boxes))

    def _level(
        self, boxes: List[Tensor], stride: int, s: Tensor, t: Tensor
    ) -> Iterator[Tuple[str, Tensor]]:
        """Weighted terms of one level."""
        key, values = str(stride), self.values
        s, t = at_least_float(s), at_least_float(t.detach())
        difference, guide = s - t, attention(t, values.temperature)
        if values.alpha > 0 or values.beta > 0:
            error = guided_error(difference, *guide) / len(s)
            foreground = foreground_weights(boxes, stride, (s.shape[2], s.shape[3]))
            if values.alpha > 0:
                yield "fg", values.alpha * (foreground * error).sum()
            if values.beta > 0:
                yield "bg", values.beta * (background_weights(foreground) * error).sum()
        if values.gamma > 0:
            seen = attention(s, values.temperature)
            yield "attention", values.gamma * attention_distance(seen, guide)
        if values.relation > 0:
            shift = self.context_student[key](s) - self.context_teacher[key](t)
            yield "relation", values.relation * relation_distance(difference, shift)

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference", "foreground", "background", "teacher's attention".

        The weights of the cells on objects and off them, and S(t), of mean 1 in each image.
        """
        features, temperature = teacher.features, self.values.temperature
        used = {k: at_least_float(features[k]) for k in self.strides}
        seen = {k: attention(x, temperature)[0].unflatten(1, x.shape[2:]) for k, x in used.items()}
        both = {**super().maps(student, teacher), **object_maps(student, used)}
        return {**both, "teacher's attention": seen}
