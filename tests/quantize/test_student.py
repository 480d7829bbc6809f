"""Which layers of a detector round, and where."""

import copy
import math

import pytest
import torch
from torch import nn

from d2kd.config.loading import load_config
from d2kd.errors import ConfigError
from d2kd.inference.predict import build_student
from d2kd.quantize import is_quantized, quantize_student, quantized_convolutions
from d2kd.quantize.layers import Range
from d2kd.testing import make_batch
from tests.conftest import ROOT
from tests.helpers import detector, pair
from tests.quantize.conftest import config

DENSE = ["RetinaNet", "FCOS", "ATSS", "GFL", "DDOD", "AutoAssign"]
PREDICT = "cls_score", "bbox_pred", "ctrness", "objectness_logits", "anchor_deltas"


def convolutions(model):
    return [name for name, x in model.named_modules() if isinstance(x, nn.Conv2d)]


def ranges(model):
    return {name for name, x in model.named_modules() if isinstance(x, Range)}


@pytest.mark.parametrize("meta", [*DENSE, "GeneralizedRCNN"])
def test_all_convolutions_are_quantized_but_the_last(quantized, meta):
    model = detector(meta)
    plain, names = copy.deepcopy(model), convolutions(model)
    quantized(model)
    left = {name for name, x in plain.named_modules() if type(x).__name__ == "DeformConv2d"}
    expected = [x for x in names if not x.startswith("roi_heads.") and x not in left]
    assert quantized_convolutions(model) == expected and len(expected) > 7
    assert list(model.state_dict()) == list(plain.state_dict())
    kept = quantized_convolutions(quantized(copy.deepcopy(plain), "last convolutions"))
    assert {*expected} - {*kept} == {x for x in expected if x.endswith(PREDICT)}
    trunk = quantized_convolutions(quantized(plain, "heads", "last convolutions"))
    assert trunk == [x for x in expected if x.startswith("backbone.")]


@pytest.mark.parametrize(("name", "count"), [("own/student", 64), ("bccd/student", 60)])
def test_trunks_of_timm_are_quantized_behind_their_batch_norm(quantized, name, count):
    pytest.importorskip("timm")
    options = ["MODEL.DEVICE", "cpu"]
    model = build_student(load_config(str(ROOT / "configs" / f"{name}.yaml"), options))
    total = len(convolutions(model))
    quantized(model, "last convolutions")
    assert len(quantized_convolutions(model)) == count == total - 2
    body = "backbone.bottom_up.body."
    assert f"{body}blocks.1.0.bn3.output_range" in ranges(model)
    assert f"{body}blocks.1.0.conv_pwl.output_range" not in ranges(model)
    assert f"{body}blocks.1.0.conv_dw.output_range" not in ranges(model)
    hard_swish = f"{body}blocks.3.0.bn1.act.input_range"  # which integers lack
    assert (hard_swish in ranges(model)) == (name == "bccd/student")


def test_a_resnet_rounds_what_its_additions_read(quantized):
    stages = ["res3", "res4", "res5"]
    model = detector("GFL", MODEL__BACKBONE__NAME="build_retinanet_resnet_fpn_backbone",
                     MODEL__RESNETS__DEPTH=18, 
                     MODEL__RESNETS__RES2_OUT_CHANNELS=64, MODEL__RESNETS__OUT_FEATURES=stages,
                     MODEL__FPN__IN_FEATURES=stages)  # fmt: skip
    quantized(model, "last convolutions")
    behind = {x for x in ranges(model) if x.endswith("output_range") and ".res3." in x}
    block = "backbone.bottom_up.res3"
    assert behind == {f"{block}.{x}.output_range" for x in ("0.conv2", "0.shortcut", "1.conv2")}
    assert len(quantized_convolutions(model)) == len(convolutions(model)) - 2
    stem = {"stem.conv1.output_range", "res2.0.conv1.input_range"}  # ReLU and pooling between
    assert stem <= {x.removeprefix("backbone.bottom_up.") for x in ranges(model)}


def test_what_is_read_as_it_was_rounded_is_not_rounded_again(quantized):
    model = quantized(detector("GFL"), "last convolutions")
    found = ranges(model)
    assert "backbone.downs.2.input_range" in found  # of one convolution and ReLU
    assert "head.cls_subnet.2.output_range" in found  # its reader stays float
    assert not {x for x in found if "cls_score" in x or "bbox_pred" in x}


@pytest.mark.parametrize("heads", [("CrossKD",), ("PGD",), ("PKD", "BCKD")])
def test_a_distiller_that_does_not_round_is_the_float_one(quantized, heads):
    (_, plain), (student, model) = pair("GFL", heads, 8), pair("GFL", heads, 8)
    quantized(student, "last convolutions", rounds=False)
    torch.manual_seed(0)
    wanted = plain(make_batch())
    torch.manual_seed(0)
    found = model(make_batch())
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(("meta", "head"), [
    *((meta, "CrossKD") for meta in DENSE[:-1]), ("AutoAssign", "PGD"), ("GFL", "PKD"),
    ("GFL", "LD"), ("GeneralizedRCNN", "PKD"),
])  # fmt: skip
def test_methods_teach_a_quantized_student(quantized, meta, head):
    student, model = pair(meta, (head,), 8)
    quantized(student, "last convolutions")
    losses = model(make_batch())
    sum(losses.values()).backward()
    assert all(math.isfinite(x.item()) for x in losses.values())
    assert all(x.grad is not None for x in student.parameters() if x.requires_grad)
    assert all(x.seen > 0 for x in student.modules() if isinstance(x, Range))
    assert not any(is_quantized(teacher.detector) for teacher in model.teachers)


def test_what_cannot_be_quantized_is_refused(quantized):
    model = quantized(detector("GFL"), "last convolutions")
    with pytest.raises(ConfigError, match="QUANTIZE.ENABLED: this detector is quantized already"):
        quantize_student(model, config())
    everything = "trunk", "pyramid", "heads", "last convolutions"
    with pytest.raises(ConfigError, match="GFL has no convolution to quantize beside QUANTIZE"):
        quantize_student(detector("GFL"), config(*everything))


def test_nothing_changes_where_it_is_off():
    model = detector("GFL")
    quantize_student(model, config(on=False))
    assert not is_quantized(model)
