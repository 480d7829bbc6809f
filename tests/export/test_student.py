"""From a config and a checkpoint to a checked file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from PIL import Image

from d2kd.config.loading import load_config
from d2kd.errors import ConfigError
from d2kd.export import export_student, fit_image, open_exported
from d2kd.export.check import Comparison
from d2kd.export.description import checked, options_of
from d2kd.export.options import LARGEST, LIMITS, Options
from d2kd.export.size import about_fit, fit, largest, resized, size_of
from d2kd.export.student import about_near
from tests.helpers import d2kd, write_config

ONE_LEVEL = {
    "MODEL__GFL__IN_FEATURES": ["p3"],
    "MODEL__GFL__QUALITY": "DGQP",
    "MODEL__ANCHOR_GENERATOR__SIZES": [[32]],
    "INPUT__MIN_SIZE_TEST": 72,
}


@pytest.fixture(scope="module")
def student(squares, tmp_path_factory):
    """The config of a distilled GFLv2 and a plain checkpoint with scattered scores."""
    folder = tmp_path_factory.mktemp("student")
    cfg = load_config(str(write_config(folder, squares, "GFL", **ONE_LEVEL)), [])
    torch.manual_seed(0)
    model = build_model(cfg)
    weights = {k: v + 0.1 * torch.randn_like(v) for k, v in model.state_dict().items()}
    torch.save({"model": weights}, folder / "model_final.pth")
    cfg.MODEL.META_ARCHITECTURE, cfg.DISTILL.STUDENT = "Distiller", "GFL"
    return cfg, str(folder / "model_final.pth")


def test_a_student_is_written_checked_and_timed(student, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"exporting needs {package}")
    output = tmp_path / "new" / "student.onnx"
    point = {"threshold": 0.3, "F1": 0.5, "precision": 0.6, "recall": 0.4}
    results = json.dumps({"results": {"bbox": {"AP": 1.0}, "best_f1": point}})
    Path(student[1]).with_name("results.json").write_text(results)
    wrote, fits, stored, checked, cost = export_student(*student, output=output, check_images=3)
    assert stored == "metadata: score threshold 0.3: the best F1 (0.50) in validation"
    assert wrote == f"wrote {output}: GFL with NMS, 96x96 px"
    assert fits.startswith("size: takes all ")
    assert checked.startswith("checked on 3 images: the same ") and " 0 boxes" not in checked
    assert " ms per image on one CPU thread" in cost
    about = open_exported(output).description
    assert about["classes"] == ["red", "green"] and about["size"] == [96, 96]
    assert about["resize"] == [72, 1333]
    assert about["best_f1"] == point and about["score_threshold"] == 0.05


def test_without_nms_at_a_size_and_without_check(student, tmp_path):
    Path(student[1]).with_name("results.json").unlink(missing_ok=True)
    output = tmp_path / "student.pt2"
    options = {"size": (60, 100), "no_nms": True, "check_images": 0}
    lines = list(export_student(*student, output=output, **options))
    assert lines[0] == f"wrote {output}: GFL without NMS, 64x128 px" and len(lines) == 2
    assert lines[1].startswith("metadata: score threshold 0.5: none is stored")
    about = open_exported(output).description
    assert about["nms"] is False and about["best_f1"] == {} and not {*LIMITS} & {*about}
    old = {**about, "score_threshold": 0.1, "topk": 100}  # older files have them
    assert options_of(old) == options_of(about)
    with pytest.raises(ConfigError, match="score_threshold limits what NMS gives: .*--no-nms"):
        list(export_student(*student, output=output, **options, score_threshold=0.5))


def test_a_threshold_that_nothing_reaches_says_so(student, tmp_path):
    options = {"output": tmp_path / "student.pt2", "score_threshold": 1.0}
    lines = list(export_student(*student, **options))
    assert "not checked. " in lines[-1] and "the detector finds no object in 4 images" in lines[-1]
    assert options["output"].is_file()


def test_what_cannot_be_exported_is_said_first(student, squares, tmp_path):
    cfg, weights = student
    with pytest.raises(
        ConfigError, match="end the name with one of .onnx.* dot in its name it can"
    ):
        list(export_student(cfg, weights, output=tmp_path / "student.pth"))
    absent = {"int8": True, "calibrate": tmp_path / "none"}
    for name, more in (("student.pt2", {}), ("student.onnx", {"fp16": True})):
        with pytest.raises(ConfigError, match="INT8 .*is for .onnx and .xml files, without fp16"):
            list(export_student(cfg, weights, output=tmp_path / name, **absent, **more))
    done = d2kd("export", "x.yaml", "--check-images", -1)
    assert done.exit_code == 2 and "--check-images" in done.output
    empty = cfg.clone()
    empty.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match="DATASETS.TEST is empty"):
        list(export_student(empty, weights, output=tmp_path / "student.pt2"))
    cfg = load_config(str(write_config(tmp_path / "rcnn", squares, "GeneralizedRCNN")), [])
    path = tmp_path / "rcnn.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    with pytest.raises(ConfigError, match="GeneralizedRCNN cannot be a .pt2 file"):
        list(export_student(cfg, str(path), output=tmp_path / "student.pt2"))
    assert not list(tmp_path.glob("student.*"))


def test_what_a_file_adds_is_said():
    found = Comparison(4, 255, missing=5)
    said = "compared on 4 images: 250 of PyTorch's 255 boxes within 4 px and scores within 0.1"
    assert about_near(found, (4.0, 0.1)) == said
    found.added = 1003
    assert about_near(found, (4.0, 0.1)) == f"{said}, and 1,003 others"


@pytest.mark.parametrize(("size", "said"), [
    ((256, 256), "size: takes all 3 images"),
    ((192, 256), "1 of 3 images of DATASETS.TEST are larger than that and are shrunk, which costs "
                 "AP; --size 256 256 takes all"),
])  # fmt: skip
def test_upright_and_wide_images_need_a_square(size, said):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 192, 320
    shapes = ((768, 1024), (1024, 768), (100, 100))
    sizes = resized(cfg, shapes)
    assert sizes == [(192, 256), (256, 192), (192, 192)] and largest(sizes) == (256, 256)
    assert said in about_fit(size, sizes)
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert resized(cfg, [(5, 7)]) == [(5, 7)]


def test_an_image_is_opened_where_its_record_has_no_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60)).save(tmp_path / "x.jpg", exif=exif)
    record = {"file_name": str(tmp_path / "x.jpg"), "width": 5}
    assert size_of(record) == (90, 60) and size_of({**record, "height": 7}) == (7, 5)
    with pytest.raises(ConfigError, match="DATASETS.TEST: none.jpg cannot be read"):
        size_of({"file_name": "none.jpg"})


@pytest.mark.parametrize("side", [-1, 0, LARGEST + 1])
def test_a_size_that_no_file_has_is_refused(side):
    done = d2kd("export", "x.yaml", "--size", 64, side)
    assert done.exit_code == 2 and "is not in the range 1<=x<=16384" in done.output
    with pytest.raises(ConfigError, match="size must be height and width, each from 1 to 16384 px"):
        Options((side, 64), "BGR")
    assert Options((LARGEST, 64), "BGR").size[0] == LARGEST


@pytest.mark.parametrize(("image", "resize", "wanted"), [
    ((480, 640), [800, 1333], (800, 1067)),  # as PyTorch, not 1088 px
    ((640, 480), [800, 1333], (1067, 800)),
    ((100, 1000), [800, 1333], (109, 1088)),  # 1333 px would not fit
    ((480, 640), [0, 1333], (480, 640)),
    ((1200, 1000), [0, 1333], (1088, 907)),
    ((480, 640), [], (816, 1088)),  # a file of before, which is filled
])  # fmt: skip
def test_a_file_enlarges_no_more_than_pytorch(image, resize, wanted):
    about = {"size": [1088, 1088], "resize": resize, "pad_value": [0, 0, 0]}
    size, scale = fit(image, about)
    assert size == wanted and size == tuple(int(x * scale + 0.5) for x in image)
    padded, other = fit_image(np.full((*image, 3), 255, np.uint8), about)
    rows, columns = padded[0, 0].any(1).sum(), padded[0, 0].any(0).sum()
    assert (rows, columns) == wanted and other == scale


@pytest.mark.parametrize("resize", [[800], [-1, 1333], [800, 0], ["800", 1333], [1, 10**400], 8])
def test_a_file_that_resizes_to_what_cannot_be_is_refused(resize):
    about = {"size": [64, 64], "channels": "RGB", "multiple": 32, "pad_value": [0, 0, 0],
             "classes": [], "num_classes": 2, "nms": True, "score_threshold": 0.1}  # fmt: skip
    assert checked({**about, "resize": [0, 1333]})["resize"] == [0, 1333] and checked(about)
    with pytest.raises(ValueError, match="a size, classes or channels that cannot be"):
        checked({**about, "resize": resize})
