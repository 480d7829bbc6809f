"""A file of detections in place of a teacher."""

import json
import logging

import pytest
import torch
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.adapters.class_map import ClassMap
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.data import register_custom_datasets
from d2kd.errors import ConfigError
from d2kd.inference.distillation_maps import distillation_maps, picture_batch
from d2kd.teachers.stored import StoredSets
from d2kd.testing import make_batch
from tests.helpers import d2kd, detector, output_of, write_config


def stored(folder, squares, names=("red", "green"), score=0.8):
    """The squares' own labels as detections."""
    data = json.loads((squares / "squares.json").read_text())
    found = [{"image_id": x["image_id"], "category_name": names[x["category_id"] - 1],
              "bbox": x["bbox"], "score": score} for x in data["annotations"]]  # fmt: skip
    (folder / "detections.json").write_text(json.dumps(found))
    return folder / "detections.json"


def config(tmp_path, squares, file, meta="RetinaNet", *options):
    cfg = get_d2kd_cfg()
    path = write_config(tmp_path / "plain", squares, meta, MODEL__MASK_ON=False)
    merge_config_file(cfg, str(path), "--config-file")
    merge_options(cfg, [
        "MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", meta, "DISTILL.HEADS",
        "('SetKD',)", "DISTILL.SetKD.OFFLINE", str(file), *options,
    ])  # fmt: skip
    register_custom_datasets(cfg)
    return cfg


def test_sets_of_a_batch():
    batch = make_batch()
    batch[0]["set"] = torch.tensor([[1.0, 2, 30, 40, 0.7, 1], [3.0, 4, 9, 9, 0.4, 0]])
    out = output_of({})
    out.images = type("Images", (), {"device": torch.device("cpu")})()
    sets = StoredSets(["a", "b"])(batch, out).sets
    assert sets.boxes.shape == (2, 2, 4) and not sets.exclusive and bool(sets.labels.all())
    assert_close(sets.probabilities[0], torch.tensor([[0.0, 0.7], [0.4, 0.0]]))
    assert not sets.probabilities[1].any()
    none = StoredSets(["a", "b"])(make_batch(), out).sets
    assert none.boxes.shape == (2, 0, 4) and none.probabilities.shape == (2, 0, 2)


@pytest.mark.parametrize("meta", ["RetinaNet", "GeneralizedRCNN"])
def test_a_file_teaches_without_a_network(tmp_path, squares, meta):
    """Its classes are matched by name; here they are the student's in another order."""
    cfg = config(tmp_path, squares, stored(tmp_path, squares, ("Red", "green")), meta)
    trainer = DistillationTrainer(cfg)
    model = trainer.distiller
    assert not model.teachers and model.panel.stored.classes in (["Red", "green"], ["green", "Red"])
    batch = next(iter(trainer.data_loader))
    student = model.run_student(batch)
    out = model.run_teachers(batch, student)
    _, seen = model.seen_by("SetKD", student, out)
    for rows, x in zip(seen.sets.probabilities, batch, strict=True):
        kept = rows.amax(1) > 0
        theirs = x["instances"].gt_classes
        assert sorted(rows[kept].argmax(1).tolist()) == sorted(theirs.tolist())
    losses = model(batch)
    assert losses["loss_SetKD_cls"] > 0
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.student.parameters())


def test_pictures_of_images_without_stored_detections(tmp_path, squares):
    """Test images bring none: the student's map is drawn alone, not that nothing was found."""
    cfg = config(tmp_path, squares, stored(tmp_path, squares))
    model, batch = DistillationTrainer(cfg).distiller, picture_batch(cfg, 2)
    assert [set(x) for x in distillation_maps(model, batch)] == [{"SetKD: student"}] * 2
    batch[0]["set"] = torch.tensor([[1.0, 2, 30, 40, 0.7, 1]])
    first, second = distillation_maps(model, batch)
    assert set(first) == set(second) == {"SetKD: teacher", "SetKD: student"}
    assert max(x.max() for x in first["SetKD: teacher"].values()) == 0.7
    assert not any(x.any() for x in second["SetKD: teacher"].values())


def test_a_class_that_the_file_lacks(tmp_path, squares, caplog):
    file = stored(tmp_path, squares, ("crimson", "blue"))
    options = "DISTILL.TEACHER.CLASS_MAP", "(('crimson', 'red'),)"
    with caplog.at_level(logging.WARNING, "d2kd"):
        trainer = DistillationTrainer(config(tmp_path, squares, file, "RetinaNet", *options))
    maps = trainer.distiller.class_maps
    assert maps == {
        0: ClassMap(2, (0,), ((trainer.distiller.panel.stored.classes.index("crimson"),),))
    }
    assert "it does not teach green" in caplog.text
    with pytest.raises(ConfigError, match="SetKD: the student .* have no class in common"):
        DistillationTrainer(config(tmp_path, squares, file))


def test_beside_a_teacher(tmp_path, squares):
    """The file's number is behind the teachers'; one box of each object stays."""
    file = stored(tmp_path, squares, score=0.9)
    keys = {"MODEL__RETINANET__NUM_CLASSES": 2}
    torch.save({"model": detector(seed=7, **keys).state_dict()}, tmp_path / "t.pth")
    plain = tmp_path / "plain" / "plain.yaml"
    options = (
        "DISTILL.TEACHER.CONFIG_FILES", f"('{plain}',)", "DISTILL.TEACHER.WEIGHTS",
        f"('{tmp_path}/t.pth',)", "DISTILL.SetKD.TEACHERS", "(0,)",
    )  # fmt: skip
    trainer = DistillationTrainer(config(tmp_path, squares, file, "RetinaNet", *options))
    model = trainer.distiller
    assert model.panel.teachers_of == {"SetKD": (0, 1)} and len(model.teachers) == 1
    batch = next(iter(trainer.data_loader))
    assert model(batch)["loss_SetKD_box"] > 0
    alone = config(tmp_path, squares, file, "RetinaNet", *options[:4])
    model = DistillationTrainer(alone).distiller
    assert model.panel.teachers_of == {"SetKD": (1,)}


def test_nothing_to_inherit(tmp_path, squares):
    file = stored(tmp_path, squares)
    options = "DISTILL.INIT_FROM_TEACHER", "neck"
    with pytest.raises(ConfigError, match="INIT_FROM_TEACHER copies layers of teacher 0, but"):
        DistillationTrainer(config(tmp_path, squares, file, "RetinaNet", *options))


def test_the_command_line(tmp_path, squares):
    """Trained, and gone on with; another file is another training."""
    path, file = write_config(tmp_path, squares), stored(tmp_path, squares)
    words = ["train", path, "--distill", "SetKD", "DISTILL.SetKD.OFFLINE", file]
    assert d2kd(*words, "SOLVER.MAX_ITER", 2).exit_code == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["weights"][str(file)]
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    row = json.loads(lines[0])
    assert row["loss_SetKD_cls"] > 0
    assert row["SetKD/taught_boxes"] > 0 and row["SetKD/labelled"] == 1
    assert row["SetKD/score"] == pytest.approx(0.8)
    again = d2kd(*words, "--resume", "SOLVER.MAX_ITER", 4)
    assert again.exit_code == 0, again.output
    stored(tmp_path, squares, score=0.7)
    result = d2kd(*words, "--resume", "SOLVER.MAX_ITER", 6)
    assert result.exit_code and "DISTILL.SetKD.OFFLINE was" in result.output
    missing = d2kd("train", path, "--distill", "SetKD")
    assert missing.exit_code and "need --teacher" in missing.output
    assert "DISTILL.SetKD.OFFLINE, a file of its detections" in missing.output
