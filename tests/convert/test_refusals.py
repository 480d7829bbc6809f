"""What the converter must not run, must not guess, and must not overwrite."""

from typing import Tuple

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.testing import assert_close

from d2kd.convert import convert_mmdet
from d2kd.convert.reader import read_mmdet
from tests.convert.test_mmdet import build, put, source


class Writer(nn.Module):
    """A TorchScript module that writes a file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.weight, self.path = nn.Parameter(torch.ones(2)), path

    @torch.jit.export
    def __getstate__(self) -> Tuple[Tensor, str, bool]:
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, str, bool]) -> None:
        self.weight, self.path, self.training = state
        print(torch.from_file(self.path, True, 4).add_(5.0))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_not_run(tmp_path):
    written = tmp_path / "WRITTEN"
    torch.jit.script(Writer(str(written))).save(str(tmp_path / "f.pth"))
    with pytest.raises(ValueError, match="it is a TorchScript program"):
        read_mmdet(str(tmp_path / "f.pth"))
    assert not written.exists()
    torch.jit.load(str(tmp_path / "f.pth"))
    assert written.exists()  # the file would have


def test_names_that_are_no_strings(tmp_path):
    torch.save({"state_dict": {1: torch.ones(1)}}, tmp_path / "f.pth")
    with pytest.raises(ValueError, match="tensors by name: a int for a name"):
        read_mmdet(str(tmp_path / "f.pth"))


@pytest.mark.parametrize(("text", "classes"), [("", 3), ("num_classes=3", 3), ("num_classes=4", 4)])
def test_the_text_decides_on_the_extra_row_of_gflv2(tmp_path, text, classes):
    done = convert_mmdet(source("gflv2", tmp_path, cfg=text), str(tmp_path), "x")
    assert done.architecture.num_classes == classes


def test_channel_order_is_not_the_style(tmp_path):
    """ResNeXt-101 32x8d: stride in the 3x3 convolution, yet BGR images and a std."""
    text = ("data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], "
            "bgr_to_rgb=False), backbone=dict(style='pytorch')")  # fmt: skip
    path = source("mask", tmp_path, cfg=text)
    config = yaml.safe_load(convert_mmdet(path, str(tmp_path), "x").config.read_text())
    assert config["INPUT"]["FORMAT"] == "BGR"
    assert config["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False
    assert config["MODEL"]["PIXEL_STD"] == [57.375, 57.12, 58.395]


def test_relu_between_extra_levels_as_the_text_says(tmp_path):
    path = source("atss", tmp_path, cfg="relu_before_extra_convs=True")
    config = yaml.safe_load(convert_mmdet(path, str(tmp_path), "x").config.read_text())
    assert config["MODEL"]["FPN"]["TOP_BLOCK_RELU"] is True


@pytest.mark.parametrize(("name", "text", "match"), [
    ("gfl", "_base_ = './gfl_r50_fpn_1x_coco.py'", "refers to others by _base_"),
    ("gfl", "add_extra_convs='on_lateral'", "on_lateral"),
    ("atss", "bbox_head=dict(type='PAAHead')", "PAA and LAD have the tensors of ATSS"),
    ("gfl", "anchor_generator=dict(octave_base_scale=4)", "octave_base_scale .4.0.; only GFL"),
    ("retinanet", "anchor_generator=dict(type='AnchorGenerator', ratios=[1.0])", "have ratios"),
    ("faster", "anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0])", r"have scales \[4.0\]"),
])  # fmt: skip
def test_configs_that_cannot_be_converted(tmp_path, name, text, match):
    with pytest.raises(ValueError, match=match):
        convert_mmdet(source(name, tmp_path, cfg=text), str(tmp_path), "x")


@pytest.mark.parametrize("name", ["retinanet", "faster"])
def test_anchors_as_released_are_accepted(tmp_path, name):
    scales = "scales=[8]" if name == "faster" else "octave_base_scale=4, scales_per_octave=3"
    text = f"anchor_generator=dict(type='AnchorGenerator', {scales}, ratios=[0.5, 1.0, 2.0])"
    assert convert_mmdet(source(name, tmp_path, cfg=text), str(tmp_path), "x").config.exists()


def without_extra_levels(tensors):
    for name in [k for k in tensors if k.startswith(("neck.fpn_convs.3.", "neck.fpn_convs.4."))]:
        del tensors[name]


def one_anchor(tensors):
    for layer, rows in (("cls", 3), ("reg", 4)):
        for kind in ("weight", "bias"):
            name = f"bbox_head.retina_{layer}.{kind}"
            tensors[name] = tensors[name][:rows]


@pytest.mark.parametrize(("change", "match"), [
    (without_extra_levels, "has 3 levels and 0 convolutions for levels above them"),
    (one_anchor, "needs 9 anchors per cell, and the file has 1"),
    (put("backbone.layer1.0.conv2.weight"), "It is none of"),
    (lambda tensors: tensors.pop("bbox_head.retina_reg.weight"), "It is none of"),
])  # fmt: skip
def test_shapes_that_cannot_be_converted(tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        convert_mmdet(source("retinanet", tmp_path, change), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        convert_mmdet(source("gfl", tmp_path), str(tmp_path / "file" / "out"))


def test_anchors_of_the_rpn(tmp_path):
    """Squares of 8 strides, stretched to ratios of height to width, around the cell's corner."""
    model, _ = build(convert_mmdet(source("faster", tmp_path), str(tmp_path), "x").config)
    cells = list(model.proposal_generator.anchor_generator.cell_anchors)
    assert len(cells) == 5
    for stride, boxes in zip((4, 8, 16, 32, 64), cells, strict=True):
        half = 4 * stride
        long, short = half * 2**0.5, half / 2**0.5
        expected = [[-long, -short, long, short], [-half, -half, half, half],
                    [-short, -long, short, long]]  # fmt: skip
        assert_close(boxes, torch.tensor(expected))


@pytest.mark.parametrize(("name", "nms"), [("gfl", 0.6), ("atss", 0.6), ("fcos", 0.5),
                                           ("fcos_tricks", 0.6), ("retinanet", 0.5)])  # fmt: skip
def test_inference_is_set_as_in_the_released_configs(tmp_path, name, nms):
    model, cfg = build(convert_mmdet(source(name, tmp_path), str(tmp_path), "x").config)
    assert (model.test_nms_thresh, model.test_score_thresh) == (nms, 0.05)
    assert (model.test_topk_candidates, model.max_detections_per_image) == (1000, 100)
    assert_close(model.pixel_mean[:, 0, 0], torch.tensor([123.675, 116.28, 103.53]))
    assert_close(model.pixel_std[:, 0, 0], torch.tensor([58.395, 57.12, 57.375]))
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.BACKBONE.NORM_EVAL


def test_autoassign_as_released(tmp_path):
    """P6 from the trunk's last stage, ReLU before P7, caffe's pixels; the shapes tell neither."""
    path = source("autoassign", tmp_path, cfg="style='caffe'")
    config = yaml.safe_load(convert_mmdet(path, str(tmp_path), "x").config.read_text())
    model = config["MODEL"]
    assert model["META_ARCHITECTURE"] == "AutoAssign" and model["AUTOASSIGN"]["NUM_CLASSES"] == 3
    assert model["FPN"]["TOP_BLOCK_INPUT"] == "stage" and model["FPN"]["TOP_BLOCK_RELU"] is True
    assert model["PIXEL_MEAN"] == [102.9801, 115.9465, 122.7717]
    assert config["INPUT"]["FORMAT"] == "BGR" and model["RESNETS"]["STRIDE_IN_1X1"] is True
    alone = source("fcos_tricks", tmp_path, put("bbox_head.center_prior.mean", 3, 2))
    with pytest.raises(ValueError, match="1 target tensors left empty: center_prior.sigma"):
        convert_mmdet(alone, str(tmp_path), "y")
