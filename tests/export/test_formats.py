"""OpenVINO's files, half precision, and formats by name."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from d2kd.errors import ConfigError
from d2kd.export import (
    check_export,
    export_onnx,
    export_openvino,
    export_pt2,
    measure_export,
    open_exported,
)
from d2kd.export.check import compare_export
from d2kd.export.formats import output_of
from d2kd.quickstart.teacher import TEACHER
from tests.conftest import ROOT
from tests.export.conftest import lively
from tests.export.test_regions import lively as regions
from tests.faults.conftest import FULL
from tests.helpers import d2kd

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxruntime", reason="exporting needs onnxruntime")
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="it is about openvino")

SIZE = {"size": (96, 160), "input_format": "BGR"}
LOW = {"score_threshold": 0.02}


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (6, 96, 160, 3), np.uint8))


@needs_openvino
@pytest.mark.parametrize("make, kind, options", [
    (lively, "GFLv2", {"dynamic_batch": True, **LOW}),
    (lively, "RetinaNet", {"nms": False}),
    (regions, "Mask", {"masks": "raw", **LOW}),
    (regions, "Cascade", {"masks": "pasted", **LOW}),
])  # fmt: skip
def test_openvino_gives_the_detections_of_pytorch(make, kind, options, images, tmp_path):
    model, path = make(kind), tmp_path / "model.xml"
    export_openvino(model, path, **SIZE, **options)
    assert {x.name for x in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    found = check_export(path, model, images)
    assert found.detections > 60 and found.missing == found.added == 0
    about = open_exported(path).description
    assert about["size"] == [96, 160] and about["num_classes"] == 3
    content = path.read_bytes()
    assert not [x for x in (b"/home", b"/tmp", b"site-packages") if x in content]


@needs_openvino
def test_an_operator_that_openvino_lacks_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No conversion rule found for operations: DeformConv"):
        export_openvino(lively("RepPoints"), tmp_path / "x.xml", **SIZE)
    assert not list(tmp_path.iterdir())


@needs_openvino
def test_other_xml_files_are_refused(tmp_path):
    (tmp_path / "voc.xml").write_text("<annotation><object/></annotation>")
    with pytest.raises(ConfigError, match="voc.xml is no file that d2kd exported"):
        open_exported(tmp_path / "voc.xml")


def test_a_missing_openvino_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"needs openvino .* pip install 'd2kd\[openvino\]'"):
        export_openvino(lively("RetinaNet"), tmp_path / "x.xml", **SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make, kind", [(lively, "GFLv2"), (regions, "Mask")])
def test_half_weights_move_boxes_little(make, kind, images, tmp_path):
    model, path = make(kind), tmp_path / "half.onnx"
    export_onnx(model, path, **SIZE, score_threshold=0.02, fp16=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    weights = {x.name: x for x in onnx.load(path).graph.initializer if x.name.endswith(".half")}
    assert weights and {x.data_type for x in weights.values()} == {onnx.TensorProto.FLOAT16}
    exported = open_exported(path)
    assert exported.description["fp16"] is True
    found = compare_export(exported, model, images, 1.0, 0.01)
    assert found.detections > 60 and found.missing < 0.05 * found.detections
    assert 1e-5 < found.score_difference


@needs_openvino
def test_half_files_have_half_the_size(teacher, teacher_onnx, digits, tmp_path):
    options = {"size": (128, 128), "input_format": "RGB", "fp16": True}
    sizes = {}
    for write, name in ((export_onnx, "half.onnx"), (export_openvino, "half.xml")):
        write(teacher, tmp_path / name, **options)
        cost = measure_export(tmp_path / name, teacher, digits.images[0], repeats=1)
        sizes[name] = cost.size_mb / (teacher_onnx.stat().st_size / 1e6)
        found = compare_export(open_exported(tmp_path / name), teacher, digits.images, 1.0, 0.02)
        assert found.detections > 50 and found.missing + found.added <= 2
    assert 0.45 < sizes["half.onnx"] < 0.56 and 0.45 < sizes["half.xml"] < 0.7


def test_pt2_files_have_no_half_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"fp16 \(--fp16\) is for .onnx and .xml files"):
        export_pt2(lively("GFL"), tmp_path / "x.pt2", **SIZE, fp16=True)


def test_the_format_names_the_file():
    assert output_of(None, None) == output_of(None, "onnx") == Path("student.onnx")
    assert output_of(None, "openvino") == Path("student.xml")
    assert output_of(Path("a/b"), "pt2") == Path("a/b.pt2")
    assert output_of(Path("a/b"), None) == Path("a/b")
    with pytest.raises(ConfigError, match="--format pt2 is for .pt2: end --output a.xml with it"):
        output_of(Path("a.xml"), "pt2")


@pytest.mark.skipif(not FULL, reason="takes long: make test-faults")
@needs_openvino
def test_the_command_writes_openvino_in_half_precision(digits, tmp_path):
    folder = digits.files[0].parent
    custom = [["digits_of_formats", f"{folder}.json", str(folder)]]
    data = "DATASETS.CUSTOM", str(custom), "DATASETS.TEST", "('digits_of_formats',)"
    config, output = ROOT / "configs" / "quickstart" / "teacher.yaml", tmp_path / "student"
    done = d2kd("export", config, "--weights", TEACHER, "--format", "openvino", "--fp16",
                "--output", output, *data)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"wrote {output}.xml: RetinaNet with NMS, 128x128 px" in done.output
    assert "compared on 4 images: " in done.output and "d2kd eval" in done.output
    done = d2kd("eval", f"{output}.xml", *data, "--output", tmp_path / "eval", "--json")
    found = json.loads(done.output.splitlines()[-1])
    assert found["AP"] > 30 and found["results"]["file"]["MB"] < 9
