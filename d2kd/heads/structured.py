"""Structured KD: Improve Object Detection with Feature-based Knowledge Distillation.

Zhang and Ma, ICLR 2021; also cited as FBKD and FKD. Values are those of the released code.
"""

import math
from typing import Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn

from ..adapters import DetectorOutput, DetectorSpec
from ..losses.attention import (
    channel_mask,
    channel_pool,
    masked_distance,
    spatial_mask,
    spatial_pool,
)
from ..losses.precision import at_least_float
from .base import DISTILLATION_HEAD_REGISTRY
from .non_local import NORMS, build_non_local
from .options import check_options
from .projection import FeatureHead, is_two_stage
from .structured_presets import Values, resolve


@DISTILLATION_HEAD_REGISTRY.register()
class StructuredKD(FeatureHead):
    """Attention-guided and non-local distillation of FPN maps s and t, summed over common strides.

    Distances are roots of sums over all axes, the batch too. M_s and M_c are masks over cells and
    channels, the mean of the student's and the teacher's (`losses.attention`); a, A_c, A_s, A_n are
    trained adapters and NL_s, NL_t trained `NonLocal` modules, one of each a level. Terms, each
    times its weight:

    - "feat": ||sqrt(M_s M_c) (t - a(s))||. Two-stage students do without M_c.
    - "channel", "spatial": distance of the means over cells after A_c, over channels after A_s.
    - "non_local": ||NL_t(t) - A_n(NL_s(s))||. The teacher's module learns too, t is constant.

    Presets, as (feat, attention, non-local, T, M_c): one_stage (4.2e-4, 2.4e-2, 4.2e-4, 0.1, on)
    and two_stage (7e-5, 4e-3, 7e-5, 0.5, off) are those of the released code; one_stage_paper
    (4e-4, 2e-2, 4e-4, 0.5, on) and two_stage_paper (7e-5, 4e-3, 7e-5, 0.1, on) are quoted from
    memory of the paper and not verified.

    A loss of N images is sqrt(N) times that of one, so the published weights mean 2 images per GPU
    and the mean over ranks is not the loss of the whole batch; see `ref_ims_per_gpu`. Gradients do
    not fade as s nears t.

    Ours: `preset` "auto"; where the widths differ, M_c is the teacher's alone and a, A_c and A_n
    map the student's width to the teacher's; d and the pooling window by level, see
    `build_non_local`; the options `ref_ims_per_gpu` and `non_local_norm`.
    """

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        preset: str = "auto",
        feat_weight: float = -1.0,
        attention_weight: float = -1.0,
        non_local_weight: float = -1.0,
        temperature: float = -1.0,
        channel_mask: int = -1,
        mask_fuse: str = "avg",
        at_pool: str = "signed",
        ref_ims_per_gpu: int = 0,
        non_local_norm: str = "BN",
        num_levels: int = 5,
    ) -> None:
        """Build adapters and non-local modules; a term of weight 0 has none.

        Args:
            student, teacher: the two detectors.
            preset: "auto" is two_stage for a student without a dense head or with a common stride
                of 4 px, else one_stage; or "one_stage", "two_stage", "one_stage_paper",
                "two_stage_paper".
            feat_weight, attention_weight, non_local_weight: weights, >= 0; -1 for the preset's.
            temperature: T of both masks, > 0; -1 for the preset's.
            channel_mask: 1 on, 0 off, -1 the preset's.
            mask_fuse: "avg" as released, or "sum" as the paper writes it.
            at_pool: pooling of the attention transfer, "signed" as released or "abs".
            ref_ims_per_gpu: n > 0 multiplies all terms by sqrt(n / N), so that the published
                weights hold for any number N of images per GPU with n = 2; 0 as released.
            non_local_norm: "BN" as released, with each GPU's batch statistics, "SyncBN" (GPUs only
                where there are several) or "GN", for batches of one or two images.
            num_levels: number of common strides used, from the finest.

        Raises:
            ValueError: no common stride, or an option out of range.
        """
        check_options(
            "StructuredKD",
            at_least_zero={"REF_IMS_PER_GPU": ref_ims_per_gpu},
            choices={
                "CHANNEL_MASK": (str(int(channel_mask)), ("-1", "0", "1")),
                "MASK_FUSE": (mask_fuse, ("avg", "sum")),
                "AT_POOL": (at_pool, ("signed", "abs")),
                "NON_LOCAL_NORM": (non_local_norm, tuple(NORMS)),
            },
        )
        given = Values(feat_weight, attention_weight, non_local_weight, temperature, channel_mask)
        values = resolve(preset, is_two_stage(student, teacher), given)
        super().__init__(student, teacher, num_levels, "all" if values.feat > 0 else "none")
        self.values, self.mask_fuse, self.at_pool = values, mask_fuse, at_pool
        self.ref_ims_per_gpu = ref_ims_per_gpu
        self._build(non_local_norm)

    def _build(self, norm: str) -> None:
        """Adapters and non-local modules of the levels in use, for terms of weight above 0."""
        widths = list(self.widths.items())
        transferred = widths if self.values.attention > 0 else []
        related = [(i, *x) for i, x in enumerate(widths)] if self.values.non_local > 0 else []
        self.adapt_channel = _modules({s: nn.Linear(a, b) for s, (a, b) in transferred})
        self.adapt_spatial = _modules({s: nn.Conv2d(1, 1, 3, padding=1) for s, _ in transferred})
        self.adapt_non_local = _modules({s: nn.Conv2d(a, b, 1) for _, s, (a, b) in related})
        self.non_local_student, self.non_local_teacher = (
            _modules({s: build_non_local(i, ab[side], norm) for i, s, ab in related})
            for side in range(2)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput) -> Dict[str, Tensor]:
        """See the base class. Returns the terms of the class docstring."""
        levels = {s: (student.features[s], teacher.features[s].detach()) for s in self.strides}
        terms = self.summed(levels, self._level)
        batch = len(student.features[self.strides[0]])
        scale = math.sqrt(self.ref_ims_per_gpu / batch) if self.ref_ims_per_gpu > 0 else 1.0
        return {name: value * scale for name, value in terms.items()}

    def _level(self, stride: int, s: Tensor, t: Tensor) -> Iterator[Tuple[str, Tensor]]:
        """Weighted terms of one level; s is the student's raw map."""
        key, values, t = str(stride), self.values, at_least_float(t)
        if values.feat > 0:
            masks = [self._spatial_mask(s, t), *self._channel_mask(s, t)]
            yield "feat", values.feat * masked_distance(self.project[key](s), t, masks)
        if values.attention > 0:
            absolute = self.at_pool == "abs"
            (s_c, t_c), (s_s, t_s) = (
                [pool(x, absolute) for x in (s, t)] for pool in (channel_pool, spatial_pool)
            )
            s_c, s_s = self.adapt_channel[key](s_c.flatten(1)), self.adapt_spatial[key](s_s)
            yield "channel", values.attention * masked_distance(s_c, t_c.flatten(1))
            yield "spatial", values.attention * masked_distance(s_s, t_s)
        if values.non_local > 0:
            t = self.non_local_teacher[key](t)
            s = self.adapt_non_local[key](self.non_local_student[key](s))
            yield "non_local", values.non_local * masked_distance(s, t)

    def _spatial_mask(self, s: Tensor, t: Tensor) -> Tensor:
        return spatial_mask([t, s], self.values.temperature, self.mask_fuse)

    def _channel_mask(self, s: Tensor, t: Tensor) -> List[Tensor]:
        if not self.values.channel_mask:
            return []
        both = [t, s] if s.shape[1] == t.shape[1] else [t]
        return [channel_mask(both, self.values.temperature, self.mask_fuse)]

    @torch.no_grad()
    def maps(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> Dict[str, Dict[int, Tensor]]:
        """See the base class: "difference" and three masks over cells, of mean 1 in each image.

        The masks are "spatial attention (teacher)", "spatial attention (student)" and
        "spatial attention (fused)", which weighs the "feat" term.
        """
        maps = super().maps(student, teacher)
        pairs = {k: (teacher.features[k], student.features[k]) for k in self.strides}
        for i, name in enumerate(("teacher", "student")):
            masks = {k: spatial_mask([p[i]], self.values.temperature) for k, p in pairs.items()}
            maps[f"spatial attention ({name})"] = {k: mask[:, 0] for k, mask in masks.items()}
        fused = {k: self._spatial_mask(s, t)[:, 0] for k, (t, s) in pairs.items()}
        return {**maps, "spatial attention (fused)": fused}


def _modules(by_stride: Dict[int, nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({str(stride): module for stride, module in by_stride.items()})
