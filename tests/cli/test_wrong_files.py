"""A file of the wrong kind is named by its content, in one line with the option that takes it."""

import io
import os
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from PIL import Image

from d2kd.config import check_config
from d2kd.engine.command_line import config_of
from d2kd.file_io import expect
from d2kd.file_io.kinds import kind_of
from d2kd.testing import tiny_cfg
from tests.helpers import d2kd, detector, write_config

LAZY = "from detectron2.config import LazyCall as L\nmodel = L(object)()\n"
MMDET = "_base_ = ['../_base_/gfl.py']\nmodel = dict(type='GFL', backbone=dict(type='ResNet'))\n"
LABELME = '{"version": "5.0", "shapes": [{"label": "a"}], "imagePath": "a.jpg"}'
VOC = "<annotation><folder>a</folder><size><width>3</width></size></annotation>"
STUDY = "output: out\nseeds: [1]\nrows: {a: {config: base.yaml}}\n"
ROBUST = "output: out\nmodels: {a: {config: base.yaml}}\n"
TEXTS = {
    "data.yaml": "train: images\nnc: 1\nnames: [a]\n", "study.yaml": STUDY, "plan.yaml": ROBUST,
    "lazy.py": LAZY, "lazy.yaml": "model:\n  _target_: detectron2.modeling.RetinaNet\n",
    "mmdet.py": MMDET, "own.py": "import d2kd\n", "labelme.json": LABELME, "a.xml": VOC,
    "boxes.csv": "filename,xmin,ymin,xmax,ymax,class\na.jpg,1,2,3,4,a\n", "notes.txt": "hello\n",
    "yolo.yaml": "nc: 80\nbackbone:\n  - [-1, 1, Conv, [64]]\nhead:\n  - [-1, 1, Detect, [nc]]\n",
    "results.json": '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
    "page.pth": "<!DOCTYPE html><html>", "lfs.pth": "version https://git-lfs.github.com/spec/v1\n",
    "metrics.json": '{"iteration": 19, "total_loss": 1.5}\n{"iteration": 39}\n',
}  # fmt: skip
BYTES = {
    "model.onnx": b"\x08\x08\x12\x07pytorch\x1a\x032.4", "model.h5": b"\x89HDF\r\n\x1a\n",
    "clip.mp4": b"\0\0\0\x20ftypisom\0\0\2\0", "data.tar.gz": b"\x1f\x8b\x08" + bytes(90),
    "data.tar": b"a.jpg" + bytes(252) + b"ustar" + bytes(250), "film.avi": b"RIFF0000AVI LIST",
}  # fmt: skip


def archive(path, **entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name.replace("__", "/"), content)


@pytest.fixture(scope="module")
def place(tmp_path_factory, squares):
    """A config with weights, and files and folders of all kinds."""
    at = tmp_path_factory.mktemp("kinds")
    write_config(at / "c", squares).rename(at / "base.yaml")
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()}, at / "good.pth")
    torch.save({"state_dict": {"bbox_head.gfl_cls.weight": torch.ones(2)}}, at / "mmdet.pth")
    for name, text in TEXTS.items():
        (at / name).write_text(text)
    for name, content in BYTES.items():
        (at / name).write_bytes(content)
    yolo = b"\x80\x02}X\x05\0\0\0modelcultralytics.nn.tasks\nDetectionModel\n)\x81s."
    archive(at / "yolo.pt", **{"a__data.pkl": yolo, "a__version": "3"})
    archive(at / "data.zip", **{"a__images__1.jpg": b"x"})
    archive(at / "model.pt2", a__archive_format="pt2", a__models__model_json="{}")
    (at / "a.jpg").write_bytes(jpeg())
    for folder, name in (("photos", "1.jpg"), ("yolo/images", "1.jpg"), ("saved", "saved_model.pb"),
                         ("yolo/labels", "1.txt"), ("voc/Annotations", "1.xml"),
                         ("coco", "train.json"), ("run", "config.yaml"), ("run", "run.json"),
                         ("hf", "config.json"), ("hf", "model.safetensors")):  # fmt: skip
        (at / folder).mkdir(parents=True, exist_ok=True)
        content = {".jpg": jpeg(), ".xml": VOC.encode(), ".txt": b"0 .5 .5 .5 .5"}
        (at / folder / name).write_bytes(content.get(name[-4:], b"{}"))
    (at / "yolo/data.yaml").write_text(TEXTS["data.yaml"])
    coco = (squares / "squares.json").read_text()
    (at / "coco.json").write_text(coco)
    (at / "coco/train.json").write_text(coco)
    (at / "run/config.yaml").write_text((at / "base.yaml").read_text())
    (at / "full").symlink_to("/dev/full")
    return at


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG")
    return buffer.getvalue()


LONG = "x" * 300
PREDICT = "predict base.yaml a.jpg --weights good.pth"
WRONG = {
    # CONFIG and --teacher
    "train good.pth": "good.pth is a file of weights.*--weights",
    "train coco.json": "coco.json is .*COCO.*--data",
    "train data.yaml": "data.yaml of a YOLO data set.*d2kd (distill|convert yolo)",
    "train mmdet.py": "config of mmdetection.*d2kd convert mmdet",
    "train lazy.py": "lazy config of Detectron2.*--trust-config",
    "train lazy.yaml": "lazy.yaml holds no detector",
    "train yolo.yaml": "YOLO model.*own/student.yaml",
    "train study.yaml": "plan of a study.*d2kd study",
    "eval plan.yaml": "robustness plan.*d2kd robustness",
    "check a.jpg": "a.jpg is an image.*d2kd predict",
    "config data.zip": "zip archive.*npack",
    "train photos": "folder of images.*--unlabelled",
    "train coco": "folder of a data set.*--data",
    "predict good.pth a.jpg": "file of weights.*--weights",
    "export model.onnx": "ONNX graph.*checkpoint",
    "maps metrics.json": "metrics.json is .*run.*folder",
    "train base.yaml --teacher good.pth": "file of weights.*--teacher-weights",
    "train base.yaml --teacher yolo.pt": "Ultralytics.*no command",
    "train base.yaml --teacher photos": "folder of images.*--unlabelled",
    "train own.py": "Python file.*--import",
    # weights
    "eval base.yaml --weights base.yaml": "is a config.*CONFIG",
    "eval base.yaml --weights run": "folder of a run.*CONFIG",
    "eval base.yaml --weights yolo.pt": "Ultralytics.*no command",
    "eval base.yaml --weights model.onnx": "ONNX graph.*checkpoint",
    "eval base.yaml --weights model.h5": "HDF5.*Keras.*PyTorch",
    "eval base.yaml --weights model.pt2": "torch.export.*checkpoint",
    "eval base.yaml --weights data.zip": "zip archive.*npack",
    "eval base.yaml --weights data.tar.gz": "gzip.*npack",
    "eval base.yaml --weights page.pth": "web page.*link",
    "eval base.yaml --weights lfs.pth": "Git LFS.*git lfs pull",
    "eval base.yaml --weights a.jpg": "an image.*d2kd predict",
    "eval base.yaml --weights hf": "Hugging Face.*safetensors",
    "eval base.yaml --weights saved": "TensorFlow.*PyTorch",
    "eval base.yaml --weights mmdet.pth": "mmdetection.*d2kd convert mmdet",
    "train base.yaml --teacher base.yaml --teacher-weights base.yaml": "is a config.*--teacher",
    "train base.yaml MODEL.WEIGHTS coco.json": "COCO.*--data",
    # data
    "train base.yaml --data coco.json": "COCO.*folder",
    "train base.yaml --data data.zip": "zip archive.*npack",
    "train base.yaml --data run": "folder of a run.*CONFIG",
    "train base.yaml --data photos": "folder of images.*--unlabelled",
    "train base.yaml --data good.pth": "file of weights.*--weights",
    "data base.yaml": "is a config.*d2kd train",
    "data boxes.csv": "table.*COCO",
    "data labelme.json": "LabelMe.*COCO",
    "data a.xml": "VOC.*folder",
    "distill data.tar": "tar archive.*npack",
    "distill clip.mp4": "a video.*d2kd predict",
    "distill run": "folder of a run.*CONFIG",
    # pictures
    "predict base.yaml coco.json --weights good.pth": "COCO.*--data",
    "predict base.yaml good.pth --weights good.pth": "file of weights.*--weights",
    "predict base.yaml run --weights good.pth": "folder of a run.*CONFIG",
    "predict base.yaml data.zip --weights good.pth": "zip archive.*npack",
    # others
    "report good.pth": "file of weights.*--weights",
    "report coco": "folder of a data set.*--data",
    "report results.json": "detections.*COCO|results.json",
    "study base.yaml": "is a config.*d2kd train",
    "study plan.yaml": "robustness plan.*d2kd robustness",
    "robustness study.yaml": "plan of a study.*d2kd study",
    "robustness good.pth": "file of weights.*--weights",
    "convert mmdet mmdet.py new": "config of mmdetection.*--config",
    "convert mmdet yolo.pt new": "Ultralytics.*no command",
    "convert mmdet mmdet.pth new --config base.yaml": "is a config.*CONFIG",
    "convert weights base.yaml new.safetensors": "is a config.*CONFIG",
    "convert voc coco new": "folder of a data set.*--data",
    "convert voc data.zip new": "zip archive.*npack",
    "convert yolo base.yaml new": "is a config.*d2kd train",
    "convert yolo coco.json new": "COCO.*--data",
    "train base.yaml --import base.yaml": "is a config.*CONFIG",
    "train base.yaml --import good.pth": "file of weights.*--weights",
    "train base.yaml --import none.py": "none.py.*does not exist",
    "compare good.pth base.yaml": "A good.pth is a file of weights and B base.yaml is a config",
    "compare run good.pth": "A run is the folder of a run and B good.pth is a file of weights",
    "compare coco.json base.yaml": "A: coco.json is .*COCO.*--data",
    "compare good.pth model.onnx": "B: model.onnx is an ONNX graph.*checkpoint",
    "compare photos run": "A: photos is not the folder of a run.*folder of images.*--unlabelled",
    "compare run coco": "B: coco is not the folder of a run.*folder of a data set.*--data",
    "compare yolo.pt good.pth": "A: yolo.pt is .*Ultralytics.*no command",
    "compare notes.txt base.yaml": "A: notes.txt",
    "compare none.pth good.pth": "none.pth.*(does not exist|No such file)",
    "compare none.yaml base.yaml": "A: 'none.yaml' is neither",
    # where nothing can be written
    "train base.yaml --output notes.txt": "OUTPUT_DIR notes.txt is a file.*folder",
    "train base.yaml --output notes.txt/out": "notes.txt, which is a file.*folder",
    f"train base.yaml --output {LONG}": "OUTPUT_DIR x+.* cannot be written.*too long",
    "train base.yaml --output /proc/out": "OUTPUT_DIR /proc/out cannot be written",
    "eval base.yaml --weights good.pth --output notes.txt": "OUTPUT_DIR notes.txt is a file",
    "train base.yaml OUTPUT_DIR notes.txt/out": "OUTPUT_DIR notes.txt/out is below .*is a file",
    "export base.yaml --weights good.pth --output photos": "--output photos exists: name another",
    "export base.yaml --weights good.pth --output notes.txt/a.onnx": "notes.txt, which is a file",
    "report run --output photos": "--output photos is a folder.*file",
    "report run --output /proc/a.html": "--output /proc/a.html cannot be written",
    f"{PREDICT} --output notes.txt": "--output notes.txt is a file",
    f"{PREDICT} --coco photos": "--coco photos is a folder",
    f"{PREDICT} --coco full": "--coco full is no file",
    "convert yolo yolo notes.txt": "notes.txt is a file",
    "convert voc voc notes.txt/new": "notes.txt, which is a file",
    "convert weights good.pth notes.txt/a.safetensors": "notes.txt, which is a file",
    "data coco --output notes.txt": "--output notes.txt is a file",
    "data coco --pictures photos": "--pictures photos is a folder",
    "robustness run --output notes.txt": "--output notes.txt is a file",
    "maps base.yaml --output notes.txt": "--output notes.txt is a file",
    "distill coco --output notes.txt": "notes.txt is a file: name a folder",
    f"convert weights good.pth {LONG[:241]}.safetensors": "TARGET x+.* cannot be written.*too long",
    "data voc": "VOC's layout.*convert voc",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_one_line_says_what_it_is(place, line, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv("D2KD_TRACEBACK", raising=False)
    before = sorted(place.rglob("*"))
    done = d2kd(*line.split())
    (said,) = [x for x in done.output.splitlines() if not x.startswith("(--debug")]
    assert done.exit_code not in (0, None)
    assert re.search(WRONG[line], said) and not said.startswith("Unexpected"), said
    assert sorted(place.rglob("*")) == before, "written before the error"


def test_what_is_not_what_it_looks_like(place, tmp_path, monkeypatch):
    """A file with mmdetection's names, from no checkpoint of it; a file in a folder with a #."""
    monkeypatch.chdir(place)
    torch.save({"model": {"bbox_head.cls.weight": torch.ones(2)}}, tmp_path / "own.pth")
    expect(tmp_path / "own.pth", "MODEL.WEIGHTS", "weights")
    cfg = tiny_cfg()
    cfg.MODEL.WEIGHTS = "run#2/model_final.pth"
    check_config(cfg)


def test_home_is_written_to(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = d2kd("convert", "weights", "good.pth", "~/new.safetensors")
    assert done.exit_code == 0 and (tmp_path / "new.safetensors").is_file(), done.output
    assert config_of(["base.yaml", "OUTPUT_DIR", "~/out"]).OUTPUT_DIR == str(tmp_path / "out")


@pytest.fixture
def nobody():
    """A folder of a user who may not read all that is in it."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/lost+found", 0)
        (Path(folder) / "1.jpg").write_bytes(jpeg())
        user = os.geteuid()
        os.seteuid(user or 65534)
        yield folder
        os.seteuid(user)


def test_a_folder_that_may_not_be_read_is_passed_over(nobody):
    with pytest.raises(PermissionError):
        os.listdir(f"{nobody}/lost+found")
    assert kind_of(nobody).group == "images"


def test_a_config_whose_comment_has_commas_is_no_table(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# One, two, three, four.\nVERSION: 2\n")
    kind = kind_of(str(path))
    assert kind is None or "table" not in kind.what
