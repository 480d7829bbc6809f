"""A folder that finds the same where neither d2kd nor torch can be imported."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2kd.config.loading import load_config
from d2kd.export import export_onnx
from d2kd.export.device_bundle import write
from d2kd.quickstart.digits import DigitsSpec, build_digits
from d2kd.quickstart.teacher import TEACHER
from tests.conftest import ROOT
from tests.export.conftest import BEST_F1, lively
from tests.helpers import d2kd, write_config

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
run = pytest.importorskip("d2kd.export.device_bundle.run", reason="needs onnxruntime")

FILES = {"model.onnx", "labels.txt", "preprocessing.json", "run.py", "photo.py", "requirements.txt",
         "example.png", "expected.json", "README.md"}  # fmt: skip
ALONE = (
    "import runpy, sys; sys.path.insert(0, ''); "
    "sys.modules.update(dict.fromkeys('d2kd detectron2 torch torchvision onnx timm'.split())); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def alone(folder, *words):
    """`python run.py` in a folder, without what a device lacks."""
    command = [sys.executable, "-I", "-c", ALONE, "run.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    pytest.importorskip("timm", reason="the teacher's trunk is timm's")
    folder = tmp_path_factory.mktemp("data")
    build_digits(folder, DigitsSpec(num_train=1, num_test=3))
    return folder


@pytest.fixture(scope="module")
def bundle(digits_folder, tmp_path_factory):
    """Of the quick start's teacher; the first test image is without a digit."""
    Image.new("RGB", (128, 128)).save(sorted((digits_folder / "test").glob("*.jpg"))[0])
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    labels, images = digits_folder / "test.json", digits_folder / "test"
    done = d2kd("export", "quickstart/teacher.yaml", "--weights", TEACHER, "--bundle", folder,
                "--check-images", 2, "MODEL.DEVICE", "cpu", "DATASETS.TEST", "('few',)",
                "DATASETS.CUSTOM", f"[['few', '{labels}', '{images}']]")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "checked on 2 images: the same " in done.output and "example.png has " in done.output
    return folder


def test_it_has_all_that_is_needed_and_nothing_of_this_machine(bundle):
    assert {x.name for x in bundle.iterdir()} == FILES
    assert (bundle / "labels.txt").read_text().splitlines() == list("0123456789")
    for file in bundle.iterdir():
        assert not [x for x in (ROOT, bundle) if str(x).encode() in file.read_bytes()], file
    _, about = run.load(bundle / "model.onnx")
    given = read(bundle / "preprocessing.json")
    assert given["size"] == [128, 128] and given["channels"] == "RGB" and given["scale"] == 1
    assert given["resize"] == about["resize"] == [128, 1333]
    assert given["pad_value"] == about["pad_value"] and given["score_threshold"] == 0.05
    assert given["shown_from"] == run.lowest_score(about)
    assert "# RetinaNet, 10 classes" in (bundle / "README.md").read_text()


def test_the_example_is_the_first_image_with_objects_as_pytorch_finds_them(
    bundle, teacher, digits_folder
):
    expected = read(bundle / "expected.json")
    pixels = np.asarray(Image.open(bundle / "example.png"))
    second = sorted((digits_folder / "test").glob("*.jpg"))[1]
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(second)))
    with torch.no_grad():
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()
        stock = teacher([{"image": image}])[0]["instances"]
    stock = stock[stock.scores >= expected["threshold"]]
    rows = expected["detections"]
    assert len(rows) == len(stock) >= 1
    assert [x["index"] for x in rows] == stock.pred_classes.tolist()
    boxes = torch.tensor([x["box"] for x in rows])
    torch.testing.assert_close(boxes, stock.pred_boxes.tensor, rtol=0, atol=0.01)


def test_it_finds_what_is_expected_without_torch_and_d2kd(bundle, tmp_path):
    there = shutil.copytree(bundle, tmp_path / "there")
    done = alone(there, "--check")
    assert done.returncode == 0, done.stderr
    rows = read(there / "expected.json")["detections"]
    assert done.stdout.startswith(f"as expected: {len(rows)} detections in example.png, within ")
    done = alone(there, "example.png", "--json", "found.json", "--draw", "drawn.png")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(rows), done.stderr
    assert read(there / "found.json")["detections"] == rows
    assert (np.asarray(Image.open(there / "drawn.png")) == (255, 0, 0)).all(-1).any()
    few = alone(there, "example.png", "--threshold", 1)
    assert few.returncode == 0 and few.stdout == ""


def test_another_model_is_not_what_was_expected(bundle, tmp_path):
    there = shutil.copytree(bundle, tmp_path / "there")
    export_onnx(lively("RetinaNet"), there / "model.onnx", size=(128, 128), input_format="RGB")
    done = alone(there, "--check")
    count = len(read(bundle / "expected.json")["detections"])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{count} of {count} detections are missing" in done.stderr
    (there / "model.onnx").write_bytes(b"no model")
    done = alone(there, "--check")
    assert done.returncode == 1 and "is no ONNX file that onnxruntime opens" in done.stderr


def test_any_exported_file_runs_from_its_own_threshold_on(teacher, teacher_onnx, digits, tmp_path):
    for name in ("run.py", "photo.py"):
        shutil.copy(write.HERE / name, tmp_path)
    done = alone(tmp_path, digits.files[0], "--model", teacher_onnx)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        image = torch.from_numpy(digits.images[0].transpose(2, 0, 1).copy()).float()
        stock = teacher([{"image": image}])[0]["instances"]
    stock = stock[stock.scores >= BEST_F1["threshold"]]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert f"with a score of {BEST_F1['threshold']} or more" in done.stderr
    assert len(lines) == len(stock) >= 3
    assert [int(line[0]) for line in lines] == stock.pred_classes.tolist()
    values = torch.tensor([[float(x) for x in line[1:]] for line in lines])
    torch.testing.assert_close(values[:, 0], stock.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(values[:, 1:], stock.pred_boxes.tensor, rtol=0, atol=0.01)


@pytest.mark.parametrize("words, message", [
    (["absent.jpg"], "absent.jpg cannot be read as an image"), ([], "give a PHOTO, or --check"),
    (["run.py", "--check"], "give a PHOTO, or --check")])  # fmt: skip
def test_wrong_words_for_the_program_are_one_line(bundle, words, message):
    done = alone(bundle, *words)
    assert done.returncode in (1, 2) and message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("change, found", [
    ({}, ([], [])), ({"box": [0, 0, 10.9, 10]}, ([], [])), ({"score": 0.81}, ([], [])),
    ({"box": [0, 0, 11.1, 10]}, ([0], [0])), ({"score": 0.83}, ([0], [0])),
    ({"index": 1}, ([0], [0])), ({"mask": {"size": [1, 10], "counts": [0, 9, 1]}}, ([0], [0])),
])  # fmt: skip
def test_what_counts_as_the_same(change, found):
    mask = {"size": [1, 10], "counts": [0, 10]}
    one = {"index": 0, "score": 0.8, "box": [0, 0, 10, 10], "mask": mask}
    near = {**one, "score": 0.51, "index": 7}  # to the threshold: may be missing or added
    expected = {"threshold": 0.5, "tolerances": write.TOLERANCES, "detections": [one, near]}
    missing, added = run.compare(expected, [{**one, **change}])
    assert ([0] * len(missing), [0] * len(added)) == found
    twice = run.compare(expected, [one, one])
    assert twice == ([], [one])


def test_the_description_is_read_beside_what_other_tools_wrote(bundle, tmp_path):
    model, path = onnx.load(bundle / "model.onnx"), tmp_path / "x.onnx"
    wanted = run.load(bundle / "model.onnx")[1]
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    onnx.save(model, path)
    assert run.load(path)[1] == wanted
    values = {x.key: x.value for x in model.metadata_props}
    for change, said in (({}, "has all boxes, without NMS: export it without --no-nms"),
                         ({"size": "big"}, "is no file of d2kd export")):  # fmt: skip
        value = [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1]) for x in "xy"]
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
        other = onnx.helper.make_model(graph, ir_version=10)
        onnx.helper.set_model_props(other, {**values, **change})
        onnx.save(other, path)
        with pytest.raises(SystemExit, match=said):
            run.load(path)


def test_nothing_that_is_read_is_written_and_names_are_looked_at_first(bundle, tmp_path):
    picture = tmp_path / "photo.jpg"
    shutil.copy(bundle / "example.png", picture)
    content, model = picture.read_bytes(), str(bundle / "model.onnx")
    (tmp_path / "link.jpg").symlink_to(picture)
    for words, said in (
        (["--draw", picture], "--draw .*photo.jpg would overwrite what is read"),
        (["--draw", tmp_path / "link.jpg"], "would overwrite what is read"),
        (["--json", model], "--json .*model.onnx would overwrite what is read"),
        (["--draw", "x.foo", "--model", "none.onnx"], "--draw x.foo: end the name with .png or"),
        (["--draw", tmp_path / "no" / "x.png"], "x.png cannot be written: No such file"),
    ):
        with pytest.raises(SystemExit, match=said):
            run.main([str(x) for x in (picture, "--model", model, *words)])
    assert picture.read_bytes() == content and not Path("x.foo").exists()


def finding(path, boxes, **more):
    """A file that finds boxes in every image, with all there is in their masks."""
    count = len(boxes)
    outputs = {"boxes": np.array(boxes, np.float32), "scores": np.full(count, 0.75, np.float32),
               "classes": np.zeros(count, np.int64),
               "masks": np.ones((count, 4, 4), np.float32)}  # fmt: skip
    nodes = [onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(x))
             for name, x in outputs.items()]  # fmt: skip
    typed = [(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for name, x in outputs.items()]  # fmt: skip
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 64, 128])
    values = [onnx.helper.make_tensor_value_info(*x) for x in typed]
    graph = onnx.helper.make_graph(nodes, "g", [image], values)
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opset)
    about = {"size": [64, 128], "resize": [0, 999], "channels": "RGB", "pad_value": [0, 0, 0],
             "classes": [], "masks": "raw", **more}  # fmt: skip
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.save(model, path)
    return path


def test_what_lies_in_the_padding_alone_is_not_found(tmp_path):
    boxes = [[70, 4, 90, 20], [40, 4, 90, 20], [4, 60, 20, 64], [4, 4, 4, 9]]
    session, about = run.load(finding(tmp_path / "x.onnx", boxes))
    found = run.detect(session, about, Image.new("RGB", (60, 60)), 0.5)
    assert [len(x) for x in found] == [1, 1, 1, 1] and found[0].tolist() == [[40, 4, 60, 20]]
    assert np.asarray(found[3][0])[5:19, 41:].all()
    assert [len(x) for x in run.detect(session, about, Image.new("RGB", (60, 60)), 0.8)] == [0] * 4


def test_names_that_a_terminal_cannot_show_are_printed_and_written(tmp_path, monkeypatch):
    name, photo = "k\u00e4fer\x1b[31m", str(tmp_path / "x.png")
    Image.new("RGB", (60, 60)).save(photo)
    model = str(finding(tmp_path / "x.onnx", [[4, 4, 20, 20]], classes=[name]))
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    found, drawn = str(tmp_path / "x.json"), str(tmp_path / "drawn.png")
    run.main([photo, "--model", model, "--json", found, "--draw", drawn])
    terminal.seek(0)
    assert terminal.read() == "k\\xe4fer?[31m 0.7500 4.00 4.00 20.00 20.00\n"
    assert read(Path(found))["detections"][0]["class"] == name and Path(drawn).is_file()


def test_masks_are_run_lengths_as_coco_has_them():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for mask in (rng.random((5, 7)) > 0.5, np.zeros((5, 7), bool), np.ones((5, 7), bool)):
        runs = run.run_lengths(mask)
        np.testing.assert_array_equal(coco.decode(coco.frPyObjects(runs, 5, 7)), mask)


@pytest.fixture(scope="module")
def mask_run(squares, tmp_path_factory):
    """A run of a Mask R-CNN with noise as weights, whose scores are below 0.5."""
    folder = tmp_path_factory.mktemp("mask")
    config = write_config(folder, squares, "GeneralizedRCNN", MODEL__RPN__POST_NMS_TOPK_TEST=40)
    cfg = load_config(str(config), [])
    torch.manual_seed(0)
    weights = {k: v + 0.05 * torch.randn_like(v) for k, v in build_model(cfg).state_dict().items()}
    torch.save({"model": weights}, folder / "model.pth")
    return config, folder / "model.pth"


@pytest.mark.parametrize("words", [[], ["--masks", "pasted", "--fp16"], ["--int8"]])
def test_masks_are_expected_too(mask_run, words, tmp_path):
    config, weights = mask_run
    done = d2kd("export", config, "--weights", weights, "--bundle", tmp_path / "x", *words,
                "--check-images", 0)  # fmt: skip
    assert done.exit_code == 0, done.output
    expected = read(tmp_path / "x" / "expected.json")
    masks = [x["mask"] for x in expected["detections"]]
    width, height = Image.open(tmp_path / "x" / "example.png").size
    assert masks and {(*x["size"], sum(x["counts"])) for x in masks} == {
        (height, width, height * width)}  # fmt: skip
    done = alone(tmp_path / "x", "--check")
    assert done.returncode == 0, done.stderr
    for mask in masks:
        mask["counts"] = [0, height * width]
    (tmp_path / "x" / "expected.json").write_text(json.dumps(expected))
    done = alone(tmp_path / "x", "--check")
    assert done.returncode == 1 and f"{len(masks)} of {len(masks)} detections" in done.stderr


def test_wrong_input_is_named_and_nothing_is_replaced(mask_run, tmp_path):
    config, weights = mask_run
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")

    def export(*words, to=mine):
        done = d2kd("export", config, "--weights", weights, "--bundle", to, *words)
        assert done.exit_code == 1 and len(done.output.splitlines()) <= 2, done.output
        return done.output

    assert f"--bundle {mine} exists: name another, or add --overwrite" in export()
    new = tmp_path / "new"
    assert "leave out --output and --format" in export("--format", "pt2", to=new)
    assert "leave out --output and --format" in export("--output", "x.onnx", to=new)
    assert "leave out --no-nms" in export("--no-nms", to=new)
    assert "DATASETS.TEST, which is empty" in export("DATASETS.TEST", "()", to=new)
    (mine / "run.json").write_text("{}")
    assert f"--bundle {mine} holds a run" in export("--overwrite")
    assert not new.exists() and {x.name for x in mine.iterdir()} == {"README.md", "run.json"}
    assert (mine / "README.md").read_text() == "mine"


def test_a_file_that_finds_nothing_gives_no_example(mask_run, tmp_path):
    config, weights = mask_run
    done = d2kd("export", config, "--weights", weights, "--bundle", tmp_path / "x",
                "--score-threshold", 1)  # fmt: skip
    assert done.exit_code == 1 and "finds nothing in the first 100 test images" in done.output


def test_its_requirements_are_those_of_d2kd():
    text = (write.HERE / "requirements.txt").read_text()
    asked = re.findall(r'"([\w-]+>=[\w.]+)"', (ROOT / "setup.py").read_text())
    assert set(text.split()) <= set(asked) and len(text.split()) == 3
