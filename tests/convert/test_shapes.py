"""Shapes of all heads are compared before anything is computed; files of several detectors."""

import json

import pytest
import torch

from d2kd.convert import convert_mmdet
from d2kd.convert.architecture import infer
from d2kd.convert.config import build_config
from d2kd.convert.copies import one_detector
from d2kd.convert.details import details_from_text
from d2kd.convert.keys import target_names
from d2kd.convert.shapes import check_fit
from d2kd.errors import ConfigError
from tests.convert.test_mmdet import DATA, source
from tests.helpers import d2kd


def rows(name, count):
    """A change of the first dimension of a tensor."""

    def change(tensors):
        x = tensors[name]
        tensors[name] = torch.cat([x] * (count // len(x) + 1))[:count]

    return change


def both(*changes):
    return lambda tensors: [change(tensors) for change in changes]


def edit(name, function):
    return lambda tensors: tensors.update({name: function(tensors[name])})


def rename(name, other):
    return lambda tensors: tensors.update({other: tensors.pop(name)})


def shapes_of(name):
    """Tensors of a fixture, all ones."""
    shapes = json.loads((DATA / f"{name}.json").read_text())
    return {k: torch.ones(()).expand(tuple(shape)) for k, shape in shapes.items()}


def fit(tensors):
    arch = infer(tensors)
    details, _ = details_from_text("num_classes=3", arch)
    check_fit(tensors, target_names(tensors, arch), build_config(arch, details, ""), arch)


CLS, REG = "bbox_head.gfl_cls", "bbox_head.gfl_reg"
RETINA, ROI, RPN = "bbox_head.retina", "roi_head.bbox_head", "rpn_head.rpn"
CASES = [  # the fixtures have 3 classes: 27 rows in RetinaNet, 4 in GFLv2
    ("gflv2", rows(f"{CLS}.bias", 3), rf"{CLS}.bias \(3,\) instead of \(4,\)"),
    ("gflv2", rows(f"{CLS}.bias", 5), rf"{CLS}.bias \(5,\) instead of \(4,\)"),
    ("gflv2", rows(f"{CLS}.bias", 13), rf"{CLS}.bias \(13,\) instead of \(4,\)"),
    ("gflv2", rows(f"{CLS}.weight", 5), rf"{CLS}.bias \(4,\) instead of \(5,\)"),
    ("gflv2", rows("bbox_head.reg_conf.0.weight", 63), r"reg_conf.0.weight \(63, 20, 1, 1\)"),
    ("gflv2", rows(f"{REG}.bias", 67), rf"{REG}.bias \(67,\) instead of \(68,\)"),
    ("retinanet", rows(f"{RETINA}_cls.bias", 28), rf"{RETINA}_cls.bias \(28,\) instead of \(27,"),
    ("retinanet", rows(f"{RETINA}_reg.bias", 37), rf"{RETINA}_reg.bias \(37,\) instead of \(36,"),
    ("retinanet", rows(f"{RETINA}_cls.weight", 28), "needs 9 anchors|28"),
    ("retinanet", rows(f"{RETINA}_reg.weight", 37), "needs 9 anchors per cell, and the file"),
    ("fcos", rows("bbox_head.conv_reg.weight", 5), r"conv_reg.weight \(5, 64, 3, 3\) instead of"),
    ("fcos", rows("bbox_head.cls_convs.0.gn.bias", 63), r"gn.bias \(63,\) instead of \(64,\)"),
    ("fcos", edit("bbox_head.conv_cls.weight", lambda x: x[..., :1]), r"64, 3, 1\) instead"),
    ("atss", rows("bbox_head.atss_centerness.bias", 2), r"centerness.bias \(2,\) instead of \(1,"),
    ("atss", rename("bbox_head.reg_convs.1.conv.weight", "bbox_head.reg_convs.7.conv.weight"),
     "source tensors without a place: bbox_head.reg_convs.7.conv.weight"),
    ("atss", lambda tensors: tensors.pop("neck.fpn_convs.3.conv.weight"), "has 3 levels and"),
    ("atss", lambda t: t.update({"bbox_head.conv_centerness.bias": torch.ones(1)}),
     "1 targets of several tensors: head.ctrness.bias"),
    ("gfl", rows(f"{REG}.weight", 70), rf"{REG}.weight \(70, 64, 3, 3\) instead of \(68"),
    ("gfl", edit(f"{CLS}.weight", lambda x: x.flatten(1)), rf"{CLS}.weight \(3, 576\) instead of"),
    ("gfl", edit("bbox_head.scales.0.scale", lambda x: x[None]), r"scale \(1,\) instead of \(\)"),
    ("faster", rows(f"{ROI}.fc_reg.weight", 4), rf"{ROI}.fc_reg.weight \(4, \d+\) instead of \(12"),
    ("faster", rows(f"{RPN}_cls.bias", 4), rf"{RPN}_cls.bias \(4,\) instead of \(3,\)"),
    ("faster", rows(f"{RPN}_reg.weight", 13), rf"{RPN}_reg.weight \(13"),
    ("mask", rows("roi_head.mask_head.conv_logits.bias", 4), r"conv_logits.bias \(4,\) instead"),
    ("mask", edit("backbone.layer1.0.conv2.weight", lambda x: x[:1]), "instead of"),
    ("mask", edit("neck.lateral_convs.0.conv.weight", lambda x: x.flatten()), "It is none of"),
    ("mask", edit("backbone.conv1.weight", lambda x: x[:0]), "It is none of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "match"), CASES)
def test_shapes_that_do_not_fit(name, change, match):
    """Without files, which take long; `test_numbers_that_no_detector_has` has them."""
    tensors = shapes_of(name)
    fit(tensors)
    change(tensors)
    with pytest.raises(ConfigError, match=match) as info:
        fit(tensors)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(("change", "match"), [
    (edit(f"{CLS}.weight", torch.zeros_like), "nothing but zeros.*: head.cls_score.weight"),
    (edit(f"{CLS}.weight", lambda x: x.double() * 1e300), "infinite values in float32"),
    (edit(f"{CLS}.weight", lambda x: (9 * x).int()), "whole numbers where"),
    (edit("backbone.bn1.running_var", lambda x: -x), "variances below zero: backbone.bn1.runni"),
    (edit(f"{CLS}.bias", lambda x: x / 0), f"infinite values: {CLS}.bias"),
])  # fmt: skip
def test_numbers_that_no_detector_has(tmp_path, change, match):
    with pytest.raises(ConfigError, match=match):
        convert_mmdet(source("gfl", tmp_path, change), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def prefixed(*prefixes):
    """The tensors once for each prefix; those of the first one are the wanted ones."""

    def change(tensors):
        plain = dict(tensors)
        tensors.clear()
        for factor, prefix in enumerate(prefixes, 1):
            tensors.update({prefix + k: v * factor for k, v in plain.items()})

    return change


def with_averages(tensors):
    tensors.update({f"ema_{k.replace('.', '_')}": 2 * v for k, v in list(tensors.items())})


FILES = {
    "DDP": (prefixed("module."), ""),
    "EMAHook of mmdetection 2": (with_averages, "159 tensors of ema_"),
    "mmrazor": (prefixed("architecture.", "teacher."), "159 tensors of teacher."),
    "mean teacher": (prefixed("student.", "teacher."), "159 tensors of teacher."),
    "wrapped mean teacher": (
        prefixed("module.student.", "module.teacher."),
        "159 tensors of module.",
    ),
    "Lightning": (prefixed("model.", "ema_model."), "159 tensors of ema_"),
    "plain and teacher": (prefixed("", "teacher."), "159 tensors of teacher."),
}


@pytest.mark.parametrize("kind", list(FILES))
def test_one_detector_of_several_is_taken(kind):
    change, said = FILES[kind]
    plain = shapes_of("gfl")
    tensors = {**plain, "data_preprocessor.mean": torch.ones(3)}
    change(tensors)
    found, left_out = one_detector(tensors)
    assert left_out.startswith(said) and bool(left_out) == bool(said)
    assert set(found) == set(plain) and all(x.max() == 1 for x in found.values())
    fit(found)


def test_a_copy_beside_the_state_dict(tmp_path):
    """mmengine's EMAHook: what is to be used is under state_dict."""
    path = source("gfl", tmp_path)
    data = torch.load(path, weights_only=True)
    other = {f"module.{k}": v * 2 for k, v in data["state_dict"].items()}
    torch.save({**data, "ema_state_dict": {**other, "steps": torch.tensor(7)}}, path)
    done = convert_mmdet(path, str(tmp_path / "out"), "x")
    found = torch.load(done.checkpoint, weights_only=True)["model"]["head.cls_score.weight"]
    assert torch.equal(found, data["state_dict"][f"{CLS}.weight"])


def test_the_choice_is_the_users(tmp_path):
    change = prefixed("student.", "teacher.")
    path, out = source("gfl", tmp_path, change), tmp_path / "out"
    done = d2kd("convert", "mmdet", path, out, "--name", "x", "--prefix", "teacher")
    assert done.exit_code == 0 and "left out: 158 tensors of student." in done.output, done.output
    done = d2kd("convert", "mmdet", path, out, "--prefix", "nobody")
    assert done.exit_code == 1 and "Its prefixes: student., teacher.." in done.output
    state = {f"{name}.backbone.{kind}": torch.ones(1) for name in ("a", "b") for kind in "xy"}
    with pytest.raises(ConfigError, match=r"several detectors: choose one with --prefix. .*a\., b"):
        one_detector(state)
