"""RepPoints: mmdetection's outputs, detections and losses, its names, and what is refused."""

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from torch.testing import assert_close

from d2kd.checkpoint import load_detector
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.convert import convert_mmdet
from d2kd.errors import ConfigError
from d2kd.losses.points import boxes_of_points
from tests.conftest import ROOT
from tests.convert.formula import image
from tests.convert.test_mmdet import DATA, build, close, source

SIZE = (64, 96)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reppoints")
    done = convert_mmdet(source("reppoints", folder), str(folder), "made")
    model, cfg = build(done.config)
    load_detector(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    model.low_quality = "official"
    return model, dict(np.load(DATA / "reppoints.npz")), done, cfg


@torch.no_grad()
def maps_of(model):
    features = model.backbone(image())
    return model.head([features[f] for f in model.head_in_features])


def test_outputs(converted):
    model, recorded, _, _ = converted
    logits, refined, first = maps_of(model)
    for level, x in enumerate(logits):
        close(x, recorded[f"map0_{level}"])
        close(first[level], recorded[f"first_{level}"])
        points = refined[level].permute(0, 2, 3, 1)
        boxes = boxes_of_points(points, "moment", model.moment_transfer.detach())
        close(boxes.permute(0, 3, 1, 2), recorded[f"map1_{level}"])


@torch.no_grad()
def test_detections_before_suppression(converted):
    model, recorded, _, _ = converted
    model.test_nms_thresh, model.max_detections_per_image = 1.1, 10**6
    found = model.forward_inference(ImageList(image(), [SIZE]), [
        x for name, x in model.backbone(image()).items() if name in model.head_in_features
    ], maps_of(model))[0]  # fmt: skip
    order = np.argsort(-recorded["scores"], kind="stable")
    assert len(found) == len(order) > 300
    close(found.scores, recorded["scores"][order])
    mine = torch.cat([found.pred_boxes.tensor, 100 * found.pred_classes[:, None]], 1)
    theirs = np.concatenate([recorded["boxes"], 100 * recorded["labels"][:, None]], 1)[order]
    near = (mine[:, None] - torch.from_numpy(theirs).float()).abs().amax(2) < 1e-2
    assert bool(near.any(1).all()) and bool(near.any(0).all())  # equal scores may swap places


def test_losses(converted):
    """One of the boxes is overlapped by none, and takes all cells in mmdetection."""
    model, recorded, _, _ = converted
    target = Instances(SIZE, gt_boxes=Boxes(torch.from_numpy(recorded["gt"])),
                       gt_classes=torch.from_numpy(recorded["gt_labels"]))  # fmt: skip
    features = [torch.zeros(1, 1, *x.shape[2:]) for x in maps_of(model)[0]]
    losses = model.forward_training(None, features, maps_of(model), [target])
    assert set(losses) == {"loss_cls", "loss_pts_init", "loss_pts_refine"}
    for name, value in losses.items():
        close(value, recorded[name])
    model.low_quality = "overlapping"
    ours = model.forward_training(None, features, maps_of(model), [target])
    model.low_quality = "official"
    assert ours["loss_cls"] != losses["loss_cls"]
    assert_close(ours["loss_pts_init"], losses["loss_pts_init"])


def test_what_is_written(converted):
    _, _, done, cfg = converted
    assert done.architecture.detector == "RepPoints" and done.architecture.num_convs == 2
    fpn = cfg.MODEL.FPN
    assert (fpn.NORM, fpn.TOP_BLOCK_NORM, fpn.TOP_BLOCK_INPUT) == ("GN", "GN", "stage")
    assert not fpn.TOP_BLOCK_RELU and cfg.MODEL.REPPOINTS.TRANSFORM == "moment"


def change_of(*drops, **adds):
    def change(tensors):
        for name in drops:
            tensors.pop(name)
        tensors.update(adds)

    return change


def test_the_transform_is_in_the_text(tmp_path):
    change = change_of("bbox_head.moment_transfer")
    with pytest.raises(ValueError, match="no moment_transfer.*--config"):
        convert_mmdet(source("reppoints", tmp_path, change), str(tmp_path / "out"))
    text = "bbox_head=dict(type='RepPointsHead', transform_method='partial_minmax')"
    done = convert_mmdet(source("reppoints", tmp_path, change, cfg=text), str(tmp_path), "made")
    model, cfg = build(done.config)
    assert model.moment_transfer is None and model.transform == "partial_minmax"


def plain_neck(tensors):
    for name in [x for x in tensors if ".gn." in x]:
        del tensors[name]
    for name in [x for x in tensors if x.endswith("conv.weight") and "s." in x]:
        bias = torch.full((len(tensors[name]),), 0.1)
        tensors[name.replace("weight", "bias")] = bias


def test_without_group_norm(tmp_path):
    done = convert_mmdet(source("reppoints", tmp_path, plain_neck), str(tmp_path), "made")
    config = yaml.safe_load(done.config.read_text())["MODEL"]
    assert (config["FPN"]["NORM"], config["REPPOINTS"]["NORM"]) == ("", "")
    build(done.config)


@pytest.mark.parametrize("name", ["conv2.conv_offset", "conv2_offset"])
def test_deformable_stages_by_both_names(tmp_path, name):
    def deform(tensors):
        for key in [k for k in tensors if ".conv2.weight" in k and ".layer1." not in k]:
            width = tensors[key].shape[0]
            offset = key.replace("conv2.weight", name)
            tensors[f"{offset}.weight"] = 0.01 * torch.ones(18, width, 3, 3)
            tensors[f"{offset}.bias"] = torch.arange(18).float()

    done = convert_mmdet(source("reppoints", tmp_path, deform), str(tmp_path), "made")
    resnets = yaml.safe_load(done.config.read_text())["MODEL"]["RESNETS"]
    assert resnets["DEFORM_ON_PER_STAGE"] == [False, True, True, True]
    tensors = torch.load(done.checkpoint, weights_only=True)["model"]
    bias = tensors["backbone.bottom_up.res4.1.conv2.offset.bias"]
    assert_close(bias, torch.arange(18).float())


@pytest.mark.parametrize(("name", "shape", "match"), [
    ("bbox_head.reppoints_pts_init_out.weight", (4, 64, 1, 1), "use_grid_points"),
    ("bbox_head.reppoints_pts_refine_out.bias", (50,), r"\(50,\) instead of \(18,\)"),
    ("bbox_head.reppoints_cls_conv.bias", (64,), "without a place: bbox_head.reppoints_cls_conv.b"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, name, shape, match):
    change = change_of(**{name: torch.ones(shape)})
    with pytest.raises((ConfigError, ValueError), match=match):
        convert_mmdet(source("reppoints", tmp_path, change), str(tmp_path / "out"))


@pytest.mark.parametrize(("path", "norm", "parameters", "entries"), [
    ("detectors/reppoints_R_50_FPN", "GN", 36_849_078, 371),
    ("detectors/reppoints_R_50_FPN", "", 36_845_494, 357),
    ("detectors/reppoints_X_101_DCN_FPN", "GN", None, 737),
])  # fmt: skip
def test_the_full_size_has_mmdetections_parameters(path, norm, parameters, entries):
    """As many as the released models, whose frozen batch norm counts too."""
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(ROOT / "configs" / f"{path}.yaml"), "test")
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.TOP_BLOCK_NORM = "meta", norm, norm
    cfg.MODEL.REPPOINTS.NORM = norm
    with torch.device("meta"):
        model = build_model(cfg)
    state = model.state_dict()
    count = sum(x.numel() for k, x in state.items() if not k.endswith(STATISTICS))
    assert parameters in (count, None)
    assert len(state) == entries
