"""d2kd's losses on predictions, dense ones and those of regions, beside their reference forms."""

import argparse
import copy
from functools import partial
from typing import Any, Callable, List, Sequence

import reference_losses as plain
import torch
from feature_loss_cases import Case, levels_of
from loss_inputs import CLASSES, dense_outputs, feature_spec, random, region_outputs
from torch import Tensor

from d2kd import DetectorOutput, losses
from d2kd.heads import BCKD, LD, CrossKD, MaskKD, Parallel, RoIKD
from d2kd.heads.base import by_anchor
from d2kd.heads.region import valuable_region
from d2kd.losses.labels import foreground


class OnLogits(CrossKD):
    """CrossKD's losses alone: the student's predictions stand for the crossed ones."""

    def _cross(self, student: DetectorOutput, teacher: DetectorOutput) -> DetectorOutput:
        crossed = copy.copy(teacher)
        crossed.logits, crossed.deltas = student.logits, student.deltas
        crossed.quality = student.quality
        return crossed


def dense(
    args: argparse.Namespace, head: type, reference: Callable, meta: str = "GFL",
    quality: str = "none", **options: Any,
) -> Case:  # fmt: skip
    """A head on a detector's predictions; reference(student, teacher)."""
    spec, student, teacher = dense_outputs(args, meta, quality)
    built = head(spec, spec, **options).to(args.device)
    maps = (student.logits, student.deltas, student.quality)
    leaves = [x for levels in maps for x in levels.values()]
    return Case(leaves, lambda: reference(student, teacher),
                lambda: sum(built(student, teacher).values()))  # fmt: skip


def weights(student: DetectorOutput) -> List[Tensor]:
    """1 on anchors that count, by level."""
    labels = student.labels_by_stride()
    return [(valid & (labels[s] >= 0)).float() for s, valid in student.valid.items()]


def confidences(student: DetectorOutput, teacher: DetectorOutput) -> List[Tensor]:
    maps = teacher.logits.values()
    return [x.sigmoid().max(-1).values * w for x, w in zip(maps, weights(student), strict=True)]


def boxes(student: DetectorOutput, teacher: DetectorOutput) -> plain.Levels:
    """Decoded ones, of a GFL written out, of others by Detectron2's transform."""
    return list(zip(*(_boxes(x) for x in (student, teacher)), strict=True))


def _boxes(output: DetectorOutput) -> List[Tensor]:
    found = []
    for stride, x in output.deltas.items():
        anchors = output.anchors[stride].tensor
        if x.shape[-1] > 4:
            found.append(plain.distances_to_boxes(plain.expected(x) * stride, anchors))
        else:
            transform = output.adapter.detector.box2box_transform
            found.append(torch.stack([transform.apply_deltas(image, anchors) for image in x]))
    return found


def bckd(args: argparse.Namespace, term: str) -> Case:
    def classes(student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        levels = levels_of(student, teacher, "logits")
        return plain.binary(levels, weights(student)) / student.num_pos

    def locations(student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        levels = levels_of(student, teacher, "logits")
        gaps = [(s.sigmoid() - t.sigmoid()).abs().max(-1).values.detach() for s, t in levels]
        scale = [g * w for g, w in zip(gaps, weights(student), strict=True)]
        return plain.iou(boxes(student, teacher), scale) / student.num_pos

    chosen = {"cls_weight": float(term == "cls"), "loc_weight": float(term == "loc")}
    return dense(args, BCKD, {"cls": classes, "loc": locations}[term], **chosen)


def crosskd(args: argparse.Namespace, meta: str) -> Case:
    """All terms: classes and distributions, or boxes, and an ATSS's centerness."""

    def reference(student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        logits, scale = levels_of(student, teacher, "logits"), confidences(student, teacher)
        loss = plain.binary(logits, weights(student)) / student.num_pos
        if meta == "GFL":
            return loss + plain.distributions(levels_of(student, teacher, "distributions"), scale)
        levels = boxes(student, teacher)
        if meta == "FCOS":
            return loss + plain.log_iou(levels, scale) / student.num_pos
        loss = loss + plain.iou(levels, scale) / student.num_pos
        quality, labels = levels_of(student, teacher, "quality"), student.labels_by_stride()
        positive = [foreground(x, CLASSES) for x in labels.values()]
        return loss + plain.positives(quality, positive) / student.num_pos

    return dense(args, OnLogits, reference, meta, block=0, cls_weight=1.0, reg_weight=1.0)


def ld(args: argparse.Namespace, term: str) -> Case:
    def reference(student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        positive = [foreground(x, CLASSES) for x in student.labels_by_stride().values()]
        logits = levels_of(student, teacher, "logits")
        if term == "cls":
            return plain.classes_of_positives(logits, positive)
        score = [s.detach().sigmoid().max(-1).values for s, _ in logits]
        scale = [x * p for x, p in zip(score, positive, strict=True)]
        total, sides = sum(x.sum() for x in scale), levels_of(student, teacher, "distributions")
        if term == "loc":
            return plain.chosen_sides(sides, scale) / total
        anchors = [x.tensor for x in student.anchors.values()]
        gt = [x.gt_boxes.tensor for x in student.gt]
        region = plain.valuable_region(anchors, by_anchor(student.valid), gt)
        scale = region.split([len(x) for x in anchors], dim=1)
        return plain.chosen_sides(sides, scale) / 4 / total

    chosen = {f"{name}_weight": float(name == term) for name in ("loc", "vlr", "cls")}
    return dense(args, LD, reference, **chosen)


def region(args: argparse.Namespace) -> Case:
    _, student, _ = dense_outputs(args, "GFL")
    given = [x.tensor for x in student.anchors.values()], by_anchor(student.valid)
    given = *given, [x.gt_boxes.tensor for x in student.gt]
    return Case([], lambda: plain.valuable_region(*given), lambda: valuable_region(*given))


def parallel(args: argparse.Namespace, term: str) -> Case:
    def reference(student: DetectorOutput, teacher: DetectorOutput) -> Tensor:
        if term == "cls":
            levels = levels_of(student, teacher, "logits")
            return plain.binary(levels, weights(student)) / student.num_pos
        scores = zip(teacher.scores.values(), weights(student), strict=True)
        scale = [x.max(-1).values * w for x, w in scores]
        if term == "loc":
            return plain.distributions(levels_of(student, teacher, "distributions"), scale)
        total = sum(x.sum() for x in scale)
        return plain.binary(levels_of(student, teacher, "quality"), scale) / total

    chosen = {f"{name}_weight": float(name == term) for name in ("cls", "loc", "quality")}
    return dense(args, Parallel, reference, quality="SDGQP", **chosen)


def roi(args: argparse.Namespace, kind: str) -> Case:
    spec, outputs = feature_spec(), region_outputs(args)
    head = RoIKD(spec, spec, loss=kind)
    s, t = (x.roi[0].logits for x in outputs)
    labels = outputs[0].roi[0].proposals[0].gt_classes
    references = {
        "KD": lambda: plain.kl(s, t).mean(),
        "DKD": lambda: plain.decoupled(s, t, labels).mean(),
        "DIST": lambda: plain.relations(s, t),
    }
    return Case([s], references[kind], lambda: head(*outputs)["cls"])


def masks(args: argparse.Namespace) -> Case:
    spec, outputs = feature_spec(), region_outputs(args)
    head = MaskKD(spec, spec)
    s, t = (x.masks.logits for x in outputs)
    classes = outputs[0].masks.proposals[0].gt_classes
    return Case([s], lambda: plain.mask_pixels(s, t, classes), lambda: head(*outputs)["mask"])


def supervised(
    args: argparse.Namespace, reference: Callable, mine: Callable, channels: Sequence[int],
    targets: Sequence[Callable],
) -> Case:  # fmt: skip
    """A function of predictions of `channels` a location and of targets."""
    rows = [torch.cat([*random(args, c).values()], 1).requires_grad_() for c in channels]
    fixed = [make(rows[0]) for make in targets]
    return Case(rows, lambda: reference(*rows, *fixed).sum(), lambda: mine(*rows, *fixed).sum())


def sparse_quality(x: Tensor) -> Tensor:
    """One class of one location in a hundred has a quality."""
    return torch.rand_like(x) * (torch.rand_like(x) < 0.01 / x.shape[-1])


def bins(x: Tensor) -> Tensor:
    return torch.rand(*x.shape[:-1], 4, device=x.device) * 15.8


CASES = {
    "BCKD classes": partial(bckd, term="cls"),
    "BCKD boxes": partial(bckd, term="loc"),
    "CrossKD distributions": partial(crosskd, meta="GFL"),
    "CrossKD boxes, quality": partial(crosskd, meta="ATSS"),
    "CrossKD distances": partial(crosskd, meta="FCOS"),
    "LD positives": partial(ld, term="loc"),
    "LD region": region,
    "LD with region": partial(ld, term="vlr"),
    "LD classes": partial(ld, term="cls"),
    "Parallel classes": partial(parallel, term="cls"),
    "Parallel boxes": partial(parallel, term="loc"),
    "Parallel quality": partial(parallel, term="quality"),
    "RoIKD KD": partial(roi, kind="KD"),
    "RoIKD DKD": partial(roi, kind="DKD"),
    "RoIKD DIST": partial(roi, kind="DIST"),
    "MaskKD": masks,
    "quality focal": partial(supervised, reference=plain.quality_focal,
        mine=losses.quality_focal_loss, channels=[CLASSES], targets=[sparse_quality]),
    "joint quality focal": partial(supervised, reference=plain.joint_focal,
        mine=losses.joint_quality_focal_loss, channels=[CLASSES, 1], targets=[sparse_quality]),
    "distribution focal": partial(supervised, reference=plain.distribution_focal,
        mine=losses.distribution_focal_loss, channels=[68], targets=[bins]),
    "integral": partial(supervised, reference=plain.expected, mine=losses.integral, channels=[68],
        targets=[]),
}  # fmt: skip
