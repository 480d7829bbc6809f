"""Teachers that compute in advance: the same bits, whatever happens to the one who computes."""

import json
import multiprocessing
import os
import pickle
import signal
import time

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.testing import assert_close

from d2kd import DistillationTrainer, Teacher
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.validate import check_config
from d2kd.data import register_custom_datasets
from d2kd.distiller import Distiller
from d2kd.errors import ConfigError, RunError
from d2kd.teachers import build_ahead
from d2kd.teachers.ahead import AheadTeacher
from d2kd.teachers.ahead_runner import ProcessRunner
from d2kd.teachers.ahead_stream import StreamRunner
from d2kd.testing import make_batch
from tests.engine.hooks.test_exact_resume import CASES, Interruption, config, result, train
from tests.faults.conftest import FULL
from tests.helpers import clone, detector, pair
from tests.ranks import start_training, two_ranks

HEADS = [name for name, case in CASES.items() if case[1]]
CPU = torch.device("cpu")


def same(folder, other):
    for a, b in zip(result(folder), result(other), strict=True):
        for found in (a, b):
            (found or {}).pop("teacher_cache/hits", None)  # a resumed run finds its own files
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)


def waits(folder):
    """Iterations of which the metrics say how long the student waited."""
    rows = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    return [row["iteration"] for row in rows if "teacher_wait" in row]


@pytest.mark.parametrize(
    ("case", "last"), [*((case, False) for case in HEADS), ("GFL, LD and StructuredKD", True)]
)
def test_the_same_bits(tmp_path, squares, case, last):
    keys = {"DISTILL__TEACHER__CHANNELS_LAST": last}
    train(config(case, tmp_path, squares, "own", **keys))
    train(config(case, tmp_path, squares, "ahead", DISTILL__TEACHER__AHEAD=1, **keys))
    same(tmp_path / "own", tmp_path / "ahead")
    assert waits(tmp_path / "ahead") and not waits(tmp_path / "own")


def everything(folder, squares, out, ahead, steps=200 if FULL else 10):
    """A run with workers, augmentation, unlabelled images, held shares and a cache."""
    case = "RetinaNet, PKD and BCKD"
    cfg = config(case, folder, squares, out, SOLVER__MAX_ITER=steps, DATALOADER__NUM_WORKERS=1)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (48, 64), "range"
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.8, 0.8]
    cfg.DATASETS.UNLABELLED = (str(squares),)
    cfg.DISTILL.BALANCE.SHARES, cfg.DISTILL.BALANCE.STEPS = (0.3,), 2
    cfg.DISTILL.BALANCE.PERIOD = 2
    cfg.DISTILL.TEACHER.CACHE_DIR = str(folder / f"{out}_cache")
    cfg.DISTILL.TEACHER.AHEAD = ahead
    return cfg


def test_with_everything_and_resumed(tmp_path, squares):
    """Four in advance, one, none; a run with four goes on with one, and ends without."""
    train(everything(tmp_path, squares, "own", 0))
    for ahead in (1, 4):
        train(everything(tmp_path, squares, f"ahead{ahead}", ahead))
        same(tmp_path / "own", tmp_path / f"ahead{ahead}")
    for ahead, stop in ((4, 3), (1, 7)):
        with pytest.raises(Interruption):
            train(everything(tmp_path, squares, "parts", ahead), stop, resume=stop > 3)
    train(everything(tmp_path, squares, "parts", 0), resume=True)
    same(tmp_path / "own", tmp_path / "parts")


def faulty(cfg, number, times):
    """Train from iteration 2 on with signals to the teacher's processes, one to each of `times`."""
    torch.manual_seed(1)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    step, hit = trainer.run_step, []
    runner = trainer.distiller.teachers[0]._runner

    def run_step():
        process = runner.process
        if trainer.iter > 1 and process and process.pid not in hit and len(hit) < times:
            hit.append(process.pid)
            os.kill(hit[-1], number)
        step()

    trainer.run_step = run_step
    trainer.train()
    return hit


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_is_replaced(tmp_path, squares, number, caplog):
    case = "RetinaNet, PKD and BCKD"
    train(config(case, tmp_path, squares, "own"))
    cfg = config(case, tmp_path, squares, "ahead", DISTILL__TEACHER__AHEAD=2)
    cfg.DISTILL.TEACHER.DEADLINE = 6.0
    (pid,) = faulty(cfg, number, times=1)
    same(tmp_path / "own", tmp_path / "ahead")
    assert not is_there(pid)
    expected = "not answered in 6 s" if number == signal.SIGSTOP else "signal 9"
    assert [r.message for r in caplog.records if expected in r.message], caplog.text


def test_the_second_time_the_run_stops_with_a_checkpoint_and_goes_on(tmp_path, squares):
    case, keys = "RetinaNet, PKD and BCKD", {"DISTILL__TEACHER__AHEAD": 2}
    train(config(case, tmp_path, squares, "own"))
    cfg = config(case, tmp_path, squares, "ahead", SOLVER__CHECKPOINT_PERIOD=100, **keys)
    with pytest.raises(RunError, match=r"Stopped after . of 8 .*pth, --resume .*twice.*signal 9"):
        faulty(cfg, signal.SIGKILL, times=2)
    assert "model_000000" in (tmp_path / "ahead" / "last_checkpoint").read_text()
    train(cfg, resume=True)
    same(tmp_path / "own", tmp_path / "ahead")


def test_killed_runs_leave_no_process(tmp_path, squares):
    """SIGKILL of the student; the run is resumed, and has the bits of one without a kill."""
    case = "GFL, LD and StructuredKD"
    train(config(case, tmp_path, squares, "own"))
    cfg = config(case, tmp_path, squares, "parts", DISTILL__TEACHER__AHEAD=2)
    (tmp_path / "run.yaml").write_text(cfg.dump())
    process = start_training("--resume", "--config-file", tmp_path / "run.yaml")
    while process.is_alive() and not (tmp_path / "parts" / "last_checkpoint").exists():
        time.sleep(0.05)
    process.kill()
    process.join()
    process = start_training("--resume", "--config-file", tmp_path / "run.yaml")
    process.join()
    assert process.exitcode == 0
    for a, b in list(zip(*(result(tmp_path / x) for x in ("own", "parts")), strict=True))[:3]:
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    deadline = time.monotonic() + 10
    while teacher_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not teacher_processes()


def teacher_processes():
    """Sessions of their own below the fork server, whose student is gone."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()
            command = open(f"/proc/{entry}/cmdline").read()
        except OSError:
            continue
        if "forkserver" in command and stat[3] == entry and stat[0] != "Z":
            found.append(entry)
    return found


def on_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    for name in ("own", "ahead"):
        cfg = get_d2kd_cfg()
        merge_config_file(cfg, f"{folder}/{name}.yaml", "")
        train(cfg)
    dist.destroy_process_group()


def test_two_ranks(tmp_path, squares):
    for ahead, name in enumerate(("own", "ahead")):
        cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, name,
                     DISTILL__TEACHER__AHEAD=ahead, SOLVER__MAX_ITER=4)  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
    two_ranks(on_rank, str(tmp_path))
    same(tmp_path / "own", tmp_path / "ahead")
    assert waits(tmp_path / "ahead")


def ahead_of(model, make_runner):
    """The same distiller, whose teacher computes in advance."""
    other = clone(model)
    other.panel.teachers = [AheadTeacher(t, make_runner(t)) for t in other.teachers]
    return other


@pytest.mark.parametrize("make_runner", [StreamRunner, lambda t: ProcessRunner(t, CPU)])
def test_both_runners_give_what_is_asked_for(make_runner, event_storage):
    """Batches that were announced, in any order, and one that was not; losses of all are equal."""
    _, model = pair("GFL", ("PKD", "LD"))
    other = ahead_of(model, make_runner)
    batches = [make_batch(seed=i) for i in range(4)]
    for number, batch in enumerate(batches[:3]):
        batch[0]["batch number"] = 10 + number
        other.look_ahead(batch)
    for index in (1, 0, 3, 2):
        torch.manual_seed(0)
        expected = model(batches[index])
        torch.manual_seed(0)
        assert_close(other(batches[index]), expected, rtol=0, atol=0)
    assert len(event_storage.history("teacher_wait").values()) == 3
    for teacher in other.teachers:
        teacher.close()


def test_what_the_teacher_raises_is_raised():
    _, model = pair("GFL", ("PKD",))
    other = ahead_of(model, lambda t: ProcessRunner(t, CPU))
    batch = make_batch()
    batch[0]["batch number"] = 1
    batch[0]["image"] = batch[0]["image"][:2]
    other.look_ahead(batch)
    with pytest.raises(RuntimeError, match="size of tensor"):
        other.teachers[0](batch, other.divisor, "BGR", frozenset({"features"}))
    other.teachers[0].close()


def test_a_teacher_of_many_tensors():
    """More than file descriptors that can be passed at once."""
    teacher = Teacher(detector("FCOS"))
    teacher.detector.many = torch.nn.ParameterList([torch.zeros(1) for _ in range(600)])
    other = AheadTeacher(teacher, ProcessRunner(teacher, CPU))
    batch = make_batch()
    batch[0]["batch number"] = 1
    arguments = batch, 64, "BGR", frozenset({"features"})
    other.look_ahead(*arguments)
    found = other(*arguments).features
    assert_close(found, teacher(*arguments).features, rtol=0, atol=0)
    other.close()


def test_a_batch_that_is_asked_for_otherwise_is_computed_and_not_kept(event_storage):
    teacher = Teacher(detector("RetinaNet"))
    ahead, batch = AheadTeacher(teacher, StreamRunner(teacher)), make_batch()
    batch[0]["batch number"] = 1
    announced, asked = ((batch, 64, "BGR", frozenset({x})) for x in ("features", "logits"))
    ahead.look_ahead(*announced)
    assert_close(ahead(*asked).logits, teacher(*asked).logits, rtol=0, atol=0)
    assert not ahead._runner._done and not ahead._asked


@pytest.mark.parametrize(
    "meta",
    ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints", "GeneralizedRCNN"],
)
def test_every_detector_can_be_sent(meta):
    teacher, batch = Teacher(detector(meta)), make_batch()
    sent = pickle.loads(pickle.dumps(teacher))
    ours, theirs = (x(batch, 64, "BGR", frozenset({"features"})).features for x in (teacher, sent))
    assert_close(theirs, ours, rtol=0, atol=0)


def test_a_teacher_that_cannot_be_sent():
    teacher = Teacher(detector("GFL"))
    teacher.detector.hidden = lambda: None
    cfg = get_d2kd_cfg()
    cfg.MODEL.DEVICE, cfg.DISTILL.TEACHER.AHEAD = "cpu", 1
    with pytest.raises(ConfigError, match="DISTILL.TEACHER.AHEAD: .* cannot be sent"):
        build_ahead.run_ahead(teacher, cfg)


@pytest.mark.parametrize(("keys", "message"), [
    ({"DEVICE": "cpu"}, "DISTILL.TEACHER.DEVICE .* set DISTILL.TEACHER.AHEAD 1"),
    ({"AHEAD": 1, "DEVICE": "gpu"}, "DISTILL.TEACHER.DEVICE is 'gpu': give cpu, cuda"),
    ({"AHEAD": 1, "DEVICE": "cuda:1"}, "no GPU is found"),
    ({"AHEAD": -1}, "DISTILL.TEACHER.AHEAD is -1"),
    ({"AHEAD": 17}, "DISTILL.TEACHER.AHEAD is 17"),
    ({"AHEAD": 1, "DEADLINE": 0.0}, "DISTILL.TEACHER.DEADLINE is 0.0"),
])  # fmt: skip
def test_refused(tmp_path, squares, keys, message):
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out")
    for key, value in keys.items():
        cfg.DISTILL.TEACHER[key] = value
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)
        Distiller(cfg)


@pytest.mark.parametrize("threads", [1, 10_000])
def test_more_threads_than_cores_are_said(tmp_path, squares, threads, caplog, monkeypatch):
    monkeypatch.setattr(build_ahead, "own_cores", lambda: 2)
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", DISTILL__TEACHER__AHEAD=1)
    cfg.DISTILL.TEACHER.THREADS = threads
    caplog.set_level("WARNING", "d2kd")
    Distiller(cfg)
    said = [x.message for x in caplog.records if "which slows both down" in x.message]
    assert len(said) == (threads > 1)


def test_a_script_without_a_guard_is_told(tmp_path, squares, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", DISTILL__TEACHER__AHEAD=1)
    with pytest.raises(ConfigError, match="if __name__ == '__main__'"):
        Distiller(cfg)


def test_what_a_teacher_logs_is_logged(tmp_path, squares, caplog):
    """A cache that is full, in the process of the teacher."""
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", DISTILL__TEACHER__AHEAD=1)
    cfg.DISTILL.TEACHER.CACHE_DIR, cfg.DISTILL.TEACHER.CACHE_GB = str(tmp_path / "cache"), 1e-9
    train(cfg)
    assert "the limit DISTILL.TEACHER.CACHE_GB is reached" in caplog.text


def test_compiled_teachers_are_refused(tmp_path, squares):
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "out", DISTILL__TEACHER__AHEAD=1)
    cfg.DISTILL.COMPILE = True
    with pytest.raises(ConfigError, match="DISTILL.COMPILE"):
        Distiller(cfg)
