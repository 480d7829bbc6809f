"""`d2kd eval` of exported files: the AP of PyTorch, latency and size."""

import json
import shutil

import numpy as np
import pytest
import torch

from d2kd.export import export_onnx, export_pt2
from d2kd.export.evaluate import ExportedDetector
from d2kd.export.runner import open_exported
from d2kd.quickstart.teacher import TEACHER
from tests.conftest import ROOT
from tests.export.conftest import lively
from tests.export.test_regions import lively as regions
from tests.faults.conftest import FULL
from tests.helpers import d2kd

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxruntime", reason="exporting needs onnxruntime")
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture
def data(digits):
    folder = digits.files[0].parent
    custom = [["digits_of_export", f"{folder}.json", str(folder)]]
    return "DATASETS.CUSTOM", str(custom), "DATASETS.TEST", "('digits_of_export',)"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_file_has_the_ap_of_the_detector(teacher_onnx, digits, data, tmp_path):
    folder = tmp_path / "only_test"
    folder.mkdir()
    for file in (digits.files[0].parent, digits.files[0].parent.with_suffix(".json")):
        (folder / file.name).symlink_to(file)
    done = d2kd("eval", teacher_onnx, "--data", folder, "--output", tmp_path / "file")
    assert done.exit_code == 0, done.output
    config = ROOT / "configs" / "quickstart" / "teacher.yaml"
    words = "--weights", TEACHER, "--output", tmp_path / "torch"
    assert d2kd("eval", config, *data, *words).exit_code == 0
    file, stock = results(tmp_path / "file"), results(tmp_path / "torch")
    assert stock["results"]["bbox"]["AP"] > 30
    for name, value in stock["results"]["bbox"].items():
        assert file["results"]["bbox"][name] == pytest.approx(value, abs=0.01, nan_ok=True), name
    assert file["results"]["best_f1"] == stock["results"]["best_f1"]
    measured = file["results"]["file"]
    assert measured["threads"] == 1 and measured["MB"] == teacher_onnx.stat().st_size / 1e6
    assert 0 < measured["ms"]["batch 1"]["median"] <= measured["ms"]["batch 1"]["p95"]
    assert list(measured["ms"]) == ["batch 1"] and str(teacher_onnx) in str(file["run"])
    assert "AP50 " in done.output and " MB; ms per image on one CPU thread" in done.output


@pytest.mark.skipif(not FULL, reason="takes long: make test-faults")
def test_a_pt2_file_of_any_batch_is_timed_with_eight_too(teacher, data, tmp_path):
    path = tmp_path / "x.pt2"
    export_pt2(teacher, path, size=(128, 128), input_format="RGB", class_names=DIGITS,
               dynamic_batch=True)  # fmt: skip
    done = d2kd("eval", path, *data, "--output", tmp_path / "file", "--json")
    found = json.loads(done.output.splitlines()[-1])
    assert found["AP"] > 30 and list(found["results"]["file"]["ms"]) == ["batch 1", "batch 8"]


def test_boxes_and_masks_are_those_of_the_detector_in_the_photo(tmp_path):
    model, path = regions("Mask"), tmp_path / "x.onnx"
    export_onnx(model, path, size=(96, 160), input_format="BGR")
    image = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    found = ExportedDetector(open_exported(path), True)([{"image": image}])[0]["instances"]
    with torch.no_grad():
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()
        stock = model([{"image": pixels, "height": 96, "width": 160}])[0]["instances"]
    torch.testing.assert_close(found.pred_boxes.tensor, stock.pred_boxes.tensor, rtol=0, atol=0.01)
    assert len(stock) > 5 and (found.pred_masks != stock.pred_masks).float().mean() < 1e-4
    found = ExportedDetector(open_exported(path), False)([{"image": image[::2, ::2]}])
    assert not found[0]["instances"].has("pred_masks")
    assert found[0]["instances"].image_size == (48, 80)


def _foreign(path):
    value = [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1]) for x in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, ir_version=10)
    onnx.helper.set_model_props(model, {"names": "{0: 'person'}", "size": "[640, 640]"})
    onnx.save(model, path)


def test_what_cannot_be_evaluated_is_one_line(teacher_onnx, digits, data, tmp_path, caplog):
    _foreign(tmp_path / "yolo.onnx")
    done = d2kd("eval", tmp_path / "yolo.onnx", *data)
    assert "its description lacks channels, classes, multiple, " in done.output
    done = d2kd("eval", teacher_onnx)
    assert done.exit_code == 1 and "A file has no data of its own: add --data" in done.output
    (tmp_path / "x").mkdir()
    shutil.copy(digits.files[0].parent.with_suffix(".json"), tmp_path / "x" / "train.json")
    (tmp_path / "x" / "images").symlink_to(digits.files[0].parent)
    done = d2kd("eval", teacher_onnx, "--data", tmp_path / "x")
    assert "x has no split 'val' or 'test': nothing to test on until d2kd distill" in done.output
    for words, said in (
        (["--weights", "x.pth"], "holds its weights: leave --weights and --last out"),
        (["--last"], "holds its weights: leave --weights and --last out"),
        (["--num-gpus", 2], "--num-gpus changes nothing of an exported file"),
        (["MODEL.GFL.SCORE_THRESH_TEST", 0.5], "MODEL.GFL.SCORE_THRESH_TEST changes nothing of"),
        (["TEST.DETECTIONS_PER_IMAGE", 9], "TEST.DETECTIONS_PER_IMAGE changes nothing of"),
        (["DATASETS.TESTS", "x"], "DATASETS.TESTS changes nothing of an exported file"),
        (["DATASETS.TEST"], "pairs KEY VALUE, but these are 5: DATASETS.CUSTOM"),
        (["DATASETS.TEST", "(3"], "DATASETS.TEST: "),
    ):
        done = d2kd("eval", teacher_onnx, *data, *words)
        assert done.exit_code == 1 and said in done.output, done.output
    done = d2kd("eval", tmp_path / "none.onnx", *data)
    assert done.exit_code == 1 and "none.onnx does not exist" in done.output
    options = {"size": (96, 160), "input_format": "BGR"}
    export_pt2(lively("GFL"), tmp_path / "x.pt2", **options, nms=False)
    done = d2kd("eval", tmp_path / "x.pt2", *data)
    assert "x.pt2 has all boxes, without NMS: export it without --no-nms" in done.output
    export_pt2(lively("GFL"), tmp_path / "x.pt2", **options)
    done = d2kd("eval", tmp_path / "x.pt2", *data)
    assert "x.pt2 has the classes 3; 'digits_of_export' has 0, 1, 2" in done.output
    assert "torch.export.load can run code that" in caplog.text


def test_other_class_names_are_said(teacher, data, tmp_path, caplog):
    path, names = tmp_path / "x.onnx", [*DIGITS[:9], "zero"]
    export_onnx(teacher, path, size=(128, 128), input_format="RGB", class_names=names)
    assert d2kd("eval", path, *data, "--output", tmp_path / "file").exit_code == 0
    assert "1 of 10 classes of 'digits_of_export' are not those of" in caplog.text
    assert "(9: '9' and 'zero')" in caplog.text
