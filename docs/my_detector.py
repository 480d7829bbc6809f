"""A detector of one's own and the adapter that lets it be distilled: boxes from one FPN level."""

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn import giou_loss, sigmoid_focal_loss
from torch import nn
from torch.nn.functional import one_hot, pad

from d2kd import (
    DETECTOR_ADAPTER_REGISTRY,
    DetectorAdapter,
    DetectorOutput,
    DetectorSpec,
)
from d2kd.adapters.base import valid_cells


@META_ARCH_REGISTRY.register()
class OneLevel(nn.Module):
    """Class logits and distances to the sides of the box, from every cell of one FPN level."""

    @configurable
    def __init__(self, *, backbone, level, num_classes, pixel_mean, pixel_std, score, nms):
        super().__init__()
        shape = backbone.output_shape()[level]
        self.backbone, self.level, self.stride = backbone, level, shape.stride
        self.num_classes, self.score, self.nms = num_classes, score, nms
        self.predictor = nn.Conv2d(shape.channels, num_classes + 4, 3, padding=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias[:num_classes].detach(), -4.6)  # 1 % of each class
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        options = cfg.MODEL.ROI_HEADS  # Detectron2's section for classes, features and thresholds
        return {
            "backbone": build_backbone(cfg), "level": options.IN_FEATURES[0],
            "num_classes": options.NUM_CLASSES, "score": options.SCORE_THRESH_TEST,
            "nms": options.NMS_THRESH_TEST,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD,
        }  # fmt: skip

    def preprocess_image(self, batched_inputs):
        images = [x["image"].to(self.pixel_mean.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def predict(self, x):
        """(N, C, H, W) to logits (N, HW, K) and logarithms of distances in strides (N, HW, 4)."""
        flat = self.predictor(x).flatten(2).transpose(1, 2)
        return flat[..., : self.num_classes], flat[..., self.num_classes :]

    def points(self, x):
        """Centers (HW, 2) of the cells, x and y in px."""
        cells = torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in x.shape[2:]))
        return (cells.flip(1) + 0.5) * self.stride

    def decode(self, deltas, points):
        """Boxes (N, HW, 4), XYXY px."""
        distance = deltas.float().clamp(max=5).exp() * self.stride
        return torch.cat([points - distance[..., :2], points + distance[..., 2:]], -1)

    def label(self, points, gt):
        """Classes (N, HW), K for background, and boxes (N, HW, 4): the smallest object around."""
        labels, boxes = [], []
        for target in gt:
            box, area = target.gt_boxes.tensor, target.gt_boxes.area()
            sides = torch.cat([points[:, None] - box[:, :2], box[:, 2:] - points[:, None]], -1)
            cost = torch.where(sides.amin(-1) > 0, area, torch.inf)
            background = cost.new_full((len(points), 1), 1e9)  # px^2, more than any object
            index = torch.cat([cost, background], 1).argmin(1)
            labels.append(pad(target.gt_classes, (0, 1), value=self.num_classes)[index])
            boxes.append(pad(box, (0, 0, 0, 1))[index])
        return torch.stack(labels), torch.stack(boxes)

    def losses(self, logits, deltas, points, labels, boxes):
        found = labels < self.num_classes
        count = found.sum().clamp(min=1)
        target = one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        cls = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="sum")
        box = giou_loss(self.decode(deltas, points)[found], boxes[found], reduction="sum")
        return {"loss_cls": cls / count, "loss_box_reg": box / count}

    def forward(self, batched_inputs):
        images = self.preprocess_image(batched_inputs)
        x = self.backbone(images.tensor)[self.level]
        points, (logits, deltas) = self.points(x), self.predict(x)
        if not self.training:
            boxes = self.decode(deltas, points)
            rows = zip(logits, boxes, images.image_sizes, batched_inputs, strict=True)
            return [self.detect(*row) for row in rows]
        gt = [x["instances"].to(self.pixel_mean.device) for x in batched_inputs]
        return self.losses(logits, deltas, points, *self.label(points, gt))

    def detect(self, logits, boxes, size, batched_input):
        cell, label = (logits.sigmoid() > self.score).nonzero(as_tuple=True)
        scores, boxes = logits.sigmoid()[cell, label], Boxes(boxes[cell])
        boxes.clip(size)
        keep = batched_nms(boxes.tensor, scores, label, self.nms)[:100]
        found = Instances(
            size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=label[keep]
        )
        height, width = batched_input.get("height", size[0]), batched_input.get("width", size[1])
        return {"instances": detector_postprocess(found, height, width)}


@DETECTOR_ADAPTER_REGISTRY.register()
class OneLevelAdapter(DetectorAdapter):
    """The steps of `OneLevel.forward` in training, with names for what they compute."""

    replays = (OneLevel.forward, OneLevel.preprocess_image)
    provides = frozenset(
        "features logits scores deltas anchors valid labels matched_boxes gt".split()
    )

    def spec(self):
        m = self.detector
        return DetectorSpec(
            name="OneLevel", features={m.stride: m.backbone.output_shape()[m.level]},
            num_classes=m.num_classes, num_anchors=1, box_coding="distance",
        )  # fmt: skip

    def forward(self, images, gt, need):
        m = self.detector
        x = m.backbone(images.tensor)[m.level]
        out = DetectorOutput(images, self, features={m.stride: x})
        if gt is None and need <= {"features"}:
            return out  # all that feature methods ask of a teacher
        points, (logits, deltas) = m.points(x), m.predict(x)
        out.logits, out.deltas = {m.stride: logits}, {m.stride: deltas}
        out.scores = {m.stride: logits.detach().float().sigmoid()}
        half = m.stride / 2
        out.anchors = {m.stride: Boxes(torch.cat([points - half, points + half], -1))}
        out.valid = valid_cells(images, out.features, m.backbone.size_divisibility, 1)
        if gt is not None:
            out.gt, (out.labels, out.matched_boxes) = gt, m.label(points, gt)
            out.losses = m.losses(logits, deltas, points, out.labels, out.matched_boxes)
        return out

    def decode(self, output):
        return {
            stride: self.detector.decode(deltas, output.anchors[stride].get_centers())
            for stride, deltas in output.deltas.items()
        }
