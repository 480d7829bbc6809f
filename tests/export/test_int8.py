"""Files in INT8: what is quantized, what stays float, and that detections stay."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.errors import ConfigError, MissingFileError
from d2kd.export import export_int8, fit_image, open_exported
from d2kd.export.agreement import _same
from d2kd.export.calibration import COUNT, calibration_images
from d2kd.export.int8 import ALL, LAST, Part, quantize, table_of
from d2kd.export.write import to_onnx
from d2kd.quickstart.teacher import TEACHER
from tests.conftest import ROOT
from tests.export.conftest import lively
from tests.export.test_regions import lively as two_stage
from tests.faults.conftest import FULL
from tests.helpers import d2kd

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")

SIZE = {"size": (128, 128), "input_format": "RGB"}


def images(count=4):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(count)]


def quantized_layers(path):
    """Weighted nodes whose weight comes from a DequantizeLinear, and all of them."""
    graph = onnx.load(path).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    layers = [x for x in graph.node if x.op_type in ("Conv", "Gemm")]
    return [x for x in layers if made.get(x.input[1]) == "DequantizeLinear"], layers


@pytest.mark.parametrize("meta", ["RetinaNet", "GFL", "ATSS", "GeneralizedRCNN"])
def test_layers_are_quantized_and_decoding_is_not(tmp_path, meta):
    model, description = to_onnx(two_stage("Mask") if meta == "GeneralizedRCNN" else lively(meta),
                                 **SIZE)  # fmt: skip
    arrays = [fit_image(x, description)[0] for x in images()]
    made, parts = quantize(model, arrays, lambda other: 1.0)
    onnx.save(made, tmp_path / "x.onnx")
    found, layers = quantized_layers(tmp_path / "x.onnx")
    assert parts[-1].name == ALL and parts[-1].layers == len(layers) == len(found) > 5
    assert sum(x.layers for x in parts[:-1]) == len(layers)
    rounded = {x.input[0] for x in made.graph.node if x.op_type == "QuantizeLinear"}
    made_by = {node.op_type for node in made.graph.node if rounded & set(node.output)}
    assert not made_by & {"Softmax", "MatMul", "Exp", "TopK", "NonMaxSuppression", "Sub", "Gather"}
    exported = open_exported(tmp_path / "x.onnx")
    assert exported.description == description
    exported.run(arrays[0])


def test_the_table_says_what_stays_float():
    parts = [Part("trunk", 20, 0.98, True), Part("heads", 8, 0.314, False)]
    lines = table_of([part._asdict() for part in parts])
    assert lines[1:] == ["trunk      20  98.0%, INT8", "heads       8  31.4%, stays float"]
    parts = [parts[0], Part("heads", 8, 0.85, False), Part(ALL, 20, 0.98, True)]
    lines = [x.split() for x in table_of([part._asdict() for part in parts])]
    assert lines[2] == "heads 8 85.0%, stays float beside the others".split()
    assert lines[3] == "the file 20 98.0%, all these together".split()


@pytest.fixture(scope="module")
def gfl():
    model, description = to_onnx(lively("GFL"), **SIZE)
    return model, [fit_image(x, description)[0] for x in images()]


def test_a_part_that_is_destroyed_stays_float(gfl, tmp_path):
    """By what is measured: here the towers alone, as if they changed every detection."""
    model, arrays = gfl
    measured = iter([1.0, 0.2, 0.95, 0.93])
    made, parts = quantize(model, arrays, lambda other: next(measured))
    assert [x.name for x in parts] == ["pyramid", "heads", LAST, ALL]
    assert [x.quantized for x in parts] == [x.agreement > 0.5 for x in parts]
    onnx.save(made, tmp_path / "x.onnx")
    names = {x.input[1] for x in quantized_layers(tmp_path / "x.onnx")[0]}
    assert names and not any("subnet" in x for x in names)
    assert {x.key for x in made.metadata_props} == {x.key for x in model.metadata_props}


def test_parts_that_are_good_alone_and_bad_together_are_fewer(gfl, tmp_path):
    """The worst of them stays float, then the next, until the rest keeps enough."""
    model, arrays = gfl
    measured = iter([0.9, 0.85, 0.95, 0.7, 0.79, 0.95])
    made, parts = quantize(model, arrays, lambda other: next(measured))
    assert [(x.name, x.quantized) for x in parts] == [
        ("pyramid", False), ("heads", False), (LAST, True), (ALL, True)
    ]  # fmt: skip
    assert parts[-1].agreement == 0.95 and parts[-1].layers == parts[-2].layers
    onnx.save(made, tmp_path / "x.onnx")
    assert len(quantized_layers(tmp_path / "x.onnx")[0]) == parts[-1].layers


def test_nothing_that_keeps_the_detections(gfl):
    model, arrays = gfl
    with pytest.raises(ConfigError, match=r"heads 10.0%, .* 10.0% stay\): give --calib"):
        quantize(model, arrays, lambda other: 0.1)


def test_agreement():
    """Two detections, of which one moves; what is added counts against it; masks by overlap."""
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
    scores, classes = np.array([0.9, 0.5], np.float32), np.array([1, 2])
    masks = np.zeros((2, 4, 4), np.float32)
    masks[:, :2] = 1
    whole = boxes, scores, classes, masks
    assert _same(whole, whole) == (2, 2)
    moved = boxes + [[0], [5]], scores, classes, masks
    assert _same(whole, moved) == (1, 2)
    half = masks * np.array([1, 0, 0, 0])[:, None]
    assert _same(whole, (boxes, scores, classes, half)) == (1.0, 2)
    more = tuple(np.concatenate([x, x[:1] + 50]) for x in (boxes, scores, classes))
    assert _same(whole[:3], more) == (2, 3)
    assert _same((boxes, scores[:, None]), (boxes, scores[:, None] - [[0.2], [0]])) == (1, 2)


def test_the_command_keeps_the_digits(digits, tmp_path):
    folder = digits.files[0].parent
    custom = [["digits_of_int8", f"{folder}.json", str(folder)]]
    data = "DATASETS.CUSTOM", str(custom), "DATASETS.TEST", "('digits_of_int8',)"
    config, output = ROOT / "configs" / "quickstart" / "teacher.yaml", tmp_path / "x.onnx"
    words = "export", config, "--weights", TEACHER, *data, "--output"
    done = d2kd(*words, output, "--int8", "--calibrate", folder)
    assert done.exit_code == 0, done.output
    assert "same detections with it alone in INT8" in done.output
    assert "%, all these together" in done.output
    done = d2kd("eval", output, *data, "--output", tmp_path / "eval", "--json")
    found = json.loads(done.output.splitlines()[-1])
    assert found["AP"] > 60 and found["results"]["file"]["MB"] < 6
    (tmp_path / "y.bin").touch()
    done = d2kd(*words, tmp_path / "y.xml")
    assert "y.bin exists: name another" in str(done.exception)


@pytest.mark.skipif(not FULL, reason="takes long: make test-faults")
@needs_openvino
def test_openvino_computes_the_same_graph(teacher, digits, tmp_path):
    openvino_file = tmp_path / "x.xml"
    description = export_int8(teacher, openvino_file, digits.images, **SIZE)
    exported = open_exported(openvino_file)
    assert exported.description["int8"] == description["int8"]
    assert (tmp_path / "x.bin").stat().st_size < 6e6
    counts = [len(exported.run(fit_image(x, description)[0])[1]) for x in digits.images[:2]]
    assert min(counts) > 0


def test_calibration_images(tmp_path, squares, caplog):
    cfg = get_d2kd_cfg()
    with pytest.raises(MissingFileError, match="--calibrate .*none is no folder"):
        calibration_images(cfg, tmp_path / "none")
    with pytest.raises(ConfigError, match="no image for --int8 to .*; give --calibrate FOLDER"):
        calibration_images(cfg, tmp_path)
    for i in range(COUNT + 40):
        Image.new("RGB", (8 + i, 8), (i, 0, 255)).save(tmp_path / f"{i:03}.png")
    (tmp_path / "x.heic").touch()
    found = list(calibration_images(cfg, tmp_path))
    assert "1 files are of formats that are not read" in caplog.text and "x.heic" in caplog.text
    assert len(found) == COUNT and found[0][0, 0].tolist() == [255, 0, 0]  # BGR
    assert found[-1].shape[1] == 8 + COUNT + 39
    (tmp_path / "000.png").write_text("x")
    later = calibration_images(cfg, tmp_path)  # one by one
    with pytest.raises(ConfigError, match="--calibrate .*000.png"):
        next(later)
    cfg.DATASETS.CUSTOM = [["gone_train", "gone.json", "gone"]]
    cfg.DATASETS.TRAIN = ("gone_train",)
    with pytest.raises(MissingFileError, match="--int8 calibrates on DATASETS.TRAIN: .*Give"):
        calibration_images(cfg)


@pytest.mark.parametrize(("name", "options", "said"), [
    ("x.pt2", {}, "is for .onnx and .xml files"), ("x.onnx", {"fp16": True}, "without fp16"),
])  # fmt: skip
def test_what_has_no_int8(tmp_path, name, options, said):
    with pytest.raises(ConfigError, match=said):
        export_int8(lively("GFL"), tmp_path / name, images(1), **SIZE, **options)
    with pytest.raises(ConfigError, match="needs images to calibrate on"):
        export_int8(lively("GFL"), tmp_path / "x.onnx", [], **SIZE)
