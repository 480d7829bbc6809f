"""25 mistakes of newcomers: one line that says what is wrong and what to type, no traceback."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image

from tests.helpers import d2kd, detector, write_config


@pytest.fixture(scope="module")
def place(tmp_path_factory, squares):
    """A folder with a plain config, a teacher's config and weights, and data sets, some broken."""
    folder = tmp_path_factory.mktemp("mistakes")
    plain = write_config(folder / "student", squares)
    teacher = write_config(folder / "teacher", squares, MODEL__FPN__OUT_CHANNELS=12)
    other = write_config(folder / "other", squares, MODEL__RETINANET__NUM_CLASSES=5)
    weights = detector("RetinaNet", 12, seed=1, MODEL__RETINANET__NUM_CLASSES=2).state_dict()
    torch.save({"model": weights}, folder / "teacher.pth")
    torch.save({"model": detector("FCOS").state_dict()}, folder / "fcos.pth")
    torch.save({"model": detector(seed=2, MODEL__RETINANET__NUM_CLASSES=5).state_dict()},
               folder / "five.pth")  # fmt: skip
    (folder / "text.pth").write_text("not a checkpoint")
    (folder / "yolo" / "labels").mkdir(parents=True)
    (folder / "yolo" / "data.yaml").write_text("names: [a]\ntrain: images\n")
    (folder / "voc" / "Annotations").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "tab.yaml").write_text("MODEL:\n\tDEVICE: cpu\n")
    (folder / "tag.yaml").write_text("MODEL: !!python/object/apply:os.getcwd []\n")
    shutil.copytree(squares, folder / "lost")
    coco = json.loads((squares / "squares.json").read_text())
    coco["images"] = [{**x, "file_name": f"no/{x['file_name']}"} for x in coco["images"]]
    (folder / "lost" / "train.json").write_text(json.dumps(coco))
    Image.new("RGB", (64, 64)).save(folder / "photo.jpg")
    (folder / "photo.txt").write_text("")
    return {"at": folder, "plain": plain, "teacher": teacher, "other": other}


KD = "--teacher {teacher} --teacher-weights {at}/teacher.pth"
MISTAKES = {
    "a command is misspelt": ("trian {plain}", "Did you mean 'train'"),
    "an option is misspelt": ("train {plain} --techer x", "--teacher"),
    "the config does not exist": ("train {at}/plan.yaml", "neither a file or the folder of a run"),
    "the config's name is nearly right": (
        "train train/gfl_R50_FPN_1x.yaml", "Did you mean train/gfl_R_50_FPN_1x.yaml"),
    "a key is misspelt": (
        "train {plain} SOLVER.BASE_LRR 0.1", "no config key. Did you mean SOLVER.BASE_LR"),
    "a key has no value": ("train {plain} SOLVER.BASE_LR", "Options are pairs KEY VALUE"),
    "an integer for a float": ("train {plain} SOLVER.BASE_LR 1", "SOLVER.BASE_LR: .*1.0"),
    "text for a number": ("train {plain} SOLVER.MAX_ITER many", "SOLVER.MAX_ITER"),
    "a list without quotes": ("train {plain} DISTILL.HEADS PKD BCKD", "Quote values with spaces"),
    "a method without its teacher": ("train {plain} --distill PKD", "need --teacher: a config"),
    "a method is misspelt": (
        f"train {{plain}} {KD} --distill pkd", "DISTILL.HEADS: unknown 'pkd'.*mean 'PKD'"),
    "a method that the detector lacks": (
        f"train {{plain}} {KD} --distill LD", "LD needs distributions; .*or one of: BCKD"),
    "a teacher without weights": (
        "train {plain} --teacher {teacher}", "WEIGHTS.0. is empty.*Give the teacher's checkpoint"),
    "a teacher's weights that do not exist": (
        "train {plain} --teacher {teacher} --teacher-weights {at}/x.pth",
        "TEACHER.WEIGHTS.0.: checkpoint .*x.pth' not found"),
    "a teacher's weights of another detector": (
        "train {plain} --teacher {teacher} --teacher-weights {at}/fcos.pth",
        "TEACHER.WEIGHTS.0.*fcos.pth.*missing|none of its"),
    "a teacher's weights that are no checkpoint": (
        "train {plain} --teacher {teacher} --teacher-weights {at}/text.pth",
        "not a readable checkpoint"),
    "a teacher of other classes": (
        "train {plain} --teacher {other} --teacher-weights {at}/five.pth --distill BCKD",
        "BCKD.*5.*classes|classes.*5"),
    "the number of classes is not the data's": (
        "train {plain} MODEL.RETINANET.NUM_CLASSES 80",
        "MODEL.RETINANET.NUM_CLASSES is 80, but .* has 2 classes. Set"),
    "a GPU that is not there": (
        "train {plain} MODEL.DEVICE cuda:0", "MODEL.DEVICE is 'cuda:0', but no GPU .*cpu"),
    "data in YOLO's layout": (
        "train {plain} --data {at}/yolo", "YOLO's layout. Convert it once: d2kd convert yolo"),
    "data in VOC's layout": (
        "train {plain} --data {at}/voc", "VOC's layout. Convert it once: d2kd convert voc"),
    "a data folder that does not exist": (
        "train {plain} --data {at}/nothing", "there is no such folder"),
    "a data folder without data": (
        "train {plain} --data {at}/empty", "holds no data set: expected"),
    "images that are somewhere else": (
        "train {plain} --data {at}/lost", "names the image 'no/.*which is in none of"),
    "a tab in yaml": ("train {at}/tab.yaml", "tab.yaml is not valid yaml.*line 2"),
    "yaml that can run code": ("train {at}/tag.yaml", "holds a yaml tag that can run code"),
    "weights that do not exist": (
        "train {plain} MODEL.WEIGHTS {at}/x.pth", "x.pth' does not exist. It is named by MODEL"),
    "weights to evaluate that do not exist": (
        "eval {plain} --weights {at}/x.pth", "MODEL.WEIGHTS: checkpoint '.*x.pth' not found"),
    "no checkpoint to evaluate": ("eval {plain}", "has no checkpoint: add --weights FILE"),
    "a picture that is none": (
        "predict {teacher} {at}/photo.txt --weights {at}/teacher.pth",
        "is no image or video; known"),
    "a picture that does not exist": (
        "predict {teacher} {at}/pict.jpg --weights {at}/teacher.pth", "pict.jpg does not exist"),
    "a report of no run": ("report {at}/empty", "is not the folder of a run"),
    "a checkpoint of a wider detector": (
        "eval {plain} --weights {at}/teacher.pth",
        "does not fill the detector; 20 have another shape"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(place, mistake, monkeypatch, tmp_path):
    if "GPU" in mistake and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("D2KD_TRACEBACK", raising=False)
    line, expected = MISTAKES[mistake]
    done = d2kd(*line.format(**place).split(), *["--output", "out"] * line.startswith("train"))
    *_, before, last = ["", *done.output.strip().splitlines()]
    line = before if last.startswith("(--debug") else last
    assert done.exit_code not in (0, None)
    assert re.search(expected, line), line
    assert "Traceback" not in done.output and not line.startswith("Unexpected"), line


def test_debug_shows_the_traceback(place, monkeypatch):
    monkeypatch.setenv("D2KD_TRACEBACK", "")
    done = d2kd("train", place["plain"], "--distill", "PKD", "--debug")
    assert isinstance(done.exception, ValueError) and "--teacher" in str(done.exception)
