"""What a capsule holds, what it does without, and what damaged ones lead to."""

import json
import logging
import random
import shutil

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from d2kd.engine.capsule import kept_checkpoints, read_capsule, write
from d2kd.engine.capsule.batch import pack, unpack
from d2kd.engine.capsule.moment import Moment
from d2kd.engine.capsule.weights import parts_of, size_of
from d2kd.inspection.replay.rebuild import rebuild
from d2kd.inspection.replay.watch import numbers_of
from tests.engine.hooks.test_exact_resume import config, train
from tests.faults.broken_steps import NAN, set_traps, spoilt_config, stop
from tests.helpers import d2kd, detector

CASE = "RetinaNet, PKD and BCKD"


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def place(tmp_path_factory, squares):
    """A run that has stopped at iteration 5 over a NaN in its batch, and its capsule."""
    folder = tmp_path_factory.mktemp("run")
    cfg = spoilt_config(folder, squares, "input", CASE, "")
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 1
    _, capsule = stop(cfg, "input", NAN, 5)
    return folder, cfg, capsule


@pytest.fixture
def copied(place, tmp_path):
    """A capsule of one's own, at the same place in a run."""
    shutil.copytree(place[0] / "out", tmp_path / "out")
    return tmp_path / "out" / "replay" / "5"


def change(folder, **keys):
    record = json.loads((folder / "capsule.json").read_text())
    (folder / "capsule.json").write_text(json.dumps({**record, **keys}))


def test_numbers_by_hand():
    x = [torch.tensor([1.0, NAN, -3.0]), torch.tensor([[float("inf")]]), torch.tensor([7])]
    assert numbers_of(x) == (4, 1, 1, 3.0) and not numbers_of(x).finite
    assert str(numbers_of(x[:1])) == "3 numbers, 1 NaN, largest 3"
    assert numbers_of([]) == (0, 0, 0, 0.0)


def test_a_batch_of_every_kind():
    objects = Instances((8, 9), gt_boxes=Boxes(torch.tensor([[1.0, 2, NAN, 4]])))
    objects.gt_masks = BitMasks(torch.ones(1, 8, 9, dtype=torch.bool))
    objects.gt_keypoints = Keypoints(torch.rand(1, 3, 3))
    outlines = [[np.arange(6.0)], [np.arange(8.0) / 3, np.arange(6.0)], []]
    other = Instances((8, 9), gt_masks=PolygonMasks(outlines), gt_classes=torch.arange(3))
    batch = [{"image": torch.ones(3, 8, 9, dtype=torch.uint8), "instances": objects, "height": 8,
              "file_name": "é.png", "unlabelled": False},
             {"image": torch.rand(3, 8, 9), "instances": other, "mine": object()}]  # fmt: skip
    packed, tensors, left = pack(batch)
    first, second = unpack(json.loads(json.dumps(packed)), tensors)
    assert left == ["mine of image 1 (object)"] and "mine" not in second
    assert first["file_name"] == "é.png" and first["unlabelled"] is False and first["height"] == 8
    assert_close(first["image"], batch[0]["image"], rtol=0, atol=0)
    found = first["instances"]
    assert found.image_size == (8, 9) and torch.equal(
        found.gt_masks.tensor, objects.gt_masks.tensor
    )
    assert_close(found.gt_boxes.tensor, objects.gt_boxes.tensor, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.gt_keypoints.tensor, objects.gt_keypoints.tensor)
    again = second["instances"].gt_masks.polygons
    assert [[x.tolist() for x in parts] for parts in again] == \
        [[x.tolist() for x in parts] for parts in outlines]  # fmt: skip


def test_a_moment_brings_back_random_numbers_and_statistics():
    model = detector(MODEL__RETINANET__NORM="BN").train()
    model.loss_normalizer = 12.5
    moment = Moment(model)
    moment.take()

    def draw():
        return [torch.rand(1).item(), np.random.rand(), random.random(), random.gauss(0, 1)]

    expected, state = draw(), {k: x.clone() for k, x in model.state_dict().items()}
    for buffer in model.buffers():
        buffer.add_(1)
    model.loss_normalizer = 99.0
    record, tensors = moment.save()
    moment.put_back()
    assert draw() == expected and model.loss_normalizer == 12.5
    assert_close(model.state_dict(), state, rtol=0, atol=0)
    other = Moment(detector(MODEL__RETINANET__NORM="BN", seed=5))
    other.load(json.loads(json.dumps(record)), tensors)
    assert draw() == expected and other._detector.loss_normalizer == 12.5


def test_a_moment_has_no_part_in_frozen_norms():
    moving, frozen = (Moment(detector(MODEL__RETINANET__NORM=x)) for x in ("BN", "FrozenBN"))
    plain = Moment(detector())._buffers()
    assert len(moving._buffers()) > len(plain) == len(frozen._buffers())


def test_a_capsule_has_the_step_and_names_a_checkpoint(place):
    folder, cfg, path = place
    capsule = read_capsule(path)
    record = capsule.record
    assert record["iteration"] == 5 and record["reason"]["type"] == "FloatingPointError"
    assert record["run"]["torch"] == torch.__version__ and record["missing"] == []
    assert record["optimizer"]["class"] == "SGD" and len(record["optimizer"]["digest"]) == 40
    assert {"lr", "momentum"} <= set(record["optimizer"]["groups"][0])
    assert len(record["teachers"][0]["digest"]) == 40 and not set(capsule.files) & {"teacher"}
    assert record["checkpoint"]["path"] == "../../model_0000003.pth"
    assert {x.name for x in path.iterdir()} == {
        "capsule.json", "config.yaml", "state.safetensors", "batch.safetensors",
        "student.safetensors", "heads.safetensors"}  # fmt: skip
    assert len(capsule.batch()) == 4


def test_the_gradients_of_the_step_are_those_of_the_run(tmp_path, squares, monkeypatch):
    """With batch norm, masks drawn at random, no seed, and a frozen layer."""
    set_traps(monkeypatch)
    cfg = spoilt_config(tmp_path, squares, "gradient", "RetinaNet, MGD", "spike")
    cfg.merge_from_list(["SEED", -1, "MODEL.RETINANET.NORM", "BN"])
    seen = {}

    def look(trainer):
        seen["model"] = trainer.distiller
        stock = trainer.guard.after_backward

        def after_backward():
            seen["gradients"] = [x.grad.clone() for x in trainer.distiller.parameters()]
            stock()

        trainer.guard.after_backward = after_backward

    _, path = stop(cfg, "spike", "spike", 2, look)
    scene = rebuild(read_capsule(path))
    assert scene.missing == []
    scene.reset()
    sum(scene.model(scene.batch).values()).backward()
    found = [x.grad for x in scene.model.parameters()]
    assert_close(found, seen["gradients"], rtol=0, atol=0)
    scene.reset()
    assert_close(list(scene.model.buffers()), list(seen["model"].buffers()), rtol=0, atol=0)


def test_unchanged_weights_are_those_of_the_checkpoint(tmp_path, squares):
    cfg = spoilt_config(tmp_path, squares, "input", CASE, "")
    _, path = stop(cfg, "input", NAN, 4)  # the step behind a checkpoint
    capsule = read_capsule(path)
    assert not capsule.files["student"] and not capsule.files["heads"]
    names = capsule.record["checkpoint"]["has"]
    assert {k: len(x) for k, x in names.items()} == {"student": 22, "heads": 8}
    assert "bit by bit" in d2kd("replay", path).output


def test_a_checkpoint_that_a_capsule_needs_is_kept(place, squares, tmp_path):
    folder, cfg, path = place
    own = tmp_path / "out"
    shutil.copytree(folder / "out", own)
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(own)
    cfg.SOLVER.MAX_ITER = 12
    has = {"student": ["backbone.stem.weight"]}
    record = json.loads((own / "replay/5/capsule.json").read_text())["checkpoint"]
    change(own / "replay/5", checkpoint={**record, "has": has})
    train(cfg, resume=True)
    assert sorted(x.name for x in own.glob("model_0*.pth")) == \
        ["model_0000003.pth", "model_0000011.pth"]  # fmt: skip


def test_what_is_missing_is_said(copied):
    teacher = copied.parents[2] / "other.pth"
    state = detector("RetinaNet", 12, seed=9, MODEL__RETINANET__NUM_CLASSES=2).state_dict()
    torch.save({"model": state}, teacher)
    record = read_capsule(copied).record
    has = {"student": ["head.cls_score.weight"], "heads": []}
    change(copied, checkpoint={**record["checkpoint"], "path": "../gone.pth", "has": has},
           cpu="another one", run={**record["run"], "torch": "1.0"})  # fmt: skip
    kept = load_file(copied / "student.safetensors")
    kept.pop("head.cls_score.weight")
    save_file(kept, copied / "student.safetensors")
    done = d2kd("replay", copied, "DISTILL.TEACHER.WEIGHTS", f"('{teacher}',)")
    for text in (f"teacher 0 as it was ({record['teachers'][0]['weights']}",
                 "a checkpoint that has weights of the step", "1 of 22 tensors of the student",
                 "PyTorch 1.0: here it is", "a CPU of the kind another one"):  # fmt: skip
        assert text in done.output, done.output


def test_the_size_is_limited(tmp_path, squares):
    cfg = spoilt_config(tmp_path, squares, "input", CASE, "")
    cfg.SOLVER.GUARD.REPLAY_MB = 0.11
    _, path = stop(cfg, "input", NAN, 0)
    capsule = read_capsule(path)
    assert {"state", "batch"} <= set(capsule.files) and "student" not in capsule.files
    assert sum(size_of(x) for x in capsule.files.values()) <= 110_000
    said = d2kd("replay", path).output
    assert "Missing: student (0.0 MB), which SOLVER.GUARD.REPLAY_MB leaves no room for." in said
    assert "Missing: 22 of 22 tensors of the student." in said
    cfg.OUTPUT_DIR = str(tmp_path / "none")
    cfg.SOLVER.GUARD.REPLAY_MB = 0.0
    stop(cfg, "input", NAN, 0)
    assert not (tmp_path / "none" / "replay").exists()


def test_an_image_that_cannot_be_read_leaves_nothing(tmp_path, squares):
    data = tmp_path / "broken"
    shutil.copytree(squares, data)
    (data / "3.png").write_text("no image")
    cfg = config(CASE, tmp_path, data, "out")
    with pytest.raises(ValueError, match="3.png cannot be read"):
        train(cfg)
    assert not (tmp_path / "out" / "replay").exists()


def test_a_full_disk_leaves_nothing_of_a_capsule(tmp_path, squares, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_safetensors", full)
    error, path = stop(spoilt_config(tmp_path, squares, "input", CASE, ""), "input", NAN, 0)
    assert isinstance(error, FloatingPointError)
    assert not any(path.parent.iterdir())


def test_what_a_kill_left_of_a_capsule_is_none(copied):
    run = copied.parents[1]
    copied.rename(copied.with_name("5.tmp"))
    assert "is no capsule, which a run leaves" in d2kd("replay", run).output
    has = {"student": ["backbone.stem.weight"]}
    record = json.loads((run / "replay/5.tmp/capsule.json").read_text())["checkpoint"]
    change(run / "replay/5.tmp", checkpoint={**record, "has": has})
    assert not kept_checkpoints(run)


def test_an_error_without_a_place_is_written():
    assert write._reason(ValueError("odd"))["where"] == "unknown"


def test_what_a_failed_gpu_does_not_give_is_named(tmp_path, squares, monkeypatch):
    """Behind a CUDA error the batch, the config, the random states and the reason are left."""

    def fail(*args):
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with")

    for name in ("divide", "digest", "digest_of"):
        monkeypatch.setattr(write, name, fail)
    monkeypatch.setattr(Moment, "put_back", fail)
    _, path = stop(spoilt_config(tmp_path, squares, "input", CASE, ""), "input", NAN, 0)
    capsule = read_capsule(path)
    assert len(capsule.batch()) == 4 and (path / "config.yaml").is_file()
    assert "random.torch" in capsule.files["state"]
    missing = capsule.record["missing"]
    for name in ("statistics of its start", "student", "heads", "the optimizer", "the digest of"):
        assert any(x.startswith(name) and "(CUDA error: device-side" in x for x in missing), missing
    monkeypatch.undo()
    assert "Missing: student, which the device does not give" in d2kd("replay", path).output


def test_a_capsule_asks_for_no_file_that_is_not_its_own(place, copied, tmp_path):
    """It writes into no cache of teachers, and downloads nothing of its own accord."""
    cache = tmp_path / "cache"
    config_file = copied / "config.yaml"
    cfg = place[1].clone()
    cfg.DISTILL.TEACHER.CACHE_DIR = str(cache)
    config_file.write_text(cfg.dump())
    assert rebuild(read_capsule(copied)).cfg.DISTILL.TEACHER.CACHE_DIR == ""
    d2kd("replay", copied)
    assert not cache.exists()
    weights = cfg.DISTILL.TEACHER.WEIGHTS
    cfg.DISTILL.TEACHER.WEIGHTS = ("https://example.com/evil.pth",)
    config_file.write_text(cfg.dump())
    done = d2kd("replay", copied)
    assert done.exit_code == 1 and "The capsule names weights to download" in done.output
    typed = rebuild(read_capsule(copied), ["DISTILL.TEACHER.WEIGHTS", str(weights)])
    assert typed.cfg.DISTILL.TEACHER.WEIGHTS == weights


BROKEN = {
    "no json": lambda x: (x / "capsule.json").write_text("{"),
    "a list": lambda x: (x / "capsule.json").write_text("[1]"),
    "another version": lambda x: change(x, format=2),
    "no teachers": lambda x: change(x, teachers=7),
    "more teachers": lambda x: change(x, teachers=[]),
    "a precision": lambda x: change(x, teachers=[{"precision": "fp1", "digest": ""}]),
    "images": lambda x: change(x, batch=[{"values": 3}]),
    "a size": lambda x: change(x, batch=[{"values": {}, "tensors": [], "instances": {
        "instances": {"size": ["a", 1], "fields": {}}}}]),
    "a kind": lambda x: change(x, batch=[{"values": {}, "tensors": [], "instances": {
        "instances": {"size": [8, 8], "fields": {"gt_boxes": ["os.system", None]}}}}]),
    "random numbers": lambda x: change(x, random={"numpy": ["MT19937", 0, 0, 0], "python": [9, 0]}),
    "a checkpoint": lambda x: change(x, checkpoint={"path": "config.yaml", "sha256": "",
                                                    "has": {"student": ["x"]}}),
    "its names": lambda x: change(x, checkpoint={"path": 3, "has": {"student": ["x"]}}),
    "no tensors": lambda x: (x / "batch.safetensors").write_bytes(b"x" * 40),
    "no state": lambda x: (x / "state.safetensors").unlink(),
    "a short state": lambda x: save_file({"scale": torch.ones(1)}, x / "state.safetensors"),
    "no config": lambda x: (x / "config.yaml").unlink(),
    "weights of another shape": lambda x: save_file(
        {k: y.flatten() for k, y in load_file(x / "student.safetensors").items()},
        x / "student.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_one_line(copied, name):
    BROKEN[name](copied)
    done = d2kd("replay", copied)
    assert done.exit_code == 1 and "Unexpected" not in done.output, done.output
    assert "Error: " in done.output and str(copied) in done.output, done.output
    assert len(done.output.splitlines()) == 2, done.output


def test_folders_without_a_capsule_are_named(place, tmp_path):
    found = d2kd("replay", place[0] / "out").output
    assert f"is no capsule: name {place[2]}" in found
    assert "a run leaves as OUTPUT_DIR/replay/<iteration>" in d2kd("replay", tmp_path).output


def test_parts_of_a_plain_detector():
    assert list(parts_of(detector())) == ["student"]
