"""Record what mmdetection's own modules compute from weights of `formula.py`.

Not run by pytest. It needs an environment of its own, without d2kd and Detectron2:

    pip install torch torchvision 'setuptools<81' mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0
    python tests/convert/record_mmdet.py

writes tests/convert/data/<detector>.{json,npz}: names and shapes of all tensors, and outputs for
one input. `--full FOLDER` writes full-size checkpoints and outputs instead, and names of detectors
record these alone. mmcv's compiled operators are stubs here, but for RoIAlign and deformable
convolutions, which are torchvision's. GFLv2 is not part of mmdetection: its head is put
together from mmdetection's GFL and the paper's formula.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.ops import deform_conv2d, roi_align

sys.path.insert(0, str(Path(__file__).parent))
from formula import BOXES, CLASSES, image, weight  # noqa: E402


class RoIAlign(nn.Module):
    def __init__(self, output_size, spatial_scale, sampling_ratio=0, aligned=True):
        super().__init__()
        size = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size, self.options = size, (size, spatial_scale, sampling_ratio, aligned)

    def forward(self, x, rois):
        return roi_align(x, rois, *self.options)


class DeformConv2d(nn.Conv2d):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x, offset):
        return deform_conv2d(x, offset, self.weight, padding=self.padding)


class DeformConv2dPack(DeformConv2d):
    """What mmcv calls DCN: it predicts its own offsets."""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, bias, **keys):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        count = 2 * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset = nn.Conv2d(in_channels, count, kernel_size, stride, padding)

    def forward(self, x):
        return super().forward(x, self.conv_offset(x))


class StubOps(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `mmcv.ops` be imported without its compiled extension."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["mmcv", "ops"]:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []

        def missing(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__, module.RoIAlign = missing, RoIAlign
        module.DeformConv2d = DeformConv2d
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, StubOps())
import mmdet.models  # noqa: E402, F401
import mmengine.registry  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

mmengine.registry.MODELS.register_module("DCN", module=DeformConv2dPack)
TEST = {"nms_pre": 1000, "score_thr": 0.05, "nms": None, "max_per_img": 100}
ANCHOR = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8,
          "scales_per_octave": 1, "strides": [8, 16, 32, 64, 128]}  # fmt: skip
CODER = {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]}
POINTS_TRAIN = {
    "init": {"assigner": {"type": "PointAssigner", "scale": 4, "pos_num": 1}, "pos_weight": -1},
    "refine": {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4,
                            "min_pos_iou": 0}, "pos_weight": -1},
}  # fmt: skip
QUALITY_TRAIN = {
    "assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8},
    "reg_assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.5},
    "allowed_border": -1, "pos_weight": -1,
}  # fmt: skip
TRAIN = {"reppoints": POINTS_TRAIN, "ddod": QUALITY_TRAIN}
RCNN_RPN = {"type": "RPNHead", "anchor_generator": {
    "type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0],
    "strides": [4, 8, 16, 32, 64]}}  # fmt: skip


def sizes(full: bool) -> dict:
    return {"base": 64, "width": 256, "classes": 80, "convs": 4, "fc": 1024} if full else {
        "base": 4, "width": 64, "classes": 3, "convs": 2, "fc": 16}  # fmt: skip


def backbone(n: dict, depth: int = 50, **keys) -> dict:
    kind = "ResNeXt" if "groups" in keys else "ResNet"
    return {"type": kind, "depth": depth, "base_channels": n["base"], "stem_channels": n["base"],
            "style": "pytorch", "norm_eval": True, **keys}  # fmt: skip


def neck(n: dict, depth: int, extra, start: int = 1, **keys) -> dict:
    expansion = 4 if depth >= 50 else 1
    channels = [n["base"] * expansion * 2**i for i in range(4)]
    return {"type": "FPN", "in_channels": channels, "out_channels": n["width"], "num_outs": 5,
            "start_level": start, "add_extra_convs": extra, **keys}  # fmt: skip


def dense(kind: str, n: dict, head: dict, extra="on_output", depth: int = 50, **keys) -> dict:
    return {
        "backbone": backbone(n, depth, **keys.pop("backbone", {})),
        "neck": neck(n, depth, extra, **keys),
        "head": {"type": kind, "num_classes": n["classes"], "in_channels": n["width"],
                 "feat_channels": n["width"], "stacked_convs": n["convs"], **head},
    }  # fmt: skip


def two_stage(n: dict, mask: bool, depth: int = 50, **keys) -> dict:
    def extractor(size):
        return {"type": "SingleRoIExtractor", "out_channels": n["width"],
                "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
                "featmap_strides": [4, 8, 16, 32]}  # fmt: skip

    box = {"type": "Shared2FCBBoxHead", "in_channels": n["width"], "fc_out_channels": n["fc"],
           "roi_feat_size": 7, "num_classes": n["classes"], "bbox_coder": CODER}  # fmt: skip
    roi = {"type": "StandardRoIHead", "bbox_roi_extractor": extractor(7), "bbox_head": box}
    if mask:
        roi |= {"mask_roi_extractor": extractor(14),
                "mask_head": {"type": "FCNMaskHead", "num_convs": n["convs"],
                              "in_channels": n["width"], "conv_out_channels": n["width"],
                              "num_classes": n["classes"]}}  # fmt: skip
    rpn = {**RCNN_RPN, "in_channels": n["width"], "feat_channels": n["width"]}
    return {"backbone": backbone(n, depth, **keys), "neck": neck(n, depth, False, 0), "roi": roi,
            "rpn": rpn}  # fmt: skip


def models(full: bool) -> dict:
    n = sizes(full)
    retina = {"anchor_generator": {**ANCHOR, "ratios": [0.5, 1.0, 2.0], "octave_base_scale": 4,
                                   "scales_per_octave": 3}}  # fmt: skip
    atss = {"anchor_generator": ANCHOR, "bbox_coder": CODER}
    focal = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
    giou = {"type": "GIoULoss", "loss_weight": 2.0}
    bce = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}
    gfl = {"anchor_generator": ANCHOR, "reg_max": 16}
    points = {"strides": [8, 16, 32, 64, 128]}
    tricks = {**points, "norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True,
              "conv_bias": True}  # fmt: skip
    auto = {**points, "loss_bbox": {"type": "GIoULoss", "loss_weight": 5.0}}
    norm = {"norm_cfg": {"type": "GN", "num_groups": 32}}
    loss = {"type": "SmoothL1Loss", "beta": 0.11}
    reppoints = {"point_feat_channels": n["width"], **norm, "loss_bbox_init": {**loss,
                 "loss_weight": 0.5}, "loss_bbox_refine": loss}  # fmt: skip
    resnext = {"groups": 32, "base_width": 4} if full else {"groups": 2, "base_width": 2}
    return {
        "retinanet": dense("RetinaHead", n, retina, "on_input"),
        "fcos": dense("FCOSHead", n, points, relu_before_extra_convs=True),
        "fcos_tricks": dense("FCOSHead", n, tricks, relu_before_extra_convs=True),
        "autoassign": dense("AutoAssignHead", n, auto, "on_input", relu_before_extra_convs=True),
        "atss": dense("ATSSHead", n, atss),
        "ddod": dense(
            "DDODHead", n, {**atss, "loss_cls": focal, "loss_bbox": giou, "loss_iou": bce}
        ),  # fmt: skip
        "gfl": dense("GFLHead", {**n, "base": 64}, gfl, depth=18),
        "gflv2": dense("GFLHead", {**n, "classes": n["classes"] + 1}, gfl),
        "reppoints": dense("RepPointsHead", n, reppoints, "on_input", **norm),
        "faster": two_stage(n, mask=False),
        "mask": two_stage(n, mask=True, depth=101 if full else 50, **resnext),
    }


class Detector(nn.Module):
    """The modules under the names that a checkpoint has."""

    def __init__(self, name: str, parts: dict):
        super().__init__()
        self.backbone, self.neck = MODELS.build(parts["backbone"]), MODELS.build(parts["neck"])
        if "head" in parts:
            more = {"test_cfg": None, "train_cfg": TRAIN.get(name)}
            self.bbox_head = MODELS.build({**parts["head"], **more})
            if name == "gflv2":
                self.bbox_head.reg_conf = nn.Sequential(
                    nn.Conv2d(20, 64, 1), nn.ReLU(), nn.Conv2d(64, 1, 1), nn.Sigmoid()
                )
        else:
            self.rpn_head, self.roi_head = MODELS.build(parts["rpn"]), MODELS.build(parts["roi"])


def quality(head: nn.Module, distributions: list) -> list:
    """GFLv2's quality: the four largest probabilities of each side and their mean."""
    result = []
    for x in distributions:
        n, _, h, w = x.shape
        top = x.reshape(n, 4, 17, h, w).softmax(2).topk(4, 2).values
        statistics = torch.cat([top, top.mean(2, keepdim=True)], 2)
        result.append(head.reg_conf(statistics.reshape(n, 20, h, w)))
    return result


def run_dense(name: str, model: Detector, features: tuple, size: tuple) -> dict:
    head = model.bbox_head
    maps = list(head(features))
    result = {f"map{i}_{level}": x for i, kind in enumerate(maps) for level, x in enumerate(kind)}
    if name == "gflv2":
        scores = quality(head, maps[1])
        return result | {f"map2_{level}": x for level, x in enumerate(scores)}
    meta = {"img_shape": size, "scale_factor": (1.0, 1.0)}
    from mmengine.config import ConfigDict

    if name == "reppoints":
        result |= points_losses(head, features, {**meta, "pad_shape": size})

    found = head.predict_by_feat(
        *maps, batch_img_metas=[meta], cfg=ConfigDict(TEST), rescale=False, with_nms=False
    )[0]
    scores = found.scores * found.score_factors if "score_factors" in found else found.scores
    return result | {"boxes": found.bboxes, "scores": scores, "labels": found.labels}


def run_losses(model: Detector, features: tuple, size: tuple) -> dict:
    """Of detectors that assign by what they predict."""
    from mmengine.structures import InstanceData

    gt = InstanceData(bboxes=torch.tensor(BOXES), labels=torch.tensor(CLASSES))
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    meta = {"img_shape": size, "pad_shape": (*size, 3)}
    maps = model.bbox_head([x.repeat(2, 1, 1, 1) for x in features])
    return model.bbox_head.loss_by_feat(*maps, [gt, none], [meta, meta])


def points_losses(head: nn.Module, features: tuple, meta: dict) -> dict:
    """Losses of boxes, one of which nothing overlaps, and the first points they are assigned by."""
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[10.0, 8, 44, 40], [30, 2, 95, 63], [60, 20, 70, 31], [200, 5, 204, 9]])
    labels = torch.tensor([0, 2, 1, 1])
    maps = head.train()(features)
    losses = head.loss_by_feat(*maps, [InstanceData(bboxes=boxes, labels=labels)], [meta])
    head.eval()
    result = {f"first_{level}": x for level, x in enumerate(maps[1])}
    return result | {"gt": boxes, "gt_labels": labels} | {
        key: sum(value) for key, value in losses.items()
    }  # fmt: skip


def run_two_stage(model: Detector, features: tuple, size: tuple) -> dict:
    logits, deltas = model.rpn_head(features)
    result = {f"map0_{level}": x for level, x in enumerate(logits)}
    result |= {f"map1_{level}": x for level, x in enumerate(deltas)}
    height, width = size
    corners = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.0, 0.0, 1.0, 1.0], [0.5, 0.2, 0.55, 0.3]])
    boxes = corners * torch.tensor([width, height, width, height])
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    found = model.roi_head._bbox_forward(features, rois)
    result |= {"rois": boxes, "cls_score": found["cls_score"], "bbox_pred": found["bbox_pred"]}
    if hasattr(model.roi_head, "mask_head"):
        result["mask"] = model.roi_head._mask_forward(features, rois)["mask_preds"]
    return result


@torch.no_grad()
def record(name: str, parts: dict, x: torch.Tensor) -> tuple:
    model = Detector(name, parts).eval()
    state = {key: weight(key, tuple(v.shape)) for key, v in model.state_dict().items()}
    model.load_state_dict(state)
    features, size = model.neck(model.backbone(x)), tuple(x.shape[2:])
    run = run_dense(name, model, features, size) if "head" in parts else run_two_stage(
        model, features, size)  # fmt: skip
    if name in ("autoassign", "ddod"):
        run |= run_losses(model, features, size)
    return state, {key: np.asarray(v) for key, v in run.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="detectors to record; all without")
    parser.add_argument("--full", help="folder for full-size checkpoints and outputs")
    parser.add_argument("--image", help=".npy of a normalized image (1, 3, H, W), with --full")
    args = parser.parse_args()
    folder = Path(args.full or Path(__file__).parent / "data")
    folder.mkdir(parents=True, exist_ok=True)
    x = torch.from_numpy(np.load(args.image)) if args.image else image()
    chosen = {k: v for k, v in models(bool(args.full)).items() if not args.names or k in args.names}
    for name, parts in chosen.items():
        state, outputs = record(name, parts, x)
        np.savez_compressed(folder / f"{name}.npz", **outputs)
        if args.full:
            torch.save({"meta": {}, "state_dict": state}, folder / f"{name}.pth")
        shapes = {key: list(v.shape) for key, v in state.items()}
        (folder / f"{name}.json").write_text(json.dumps(shapes, indent=0))
        print(name, len(state), "tensors,", {k: v.shape for k, v in list(outputs.items())[-3:]})


if __name__ == "__main__":
    main()
