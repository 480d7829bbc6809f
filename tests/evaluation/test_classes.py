"""Class names of teachers, of evaluated runs and of the data are compared, by name and in order."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from d2kd import DistillationHead, DistillationTrainer, build_adapter
from d2kd.adapters.class_map import ClassMap
from d2kd.checkpoint.weights_file import split_pin
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.data.class_names import difference, is_reordered, recorded_classes
from d2kd.errors import ConfigError
from d2kd.heads import BCKD, DISTILLATION_HEAD_REGISTRY
from d2kd.heads.base import check_specs
from d2kd.teachers.classes import detector_classes
from tests.helpers import d2kd, detector, write_config

BY_CLASS = {"BCKD", "CrossKD", "LD", "MaskKD", "PGD", "Parallel", "RoIKD"}


def run_of(folder, squares, classes):
    """The folder of a teacher's run, with or without class names in its record."""
    folder.mkdir()
    shutil.move(write_config(folder, squares), folder / "config.yaml")
    model = detector(MODEL__RETINANET__NUM_CLASSES=2)
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "run.json").write_text(json.dumps({"classes": classes} if classes else {}))
    return folder


def train(tmp_path, squares, teacher, heads, weights=""):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(write_config(tmp_path, squares)), "--config-file")
    cfg.MODEL.META_ARCHITECTURE, cfg.DISTILL.STUDENT = "Distiller", "RetinaNet"
    cfg.DISTILL.TEACHER.CONFIG_FILES, cfg.DISTILL.HEADS = (str(teacher),), heads
    cfg.DISTILL.TEACHER.WEIGHTS = (str(weights),)
    register_custom_datasets(cfg)
    return DistillationTrainer(cfg)


def warnings_in(caplog):
    said = (r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    return [text for text in said if "class" in text]


def test_a_teacher_in_another_order(tmp_path, squares, caplog):
    swapped = run_of(tmp_path / "swapped", squares, ["green", "red"])
    file, plain = swapped / "model_final.pth", swapped / "config.yaml"
    for teacher, weights in ((swapped, ""), (plain, file), (swapped, file)):
        caplog.clear()
        trainer = train(tmp_path, squares, teacher, ("PKD", "BCKD"), weights)
        assert trainer.distiller.class_maps == {0: ClassMap(2, (0, 1), ((1,), (0,)))}
        (text,) = warnings_in(caplog)
        assert text == ("Teacher 0: classes are matched by name, 2 of the student's 2: red by red, "
                        "green by green.")  # fmt: skip
    caplog.clear()
    train(tmp_path, squares, swapped, ("PKD",))
    assert "PKD reads no classes and goes on" in "".join(warnings_in(caplog))


def test_a_teacher_of_other_classes(tmp_path, squares, caplog):
    """More or fewer of them do as well, as long as one is of both."""
    other = run_of(tmp_path / "other", squares, ["blue", "red"])
    assert train(tmp_path, squares, other, ("BCKD",)).distiller.class_maps[0].student == (0,)
    assert "it does not teach green." in "".join(warnings_in(caplog))
    none = run_of(tmp_path / "none", squares, ["blue", "black"])
    text = (
        r"^DISTILL.HEADS: BCKD: the student \(red, green\) and the teacher \(blue, black\) have no"
    )
    with pytest.raises(ConfigError, match=text):
        train(tmp_path, squares, none, ("PKD", "BCKD"))
    train(tmp_path, squares, none, ("PKD",))


def test_a_teacher_of_the_same_or_of_unknown_classes(tmp_path, squares, caplog):
    for i, classes in enumerate((["red", "green"], ["Red", "GREEN"], ["red"], None)):
        train(tmp_path, squares, run_of(tmp_path / str(i), squares, classes), ("BCKD",))
    assert not warnings_in(caplog)


def test_a_damaged_record_is_named(tmp_path, squares):
    teacher = run_of(tmp_path / "t", squares, None)
    for text in ("", ', "classes": [1, 2]}', ', "classes": "red"}', ', "classes": {"0": "a"}}'):
        (teacher / "run.json").write_text('{"d2kd": "0.1.0"' + text)
        with pytest.raises(ConfigError, match="run.json is ") as error:
            train(tmp_path, squares, teacher, ("BCKD",))
        assert "\n" not in str(error.value)


def test_names_from_the_training_data_of_a_teacher(tmp_path):
    cfg = get_d2kd_cfg()
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    coco = MetadataCatalog.get("coco_2017_train").thing_classes
    assert detector_classes("zoo.yaml", cfg, "https://x/y.pkl", 80) == coco
    assert detector_classes("zoo.yaml", cfg, "https://x/y.pkl", 2) == []
    names = [{"id": 5, "name": "b"}, {"id": 2, "name": "a"}]
    image = [{"id": 1, "file_name": "x.png", "width": 4, "height": 4}]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"images": image, "annotations": [], "categories": names}))
    cfg.DATASETS.CUSTOM = [["own", str(path), str(tmp_path)]]
    cfg.DATASETS.TRAIN = ("own",)
    assert detector_classes("own.yaml", cfg, "", 2) == ["a", "b"]
    path.unlink()
    assert detector_classes("own.yaml", cfg, "", 2) == []


@pytest.mark.parametrize("command", ["eval", "check", "train", "data"])
def test_commands(tmp_path, squares, command):
    """Evaluation counts class k as class k; a teacher's are matched by name."""
    names = ["green", "red"] if command == "eval" else ["blue", "black"]
    swapped, plain = run_of(tmp_path / "r", squares, names), str(tmp_path / "r")
    folder = tmp_path / "set"
    shutil.copytree(squares, folder)
    for split in ("train", "val"):
        shutil.copy(squares / "squares.json", folder / f"{split}.json")
    keys = ["SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "OUTPUT_DIR", tmp_path / "out"]
    student = ["--teacher", plain, "--distill", "BCKD", *keys]
    config = swapped / "config.yaml"
    arguments = {"eval": ["eval", plain, "--data", folder],
                 "data": ["data", folder, "--teacher", plain],
                 "check": ["check", config, "--data", folder, *student],
                 "train": ["train", config, "--data", folder, *student]}[command]  # fmt: skip
    failed = d2kd(*arguments)
    text = failed.output + str(failed.exception)
    said = {"eval": "0: 'red' and 'green'", "data": "the teacher does not know: 'red', 'green'"}
    assert failed.exit_code and said.get(command, "no class in common") in text, text
    same = ["red", "green"] if command == "eval" else ["green", "red"]
    (swapped / "run.json").write_text(json.dumps({"classes": same}))
    good = d2kd(*arguments)
    assert (good.exit_code == 0 or command == "data") and "'red'" not in good.output


def test_evaluation_of_renamed_classes_warns(tmp_path, squares):
    run = run_of(tmp_path / "r", squares, ["crimson", "lime"])
    assert d2kd("eval", run).exit_code == 0
    log = (run / "eval" / "log.txt").read_text()
    assert "0: 'red' and 'crimson'). AP counts them as the same." in log


def test_training_from_weights_of_another_order_warns(tmp_path, squares, caplog):
    run = run_of(tmp_path / "r", squares, ["green", "red"])
    keys = {"MODEL__WEIGHTS": str(run / "model_final.pth")}
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(write_config(tmp_path, squares, **keys)), "--config-file")
    register_custom_datasets(cfg)
    DistillationTrainer(cfg)
    assert len(warnings_in(caplog)) == 1 and "have to be learnt anew" in warnings_in(caplog)[0]


@pytest.mark.parametrize("text", ["[]", "wandb", '{"id": 1}', '{"classes": {"0": "red"}}'])
def test_a_record_of_another_program_says_nothing(tmp_path, text):
    Path(tmp_path, "run.json").write_text(text)
    assert recorded_classes(str(tmp_path / "model.pth")) == []


def test_differences():
    assert difference(["cat", "traffic light"], ["Cat", "traffic_light"]) == []
    assert difference(["a", "b"], ["a", "c"]) == ["1: 'b' and 'c'"]
    assert difference(["a", "A"], ["A", "a"]) == ["0: 'a' and 'A'", "1: 'A' and 'a'"]
    assert difference(["a"], []) == difference(["a", "b"], ["a"]) == []
    assert is_reordered(["a", "b", "c"], ["x", "a", "c"])
    assert not is_reordered(["a", "b"], ["x", "b"])
    assert recorded_classes("") == recorded_classes("https://host/model.pth") == []


def test_each_head_says_whether_it_compares_classes():
    assert {name for name, head in DISTILLATION_HEAD_REGISTRY if head.by_class} == BY_CLASS

    class Own(DistillationHead):
        by_class = True

    class Derived(BCKD):
        pass

    assert Own.by_class and Derived.by_class and not DistillationHead.by_class
    specs = [detector(MODEL__RETINANET__NUM_CLASSES=n) for n in (2, 3)]
    with pytest.raises(ValueError, match="2 classes and the teacher 3"):
        check_specs("Own", Own.requires, *(build_adapter(x).spec() for x in specs), Own.by_class)


def test_a_run_whose_name_has_a_hash_sign(tmp_path):
    (tmp_path / "run#1").mkdir()
    (tmp_path / "run#1" / "run.json").write_text('{"classes": ["cell"]}')
    assert recorded_classes(str(tmp_path / "run#1")) == ["cell"]
    pinned = tmp_path / "run#1" / f"model_final.pth#sha256={'0' * 64}"
    assert recorded_classes(str(pinned)) == ["cell"]
    assert split_pin(str(pinned)) == (str(tmp_path / "run#1" / "model_final.pth"), "0" * 64)
    assert split_pin("run#1/model_final.pth") == ("run#1/model_final.pth", "")
