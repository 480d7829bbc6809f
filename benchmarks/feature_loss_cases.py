"""d2kd's losses on feature maps beside their reference forms."""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Sequence

import reference_fgd
import reference_losses as plain
import torch
from detectron2.structures import ImageList
from loss_inputs import CHANNELS, STRIDES, feature_outputs, feature_spec, objects
from torch import Tensor

from d2kd import DetectorOutput
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, FGD, VFM, DistillationHead
from d2kd.heads.receptive_tokens import LevelTokens
from d2kd.heads.tokens_file import FILE, TokensFile, write_tokens
from d2kd.losses import align_channels, channel_mask, instance_norm_loss, spatial_mask


class Case(NamedTuple):
    """Two functions to a tensor, and the tensors whose gradients must be equal."""

    leaves: List[Tensor]
    reference: Callable[[], Tensor]
    mine: Callable[[], Tensor]


def levels_of(student: DetectorOutput, teacher: DetectorOutput, field: str) -> plain.Levels:
    student, teacher = getattr(student, field), getattr(teacher, field)
    return [(student[stride], teacher[stride]) for stride in teacher]


def features(args: argparse.Namespace, name: str, reference: Callable, **options: Any) -> Case:
    """A head of registered `name`; reference(head, levels)."""
    spec, outputs = feature_spec(), feature_outputs(args)
    head = DISTILLATION_HEAD_REGISTRY.get(name)(spec, spec, **options).to(args.device)
    levels = levels_of(*outputs, "features")
    leaves = [*(s for s, _ in levels), *head.parameters()]
    return Case(leaves, lambda: reference(head, levels), lambda: sum(head(*outputs).values()))


def pkd(args: argparse.Namespace) -> Case:
    return features(args, "PKD", lambda _, x: plain.pearson(x[:4]))


def cwd(args: argparse.Namespace) -> Case:
    return features(args, "CWD", lambda _, x: plain.channel_wise(x))


def fitnets(args: argparse.Namespace) -> Case:
    return features(args, "FitNets", lambda f, x: plain.hints(x, f.project.values()))


def mgd(args: argparse.Namespace) -> Case:
    def reference(head: DistillationHead, levels: plain.Levels) -> Tensor:
        return plain.generative(levels, head.generate.values(), head.alpha, head.mask_ratio)

    leaves, *functions = features(args, "MGD", reference, preset="one_stage")
    return Case(leaves, *(seeded(f) for f in functions))


def fgd(args: argparse.Namespace, strides: Sequence[int] = STRIDES) -> Case:
    """15 objects an image; one-stage weights at any level."""
    spec, (student, teacher) = feature_spec(strides), feature_outputs(args, strides)
    student.gt = objects(args)
    head = FGD(spec, spec, preset="one_stage").to(args.device)
    boxes = [x.gt_boxes.tensor for x in student.gt]

    def reference() -> Tensor:
        total = 0.0
        for stride, s in student.features.items():
            contexts = head.context_student[str(stride)], head.context_teacher[str(stride)]
            given = boxes, stride, head.values[:4], head.values.temperature
            total = total + reference_fgd.level(s, teacher.features[stride], *given, *contexts)
        return total

    leaves = [*student.features.values(), *head.parameters()]
    return Case(leaves, reference, lambda: sum(head(student, teacher).values()))


def maskd(args: argparse.Namespace) -> Case:
    """Tokens as random as the maps, so that masks are far from one half."""
    tokens = [LevelTokens(CHANNELS, 6).to(args.device) for _ in STRIDES]
    for level in tokens:
        torch.nn.init.normal_(level.tokens, std=CHANNELS**-0.5)

    def reference(head: DistillationHead, levels: plain.Levels) -> Tensor:
        return plain.receptive(levels, head.project.values(), tokens, head.weight)

    with tempfile.TemporaryDirectory() as folder:
        learnt = {stride: x.learnt() for stride, x in zip(STRIDES, tokens, strict=True)}
        write_tokens(Path(folder, FILE), TokensFile(learnt, "", ""))
        return features(args, "MasKD", reference, warmup=0, tokens=folder)


def seeded(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        torch.manual_seed(0)
        return function()

    return run


def masks(args: argparse.Namespace) -> Case:
    levels = levels_of(*feature_outputs(args), "features")

    def reference() -> Tensor:
        return torch.cat([mask.flatten() for x in levels for mask in plain.masks(*x, 0.5)])

    def mine() -> Tensor:
        both = (spatial_mask, channel_mask)
        return torch.cat([mask(x, 0.5).flatten() for x in levels for mask in both])

    return Case([], reference, mine)


def masked_features(args: argparse.Namespace) -> Case:
    return features(
        args, "StructuredKD", lambda f, x: plain.masked_features(x, f.project.values(), 0.5),
        feat_weight=1.0, attention_weight=0.0, non_local_weight=0.0, temperature=0.5,
        channel_mask=1,
    )  # fmt: skip


def attention(args: argparse.Namespace) -> Case:
    def reference(head: DistillationHead, levels: plain.Levels) -> Tensor:
        modules = head.adapt_channel.values(), head.adapt_spatial.values()
        return plain.attention_transfer(levels, *modules)

    weights = {"feat_weight": 0.0, "attention_weight": 1.0, "non_local_weight": 0.0}
    return features(args, "StructuredKD", reference, **weights)


def statistics(args: argparse.Namespace) -> Case:
    """A mean weighted by the teacher's map makes a scalar."""
    levels = levels_of(*feature_outputs(args), "features")

    def loss(align: Callable) -> Callable[[], Tensor]:
        return lambda: sum((align(s, t) * t).mean() for s, t in levels)

    return Case([s for s, _ in levels], loss(plain.align), loss(align_channels))


def standardized(args: argparse.Namespace) -> Case:
    """CanKD's distance of its first four levels."""
    levels = levels_of(*feature_outputs(args), "features")[:4]

    def mine() -> Tensor:
        return sum(instance_norm_loss(s, t) for s, t in levels)

    return Case([s for s, _ in levels], lambda: plain.standardized(levels), mine)


def directions(args: argparse.Namespace) -> Case:
    """VFM on three levels; the teacher's map is that of 32 px."""
    head = VFM(feature_spec(), feature_spec(), strides=(8, 16, 32)).to(args.device)
    student, teacher = feature_outputs(args)
    sizes = [tuple(args.size)] * args.batch
    student.images = ImageList(torch.empty(args.batch, 3, *args.size), sizes)
    maps = [student.features[s] for s in head.strides]

    def reference() -> Tensor:
        return plain.directions(maps, teacher.features[32], head.project.values())

    return Case([*maps, *head.parameters()], reference, lambda: head(student, teacher)["feat"])


CASES = {
    "PKD": pkd,
    "CWD": cwd,
    "FitNets": fitnets,
    "MGD": mgd,
    "FGD": fgd,
    "FGD P2": partial(fgd, strides=[4]),
    "FGD P4": partial(fgd, strides=[16]),
    "MasKD": maskd,
    "StructuredKD masks": masks,
    "StructuredKD features": masked_features,
    "StructuredKD attention": attention,
    "CanKD distance": standardized,
    "VFM": directions,
    "CrossKD statistics": statistics,
}
