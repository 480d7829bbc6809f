"""Random outputs of a student and a teacher, of the sizes that a detector has."""

import argparse
import copy
from typing import Dict, List, Sequence, Tuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2kd import DetectorOutput, DetectorSpec, build_adapter
from d2kd.adapters.output import MaskOutput, RoIOutput
from d2kd.detectors.assigner import atss_assign
from d2kd.losses.labels import positives_per_batch
from d2kd.testing import tiny_cfg

CLASSES, CHANNELS, STRIDES = 80, 256, (8, 16, 32, 64, 128)


def feature_spec(strides: Sequence[int] = STRIDES) -> DetectorSpec:
    features = {s: ShapeSpec(channels=CHANNELS, stride=s) for s in strides}
    return DetectorSpec(name="X", features=features, num_classes=CLASSES, num_anchors=1)


def random(args: argparse.Namespace, channels: int, scale: float = 1.0, shift: float = 0.0) -> dict:
    """Random (N, HW, C) of each level."""
    return {
        s: torch.randn(args.batch, h * w, channels, device=args.device) * scale + shift
        for s, (h, w) in cells(args).items()
    }


def cells(args: argparse.Namespace, strides: Sequence[int] = STRIDES) -> Dict[int, Tuple[int, int]]:
    """Height and width of each level, at least 2 each: statistics of fewer values mean little."""
    return {s: tuple(max(-(-side // s), 2) for side in args.size) for s in strides}


def feature_outputs(
    args: argparse.Namespace, strides: Sequence[int] = STRIDES
) -> Tuple[DetectorOutput, DetectorOutput]:
    """Maps; the student's are leaves."""
    both = []
    for side in range(2):
        maps = {
            s: torch.randn(args.batch, CHANNELS, h, w, device=args.device)
            for s, (h, w) in cells(args, strides).items()
        }
        maps = {s: x.requires_grad_(side == 0) for s, x in maps.items()}
        both.append(DetectorOutput(images=None, adapter=None, features=maps))
    return both[0], both[1]


def objects(args: argparse.Namespace, count: int = 15) -> List[Instances]:
    """Boxes of 16 to 400 px, as many small as large ones."""
    found = []
    for _ in range(args.batch):
        height, width = args.size
        limits = torch.tensor([width, height], dtype=torch.float32)
        low = torch.rand(count, 2) * limits * 0.8
        side = 16 * 25 ** torch.rand(count, 2)
        gt = Instances((height, width)).to(args.device)
        gt.gt_boxes = Boxes(torch.cat([low, torch.minimum(low + side, limits)], 1).to(args.device))
        gt.gt_classes = torch.randint(CLASSES, (count,), device=args.device)
        found.append(gt)
    return found


def dense_outputs(
    args: argparse.Namespace, meta: str, quality: str = "none"
) -> Tuple[DetectorSpec, DetectorOutput, DetectorOutput]:
    """Predictions of one anchor a cell, assigned as by ATSS; the student's are leaves."""
    cfg = tiny_cfg(meta, classes=CLASSES)
    cfg.MODEL.GFL.QUALITY, cfg.MODEL.DEVICE = quality, args.device
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    adapter = build_adapter(build_model(cfg))
    spec = adapter.spec()
    student = DetectorOutput(images=None, adapter=adapter, features={}, gt=objects(args))
    assign(args, student)
    teacher = copy.copy(student)
    for output in (student, teacher):
        predict(args, output, spec)
    for maps in (student.logits, student.deltas, student.quality):
        maps.update({s: x.requires_grad_() for s, x in maps.items()})
    if spec.reg_max:
        for x in (student, teacher):
            x.distributions = {s: y.unflatten(-1, (4, -1)) for s, y in x.deltas.items()}
    return spec, student, teacher


def assign(args: argparse.Namespace, output: DetectorOutput) -> None:
    """Anchors, labels and padding: the last image is narrower than the batch."""
    sizes = [torch.empty(1, 1, h, w, device=args.device) for h, w in cells(args).values()]
    anchors = output.adapter.detector.anchor_generator(sizes)
    output.anchors = dict(zip(STRIDES, anchors, strict=True))
    for stride, boxes in output.anchors.items():
        valid = torch.ones(args.batch, len(boxes), dtype=torch.bool, device=args.device)
        valid[-1] = boxes.get_centers()[:, 0] < 0.9 * args.size[1]
        output.valid[stride] = valid
    boxes = [x.gt_boxes.tensor for x in output.gt]
    classes = torch.cat([x.gt_classes for x in output.gt])
    match = atss_assign([x.tensor for x in anchors], torch.cat([*output.valid.values()], 1), boxes)
    output.labels = torch.cat([classes, classes.new_full((1,), CLASSES)])[match]
    output.matched_boxes = torch.cat([*boxes, boxes[0].new_zeros(1, 4)])[match]
    output.num_pos = positives_per_batch(output.labels, CLASSES)


def predict(args: argparse.Namespace, output: DetectorOutput, spec: DetectorSpec) -> None:
    output.logits = random(args, CLASSES, 1.5, -4.0)
    output.scores = {s: x.sigmoid() for s, x in output.logits.items()}
    if spec.box_coding == "distribution":
        output.deltas = random(args, 4 * (spec.reg_max + 1), 2.0)
    elif spec.box_coding == "distance":
        output.deltas = {s: x.abs() for s, x in random(args, 4, 4.0).items()}
    else:
        output.deltas = random(args, 4, 0.3)
    output.quality = random(args, 1) if spec.quality else {}


def region_outputs(args: argparse.Namespace) -> Tuple[DetectorOutput, DetectorOutput]:
    """Sampled proposals of a two-stage detector and foreground masks; the student's are leaves."""
    classes = torch.randint(CLASSES + 1, (args.batch * args.proposals,), device=args.device)
    foreground = torch.randint(CLASSES, (args.batch * args.masks,), device=args.device)
    both = []
    for side in range(2):
        logits = torch.randn(len(classes), CLASSES + 1, device=args.device) * 2
        masks = torch.randn(len(foreground), CLASSES, 28, 28, device=args.device)
        roi = RoIOutput(logits.requires_grad_(side == 0), logits, [_proposals(args, classes)])
        mask = MaskOutput(masks.requires_grad_(side == 0), [_proposals(args, foreground)])
        both.append(DetectorOutput(None, None, {}, roi=[roi], masks=mask))
    return both[0], both[1]


def _proposals(args: argparse.Namespace, classes: Tensor) -> Instances:
    return Instances(tuple(args.size), gt_classes=classes)
