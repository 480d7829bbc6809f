"""ONNX files in onnxruntime against the detectors that they were made of."""

import sys

import numpy as np
import pytest
import torch

from d2kd.errors import ConfigError, RunError
from d2kd.export import (
    check_export,
    export_onnx,
    fit_image,
    measure_export,
    open_exported,
)
from d2kd.export.check import pair_detections
from tests.conftest import ROOT
from tests.export.conftest import VARIANTS, lively

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="exporting needs onnxruntime")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

SIZE = {"size": (96, 160), "input_format": "BGR"}


@pytest.mark.parametrize("variant", [
    x for x in VARIANTS if x not in ("ATSS iou", "RepPoints minmax")  # as ATSS; below
])  # fmt: skip
def test_every_family_with_nms(variant, digits, tmp_path):
    model, path = lively(variant), tmp_path / "model.onnx"
    export_onnx(model, path, **SIZE, score_threshold=0.02)
    found = check_export(path, model, digits.images)
    assert found.images == 8 and found.detections > 80
    assert found.missing == found.added == 0


@pytest.mark.parametrize("variant", ["RetinaNet", "RepPoints minmax", "SDGQP"])
def test_all_boxes_without_nms(variant, digits, tmp_path):
    model, path = lively(variant), tmp_path / "model.onnx"
    export_onnx(model, path, **SIZE, nms=False)
    cells = 12 * 20
    anchors = 2 if variant == "RetinaNet" else 1
    assert check_export(path, model, digits.images).detections == 8 * cells * anchors
    boxes, scores = open_exported(path).run(np.zeros((1, 3, 96, 160), np.float32))
    assert boxes.shape == (cells * anchors, 4) and scores.shape == (cells * anchors, 3)


def test_the_trained_teacher_on_digits(teacher, teacher_onnx, digits):
    onnx.checker.check_model(onnx.load(teacher_onnx), full_check=True)
    found = check_export(teacher_onnx, teacher, digits.images)
    assert found.missing == found.added == 0 and found.detections >= len(digits.boxes)
    assert found.box_difference < 1e-3 and found.score_difference < 1e-5


def test_the_trained_teacher_on_photographs(teacher, teacher_onnx, data_root):
    from detectron2.data.detection_utils import read_image

    folders = data_root / "coco" / "val2017", data_root / "BCCD"
    files = [file for x in folders for file in sorted(x.rglob("*.jpg"))[:20]]
    images = [read_image(str(file), "RGB") for file in files]
    found = check_export(teacher_onnx, teacher, images)
    assert found.images == 40 and found.detections > 100


def test_the_file_describes_itself(teacher_onnx):
    about = open_exported(teacher_onnx).description
    assert about["detector"] == "RetinaNet" and about["size"] == [128, 128]
    assert about["channels"] == "RGB" and about["multiple"] == 16 and about["nms"] is True
    assert about["classes"] == list("0123456789") and about["num_classes"] == 10
    np.testing.assert_allclose(about["pad_value"], [123.675, 116.28, 103.53], rtol=1e-6)
    limits = [about[x] for x in ("score_threshold", "nms_threshold", "topk", "max_detections")]
    assert limits == [0.05, 0.5, 1000, 100]


def test_the_file_names_no_folder_of_this_machine(teacher_onnx):
    content = teacher_onnx.read_bytes()
    assert str(ROOT).encode() not in content and b"site-packages" not in content
    assert not list(teacher_onnx.parent.glob("*.data")) and not onnx.load(teacher_onnx).functions


def test_a_few_objects(teacher, teacher_onnx, digits):
    exported, counts = open_exported(teacher_onnx), []
    for rows in range(0, 80, 3):
        image = digits.images[0].copy()
        image[rows:] = 124
        padded, _ = fit_image(image, exported.description)
        counts.append(len(exported.run(padded)[1]))
        with torch.no_grad():
            stock = teacher([{"image": torch.from_numpy(padded[0])}])[0]["instances"]
        assert counts[-1] == len(stock)
    assert {0, 1} <= set(counts)


def test_an_image_without_objects(teacher_onnx):
    boxes, scores, classes = open_exported(teacher_onnx).run(np.zeros((1, 3, 128, 128), np.float32))
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)


def test_images_are_fitted_without_distortion(teacher_onnx):
    about = open_exported(teacher_onnx).description
    padded, scale = fit_image(np.full((50, 100, 3), 7, np.uint8), about)
    assert padded.shape == (1, 3, 128, 128) and padded.dtype == np.float32
    assert scale == 1.28 and (padded[:, :, :64] == 7).all()
    np.testing.assert_allclose(padded[0, :, 64:].mean((1, 2)), about["pad_value"], rtol=1e-5)


def test_other_weights_are_noticed(teacher, teacher_onnx, digits, tmp_path):
    import copy

    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.head.bbox_pred.bias.add_(0.01)
    with pytest.raises(RunError) as error:
        check_export(teacher_onnx, other, digits.images)
    assert "differs from the detector" in str(error.value) and "missing" in str(error.value)
    with pytest.raises(RunError) as error:
        check_export(teacher_onnx, teacher, [np.zeros((128, 128, 3), np.uint8)])
    assert "nothing was compared" in str(error.value)
    with pytest.raises(ConfigError) as error:
        check_export(teacher_onnx, lively("GFL"), digits.images)
    assert "of a RetinaNet with 10 classes, not of this GFL with 3" in str(error.value)


def test_pairs_have_class_box_and_score_in_common():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [20, 20, 30, 30]], np.float32)
    wanted = boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1])
    found = boxes[::-1] + 0.005, np.array([0.7, 0.80001, 0.95]), np.array([1, 0, 0])
    rows, columns = pair_detections(wanted, found, 0.01, 1e-4)
    assert (rows.tolist(), columns.tolist()) == ([1, 2], [1, 0])
    found = *found[:2], np.array([0, 0, 0])
    assert len(pair_detections(wanted, found, 0.01, 1e-4)[0]) == 1
    empty = boxes[:0], np.zeros(0), np.zeros(0, int)
    assert len(pair_detections(wanted, empty, 0.01, 1e-4)[0]) == 0


def test_size_and_time_are_measured(teacher, teacher_onnx, digits):
    threads = torch.get_num_threads()
    cost = measure_export(teacher_onnx, teacher, digits.images[0], repeats=2)
    assert cost.size_mb == pytest.approx(teacher_onnx.stat().st_size / 1e6)
    assert 12 < cost.size_mb < 16  # 3.4 million parameters of 4 bytes
    assert cost.exported_ms > 0 and cost.torch_ms > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["broken.onnx", "foreign.onnx", "none.onnx", "model.txt"])
def test_files_of_others_are_refused(name, tmp_path):
    path = tmp_path / name
    if name == "broken.onnx":
        path.write_bytes(b"no model")
    if name == "foreign.onnx":
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([node], "g", [value], [out])
        onnx.save(onnx.helper.make_model(graph, ir_version=10), path)
    with pytest.raises(ConfigError) as error:
        open_exported(path)
    assert str(path) in str(error.value)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError) as error:
        export_onnx(lively("RetinaNet"), tmp_path / "x.onnx", **SIZE)
    assert "onnxscript" in str(error.value) and "d2kd[export]" in str(error.value)
    assert not list(tmp_path.iterdir())
