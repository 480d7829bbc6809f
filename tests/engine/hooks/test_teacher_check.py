"""What is said of a teacher before training, and of its advantage while it teaches."""

import contextlib
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from d2kd.config.loading import load_config
from d2kd.data import load_dataset, register_custom_datasets
from d2kd.engine.command_line import argument_parser, resolve_config
from d2kd.engine.hooks.teacher_check import TeacherCheck
from d2kd.errors import MissingFileError
from tests.conftest import ROOT
from tests.helpers import d2kd, write_config

NAMES = ["red", "green"]
SAID = "on all 12 images of 'squares_squares0'"


class Oracle(torch.nn.Module):
    """Finds the first `parts` of every four objects, and calls class k `ids[k]`."""

    def __init__(self, parts, ids=(0, 1)):
        super().__init__()
        self.ids = ids
        records = load_dataset("squares_squares0", "DATASETS.TEST")
        objects = [x for r in records for x in r["annotations"]]
        kept = {id(x) for i, x in enumerate(objects) if i % 4 < parts}
        self.found = {
            r["image_id"]: [x for x in r["annotations"] if id(x) in kept] for r in records
        }

    def forward(self, batched_inputs):
        return [{"instances": self.instances(x["image_id"])} for x in batched_inputs]

    def instances(self, image):
        objects, found = self.found[image], Instances((64, 64))
        boxes = torch.tensor([x["bbox"] for x in objects], dtype=torch.float32).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        ids = [self.ids[x["category_id"]] for x in objects]
        found.pred_classes, found.scores = torch.tensor(ids), torch.ones(len(objects))
        return found


@pytest.fixture
def cfg(tmp_path, squares):
    config = str(write_config(tmp_path, squares))
    cfg = load_config(config, ["DISTILL.TEACHER.CONFIG_FILES", f"('{config}',)",
                               "DISTILL.TEACHER.WEIGHTS", "('teacher.pth',)",
                               "DISTILL.TEACHER.CHECK_IMAGES", "100"])  # fmt: skip
    register_custom_datasets(cfg)
    return cfg


def hook_on(cfg, detector, student=None, classes=(), count=2, square=0):
    backbone = SimpleNamespace(padding_constraints={"square_size": square})
    adapter = SimpleNamespace(spec=lambda: SimpleNamespace(num_classes=count), backbone=backbone)
    teacher = SimpleNamespace(
        detector=detector, input_format="BGR", classes=list(classes), adapter=adapter,
        autocast=contextlib.nullcontext, size=None,
    )  # fmt: skip
    hook = TeacherCheck(cfg)
    distiller = SimpleNamespace(teachers=[teacher], student=student)
    hook.trainer = SimpleNamespace(distiller=distiller, iter=0, max_iter=20, start_iter=0)
    return hook


def said(caplog, cfg, *arguments, **keys):
    """The only line, and its level."""
    with caplog.at_level(logging.INFO, "d2kd"):
        hook_on(cfg, *arguments, **keys).before_train()
    (record,) = [r for r in caplog.records if r.name.startswith("d2kd.engine.hooks")]
    assert "\n" not in record.getMessage()
    return record.getMessage(), record.levelname


def test_a_good_teacher_is_one_line_of_information(cfg, caplog):
    text, level = said(caplog, cfg, Oracle(4))
    assert f"box AP 100.0 {SAID}" in text and level == "INFO"


@pytest.mark.parametrize("names", [["sky", "green", "red"], ["Red", "Green"]])
def test_classes_are_compared_by_name(cfg, caplog, names):
    ids = (2, 1) if len(names) == 3 else (0, 1)
    text, level = said(caplog, cfg, Oracle(4, ids), classes=names)
    assert "box AP 100.0" in text and level == "INFO"


@pytest.mark.parametrize(("classes", "count", "why"), [
    (["red", "blue"], 2, r"it knows other classes (red, blue), not green"),
    ([], 80, "it knows other classes (80 without names), not red, green"),
])  # fmt: skip
def test_of_other_classes_nothing_is_known(cfg, caplog, classes, count, why):
    text, level = said(caplog, cfg, Oracle(4), classes=classes, count=count)
    assert f"{SAID} is not known: {why}" in text and level == "WARNING"


@pytest.mark.parametrize(("ids", "parts", "why"), [
    ((1, 0), 4, "class names, in another order or others, since its boxes alone have AP 100.0"),
    ((0, 1), 0, "weights that have hardly been trained"),
])  # fmt: skip
def test_why_a_teacher_has_nothing_to_teach(cfg, caplog, ids, parts, why):
    text, level = said(caplog, cfg, Oracle(parts, ids))
    assert "box AP 0.0" in text and f"Likely cause: {why}" in text and level == "WARNING"


def test_without_objects_nothing_is_known(cfg, caplog):
    """Neither a good teacher nor a bad one can be told from images without objects."""
    name = cfg.DATASETS.TEST[0]
    records = [{**r, "annotations": []} for r in load_dataset(name, "DATASETS.TEST")]
    DatasetCatalog.register("empty", lambda: records)
    MetadataCatalog.get("empty").thing_classes = NAMES
    cfg.DATASETS.TEST = ("empty",)
    teacher = Oracle(4)
    text, level = said(caplog, cfg, teacher)
    DatasetCatalog.remove("empty")
    assert "is not known: none of them has an object" in text and level == "WARNING"


def test_the_size_is_a_likely_cause(cfg, caplog):
    cfg.INPUT.MIN_SIZE_TEST = 32
    text, _ = said(caplog, cfg, Oracle(0))
    assert "shorter side of 64 px, and sees the student's of 32 px" in text


def test_a_square_that_images_do_not_fit(cfg, caplog):
    """Detectron2's own inference cuts them off, so that the AP would be of other images."""
    cfg.INPUT.MAX_SIZE_TEST = 129
    text, level = said(caplog, cfg, Oracle(4), square=128)
    assert "is not known" in text and "square of 128 px" in text and level == "WARNING"
    cfg.INPUT.MAX_SIZE_TEST = 128
    caplog.clear()
    assert said(caplog, cfg, Oracle(4), square=128)[1] == "INFO"


def test_a_student_that_starts_as_good(cfg, caplog, tmp_path):
    """MODEL.WEIGHTS of a run is a whole detector, which is measured on the same images."""
    (tmp_path / "run.json").write_text(json.dumps({"d2kd": "1", "classes": NAMES}))
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    text, level = said(caplog, cfg, Oracle(2), Oracle(3))
    assert "It is not better than the student at its start" in text and level == "WARNING"
    caplog.clear()
    text, level = said(caplog, cfg, Oracle(3), Oracle(2))
    assert "not better" not in text and level == "INFO"
    hook = hook_on(cfg, Oracle(2), Oracle(3))
    hook.trainer.start_iter = 5  # resumed with other CHECK_IMAGES: it is not at its start
    with caplog.at_level(logging.INFO, "d2kd"):
        caplog.clear()
        hook.before_train()
    assert "at its start" not in caplog.text and "box AP" in caplog.text


@pytest.mark.parametrize("images", [100, 7])
def test_the_advantage_is_of_the_same_images(cfg, caplog, images):
    """The evaluation's own AP where all images are measured, or else one on some of them."""
    cfg.DISTILL.TEACHER.CHECK_IMAGES = images
    student = Oracle(1)
    hook = hook_on(cfg, Oracle(3), student)
    hook.before_train()
    evaluation = {"bbox": {"AP": 10.0}}
    evaluate = hook.compared(lambda: evaluation)
    first = evaluate()["distill"]["teacher_advantage"]
    (ap,) = hook.state_dict()["aps"]
    assert 0 < first < ap
    assert images == 7 or first == pytest.approx(ap - 10.0)
    student.found, evaluation["bbox"]["AP"] = Oracle(4).found, 100.0
    hook.trainer.iter = 20  # as it is when training has ended
    assert evaluate()["distill"]["teacher_advantage"] == pytest.approx(ap - 100)
    evaluate()
    lines = [x for x in caplog.messages if "nothing left to teach" in x]
    assert len(lines) == 1 and "From step 20 on" in lines[0]
    assert 'DISTILL.SCHEDULE "(0, 20)" ends distillation' in lines[0]


def test_a_resumed_run_knows_it(cfg, caplog):
    hook = hook_on(cfg, Oracle(4))
    assert hook.state_dict() == {}
    hook.before_train()
    again = hook_on(cfg, None)  # which cannot be evaluated
    again.load_state_dict(hook.state_dict())
    again.before_train()
    assert again.compared(lambda: {"bbox": {"AP": 40.0}})()["distill"] == {"teacher_advantage": 60}
    other = hook_on(cfg, Oracle(4))
    other.load_state_dict({**hook.state_dict(), "images": 5})
    assert other.state_dict() == {}  # of other images nothing is known


def test_without_a_test_set_that_is_said(cfg, caplog):
    cfg.DATASETS.TEST = ()
    text, level = said(caplog, cfg, None)
    assert "whether distillation helps, is not known" in text and level == "WARNING"
    resumed = hook_on(cfg, None)
    resumed.load_state_dict({"aps": [50.0], "images": 100, "caught_up": False})
    resumed.before_train()
    assert resumed.compared(lambda: {"a": 1})() == {"a": 1}
    cfg.DISTILL.TEACHER.CHECK_AGAINST = "nowhere"
    with pytest.raises(MissingFileError, match="DISTILL.TEACHER.CHECK_AGAINST: nowhere holds no"):
        TeacherCheck(cfg)


def test_the_default_is_of_the_option_teacher_alone():
    folder = ROOT / "configs" / "quickstart"
    args = argument_parser().parse_args(["--config-file", str(folder / "distilled.yaml")])
    assert resolve_config(args).DISTILL.TEACHER.CHECK_IMAGES == 0
    args.teacher = [str(folder / "teacher.yaml")]
    assert resolve_config(args).DISTILL.TEACHER.CHECK_IMAGES == 100


def test_a_run_and_its_resumption(tmp_path, squares):
    """One line, a value for each evaluation, and the plain run that was named."""
    config, plain = write_config(tmp_path, squares, SOLVER__MAX_ITER=2), tmp_path / "plain"
    assert d2kd("train", config, "--output", plain).exit_code == 0
    run = ["train", config, "--output", tmp_path / "out", "--teacher", plain, "--distill", "PKD",
           "DISTILL.TEACHER.CHECK_AGAINST", plain, "TEST.EVAL_PERIOD", 2]  # fmt: skip
    assert d2kd(*run, "SOLVER.MAX_ITER", 3).exit_code == 0
    assert d2kd(*run, "SOLVER.MAX_ITER", 5, "--resume").exit_code == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count(f"; the plain student {plain}: ") == 1
    rows = map(json.loads, (tmp_path / "out" / "metrics.json").read_text().splitlines())
    steps = [x["iteration"] for x in rows if "distill/teacher_advantage" in x]
    assert steps == [1, 3, 5]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert set(results) == {"bbox"}  # as d2kd eval has them
