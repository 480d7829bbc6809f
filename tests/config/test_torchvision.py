"""torchvision's detectors as Detectron2's: outputs of both on one photograph."""

import re

import pytest
import torch
import torchvision
from detectron2.structures import Boxes
from torch import nn
from torch.testing import assert_close

from d2kd.adapters import build_adapter
from d2kd.checkpoint import load_detector
from d2kd.checkpoint.torchvision import from_torchvision
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.naming import construct
from d2kd.config.sources import torchvision as source
from d2kd.detectors import TorchvisionAnchorGenerator
from d2kd.errors import ConfigError

NAMES = [entry.name.partition(":")[2] for entry in source.entries()]


def original(name, **kwargs):
    """torchvision's detector with numbers that leave no layer without a say."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, **kwargs).eval()
    frozen = not name.endswith("_v2")
    if frozen:  # as its weights are loaded
        freeze(model, 1e-5 if name.startswith("fcos") else 0.0)
    with torch.no_grad():
        for name_, x in model.named_buffers():
            if name_.endswith("running_var"):
                x.uniform_(0.5, 1.5)
            elif name_.endswith("running_mean"):
                x.normal_(0, 0.1)
    return model


def freeze(model, eps):
    """Replace batch norm of the trunk by the frozen one that published weights come with."""
    from torchvision.ops.misc import FrozenBatchNorm2d

    for module in list(model.backbone.body.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, key, FrozenBatchNorm2d(child.num_features, eps))


def converted(name, model, tmp_path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, f"torchvision:{name}", "--teacher")
    cfg.MODEL.DEVICE = "cpu"
    detector = construct(cfg).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    load_detector(detector, str(tmp_path / "weights.pth"), "--teacher-weights")
    return detector


@pytest.fixture(scope="module")
def photograph():
    torch.manual_seed(3)
    return (torch.rand(3, 96, 160) * 255).round()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_maps_and_predictions_are_torchvisions(name, photograph, tmp_path):
    """In float64, so that what differs is no rounding."""
    theirs = original(name)
    ours = converted(name, theirs, tmp_path).double()
    theirs.double()
    adapter = build_adapter(ours)
    images = adapter.preprocess([{"image": photograph.double()}], adapter.divisor)
    mean, std = (torch.tensor(x)[:, None, None] for x in
                 (theirs.transform.image_mean, theirs.transform.image_std))  # fmt: skip
    tensor = ((photograph.double() / 255 - mean) / std)[None]
    assert_close(images.tensor, tensor, rtol=1e-5, atol=1e-5)
    images.tensor = tensor
    maps = list(theirs.backbone(tensor).values())
    out = adapter(images, None, frozenset({"features", "logits", "deltas", "rpn"}))
    for a, b in zip(out.features.values(), maps, strict=True):
        close(a, b)
    if name.startswith(("retinanet", "fcos")):
        check_dense(theirs, maps, tensor, out)
    else:
        check_rpn(theirs, maps, tensor, out)
        check_regions(theirs.float(), ours.float())


def close(a, b):
    """To 1e-6 of the largest number, 1e-5 in float32."""
    small = 1e-6 if b.dtype == torch.float64 else 1e-5
    assert_close(a.double(), b.double(), rtol=small, atol=small * max(1.0, b.abs().max().item()))


def their_anchors(theirs, maps, tensor):
    generator = getattr(theirs, "anchor_generator", None) or theirs.rpn.anchor_generator
    sizes = [tuple(tensor.shape[-2:])]
    return generator(torchvision.models.detection.image_list.ImageList(tensor, sizes), maps)[0]


def check_dense(theirs, maps, tensor, out):
    found = theirs.head(maps)
    rows = [i for i in range(91) if i not in (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    logits, goal = found["cls_logits"][..., rows], found["bbox_regression"]
    if not out.quality:  # nine anchors, there by aspect ratio, here by size first
        logits, goal = (x.unflatten(1, (-1, 3, 3)).transpose(2, 3).flatten(1, 3)
                        for x in (logits, goal))  # fmt: skip
    close(torch.cat(list(out.logits.values()), 1), logits)
    deltas = torch.cat(list(out.deltas.values()), 1)
    close(deltas.relu() if out.quality else deltas, goal)
    anchors = torch.cat([x.tensor for x in out.anchors.values()])
    theirs_ = their_anchors(theirs, maps, tensor)
    if not out.quality:
        theirs_ = theirs_.unflatten(0, (-1, 3, 3)).transpose(1, 2).flatten(0, 2)
    assert torch.equal(anchors, theirs_)
    if "bbox_ctrness" in found:
        close(torch.cat(list(out.quality.values()), 1), found["bbox_ctrness"])
    decode = theirs.box_coder.decode if "bbox_ctrness" in found else theirs.box_coder.decode_single
    boxes = decode(goal[0], anchors)
    close(torch.cat(list(out.adapter.decode(out).values()), 1)[0], boxes)


def check_rpn(theirs, maps, tensor, out):
    logits, deltas = theirs.rpn.head(maps)
    for ours, x in zip(out.rpn.logits.values(), logits, strict=True):
        close(ours[0, :, 0], x[0].permute(1, 2, 0).flatten())
    for ours, x in zip(out.rpn.deltas.values(), deltas, strict=True):
        close(ours[0], x[0].view(-1, 4, *x.shape[-2:]).permute(2, 3, 0, 1).reshape(-1, 4))
    anchors = torch.cat([x.tensor for x in out.anchors.values()])
    assert torch.equal(anchors, their_anchors(theirs, maps, tensor))


def check_regions(theirs, ours):
    boxes = [[0.0, 0.0, 60.0, 90.0], [33.3, 20.1, 340.2, 200.7], [5.0, 5.0, 9.0, 9.0]]
    boxes, size = torch.tensor(boxes), [(224, 352)]
    maps = {str(i): torch.randn(1, 256, 56 >> i, 88 >> i) for i in range(4)}
    levels = list(maps.values())
    heads, rois = theirs.roi_heads, ours.roi_heads
    pooled = heads.box_roi_pool(maps, [boxes], size)
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    close(rois.box_pooler(levels, [Boxes(boxes)]), pooled)
    found = rois.box_predictor(rois.box_head(rois.box_pooler(levels, [Boxes(boxes)])))
    rows = [i for i in range(91) if i not in (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    close(found[0], logits[:, [*rows, 0]])
    close(found[1], deltas.view(3, 91, 4)[:, rows].flatten(1))
    if ours.roi_heads.mask_on:
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, [boxes], size)))
        mine = rois.mask_head.layers(rois.mask_pooler(levels, [Boxes(boxes)]))
        close(mine, masks[:, rows])


def test_background_comes_last_and_ids_without_a_class_drop_out():
    x = torch.arange(91.0)[:, None]
    name = "roi_heads.box_predictor.cls_score.weight"
    model = {name: torch.zeros(81, 1)}
    found = from_torchvision({"backbone.body.conv1.weight": x, name: x}, model)[name]
    assert found[:, 0].tolist()[11] == 13  # the stop sign, id 13, is class 11
    assert found[-1] == 0 and 12 not in found
    model[name] = torch.zeros(91, 1)
    found = from_torchvision({"backbone.body.conv1.weight": x, name: x}, model)[name]
    assert found[:, 0].tolist() == [*range(1, 91), 0]


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_names_of_the_published_files_are_known(name):
    """They are of torchvision before 0.13, which its detectors translate when they are loaded."""
    model = original(name)
    old = {old_name(key): x for key, x in model.state_dict().items()}
    assert old.keys() != model.state_dict().keys()
    model.load_state_dict(old)  # torchvision knows them as well
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, f"torchvision:{name}", "--teacher")
    cfg.MODEL.DEVICE = "cpu"
    state = construct(cfg).state_dict()
    new = from_torchvision(model.state_dict(), state)
    assert from_torchvision(old, state).keys() == new.keys() == state.keys()


def old_name(key):
    key = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)
    key = re.sub(r"(rpn\.head\.conv)\.0\.0\.", r"\1.", key)
    key = re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda x: f"{x[1]}.{2 * int(x[2])}.", key)
    return re.sub(r"(mask_head)\.(\d)\.0\.", lambda x: f"{x[1]}.mask_fcn{int(x[2]) + 1}.", key)


def test_a_name_that_does_not_exist():
    for text, near in (
        ("torchvision:retinanet_resnet50", "torchvision:retinanet_resnet50_fpn"),
        ("torchvison:fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn"),
        ("vitdet:cascade_mask_rcnn_vitdet_xl", "vitdet:cascade_mask_rcnn_vitdet_l"),
    ):
        with pytest.raises(ConfigError, match=f"Did you mean .*{near}"):
            merge_config_file(get_d2kd_cfg(), text, "--teacher")


def test_anchors_of_the_specification():
    generator = TorchvisionAnchorGenerator(
        sizes=[[32], [64], [128], [256], [512]], aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[8, 16, 32, 64, 128], offset=0.0,
    )  # fmt: skip
    assert next(iter(generator.cell_anchors))[0].tolist() == [-23, -11, 23, 11]
    maps = [torch.zeros(1, 1, -(-352 // s), -(-512 // s)) for s in (8, 16, 32, 64, 128)]
    steps = []
    for x, boxes in zip(maps, generator(maps), strict=True):
        corners = boxes.tensor.view(*x.shape[-2:], 3, 4)[..., 1, :2]
        steps.append(((corners[1, 0] - corners[0, 0])[1].item(),
                      (corners[0, 1] - corners[0, 0])[0].item()))  # fmt: skip
    assert steps == [(8, 8), (16, 16), (32, 32), (58, 64), (117, 128)]
