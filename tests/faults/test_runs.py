"""Signals, dying workers and ranks, broken images, in runs of their own."""

import contextlib
import json
import os
import re
import signal
import time
import traceback
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from PIL import Image

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from d2kd.errors import RunError
from tests.engine.hooks.test_exact_resume import config, result, train
from tests.helpers import worker_processes, write_config
from tests.ranks import start_training

CASE = "RetinaNet, PKD and BCKD"
STARTED = []


@pytest.fixture(autouse=True)
def nothing_stays():
    """Kill what a failed test leaves behind, ranks and workers too."""
    yield
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


@pytest.fixture
def start(monkeypatch):
    """Starts a config in a process of its own, with its output in a file."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def started(path, *options, ranks=0):
        (path.parent / "mine.py").write_text("import d2kd.testing\n")
        words = ["--config-file", path, "--num-gpus", ranks, "--import", path.parent / "mine.py"]
        STARTED.append(start_training(*words, *options, output=path.with_suffix(".log")))
        return STARTED[-1]

    return started


def output(path, process):
    """What the run printed, when it has ended by itself, a minute later at most."""
    process.join(timeout=60)
    return path.with_suffix(".log").read_text()


def wait_for_steps(folder, process):
    """Until the first checkpoint; then the run is in its steps."""
    while process.is_alive() and not (folder / "last_checkpoint").exists():
        time.sleep(0.05)


def long_run(tmp_path, squares, **keys):
    cfg = config(CASE, tmp_path, squares, "out", SOLVER__MAX_ITER=100000, **keys)
    path = tmp_path / "run.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, squares, start, number):
    path = long_run(tmp_path, squares)
    process = start(path)
    wait_for_steps(tmp_path / "out", process)
    os.kill(process.pid, number)
    out = output(path, process)
    assert process.exitcode == 128 + number, out[-3000:]
    done = int(re.search(rf"{number.name}: stopped after (\d+) of 100000", out)[1])
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert last == f"model_{done - 1:07d}.pth"
    assert torch.load(tmp_path / "out" / last)["iteration"] == done - 1


def test_what_a_signal_stopped_goes_on_with_the_same_bits(tmp_path, squares):
    """In this process, so that the step is known; the signal comes twice in the third of eight."""
    whole = config(CASE, tmp_path, squares, "whole", SOLVER__CHECKPOINT_PERIOD=1000)
    train(whole)
    parts = config(CASE, tmp_path, squares, "parts", SOLVER__CHECKPOINT_PERIOD=1000)
    with pytest.raises(SystemExit) as info:
        train(parts, call_before={2: lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in "ab"]})
    assert info.value.code == 143
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000002.pth"
    train(parts, resume=True)
    for a, b in zip(result(tmp_path / "whole"), result(tmp_path / "parts"), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def children(pid, name=""):
    """Processes that a process has started, of those whose command line holds `name`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return sorted(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_is_killed_or_stopped_ends_the_others(tmp_path, squares, start, number):
    path = long_run(tmp_path, squares)
    process = start(path, ranks=2)
    wait_for_steps(tmp_path / "out", process)
    begun = time.time()
    os.kill(children(process.pid, "spawn_main")[-1], number)
    out = output(path, process)
    assert process.exitcode not in (0, None) and time.time() - begun < 60
    if number == signal.SIGKILL:
        assert "A rank has died, so the run has ended: " in out and "--resume" in out
    else:
        assert re.search(r"SIGTERM: stopped after \d+ of 100000", out), out[-3000:]
        assert process.exitcode == 143, out[-3000:]
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert torch.load(tmp_path / "out" / last)["iteration"] >= 0


def test_a_worker_that_dies_is_named(tmp_path, squares, start):
    path = long_run(tmp_path, squares, DATALOADER__NUM_WORKERS=1)
    process = start(path)
    wait_for_steps(tmp_path / "out", process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    out = output(path, process)
    assert process.exitcode == 1
    last = out.strip().splitlines()[-2]
    assert "DataLoader worker" in last and "DATALOADER.NUM_WORKERS" in last, out[-2000:]
    assert "--resume" in last


class KillWorker(HookBase):
    """Kill the worker after the second step, as the system does that is out of memory."""

    def __init__(self, spoil):
        self.spoil = spoil

    def after_step(self):
        if self.trainer.iter != 1:
            return
        try:
            os.kill(max(x.pid for x in worker_processes()), signal.SIGKILL)
            time.sleep(60)  # PyTorch raises while this waits
        except RuntimeError as error:
            if self.spoil:
                raise OSError(f"what was being written is broken ({error})")  # noqa: B904
            raise


@pytest.mark.parametrize("spoil", [False, True])
def test_a_worker_that_dies_between_steps_is_named(tmp_path, squares, spoil):
    cfg = config("RetinaNet", tmp_path, squares, "out", DATALOADER__NUM_WORKERS=1)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.register_hooks([KillWorker(spoil)])
    with pytest.raises(RunError, match=r"DataLoader worker .*killed.*NUM_WORKERS.*model_0000001"):
        trainer.train()


def broken_images(squares, tmp_path):
    """Copies of the squares: one truncated, one that is text, one missing."""
    data = tmp_path / tmp_path.name
    data.mkdir()
    for source in squares.iterdir():
        (data / source.name).write_bytes(source.read_bytes())
    whole = (data / "3.png").read_bytes()
    (data / "3.png").write_bytes(whole[: len(whole) // 2])
    (data / "5.png").write_text("not an image")
    (data / "7.png").unlink()
    return data


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_named_or_skipped(tmp_path, squares, workers, caplog):
    data = broken_images(squares, tmp_path)
    cfg = config(CASE, tmp_path, data, "out", DATALOADER__NUM_WORKERS=workers)
    cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"/[357].png cannot be read: .*SKIP_BAD_IMAGES") as info:
        train(cfg)
    traceback.clear_frames(info.tb)  # or the worker ends seconds after a collection of garbage
    cfg.DATALOADER.SKIP_BAD_IMAGES = True
    train(cfg)
    if not workers:
        assert re.search(r"[357].png cannot be read.*skipped", caplog.text)


def test_skipping_is_repeatable(tmp_path, squares):
    data = broken_images(squares, tmp_path)
    for name in ("a", "b"):
        cfg = config(CASE, tmp_path, data, name, DATALOADER__SKIP_BAD_IMAGES=True)
        cfg.DATASETS.TEST = ()
        train(cfg)
    for a, b in zip(result(tmp_path / "a"), result(tmp_path / "b"), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)


def test_an_image_of_another_size_is_named(tmp_path, squares):
    data = broken_images(squares, tmp_path)
    for name in ("3.png", "5.png", "7.png"):
        (data / name).write_bytes((squares / name).read_bytes())
    Image.new("RGB", (64, 32)).save(data / "1.png")
    with pytest.raises(ValueError, match=r"/1.png cannot be read: SizeMismatchError"):
        train(config(CASE, tmp_path, data, "out"))


def test_best_and_last_checkpoints(tmp_path, squares):
    cfg = config("RetinaNet", tmp_path, squares, "out", SOLVER__CHECKPOINTS_TO_KEEP=2,
                 SOLVER__BEST_METRIC="bbox/AP", TEST__EVAL_PERIOD=3,
                 MODEL__RETINANET__SCORE_THRESH_TEST=0.0)  # fmt: skip
    train(cfg)
    folder = tmp_path / "out"
    numbered = sorted(p.name for p in folder.glob("model_0*.pth"))
    assert numbered == ["model_0000005.pth", "model_0000007.pth"]
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    best = json.loads((folder / "model_best.json").read_text())
    assert best["metric"] == "bbox/AP" and best["iteration"] in (2, 5, 8)
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    seen = {x["iteration"]: {k: x.get(f"best_f1/{k}") for k in best["best_f1"]} for x in rows}
    assert best["best_f1"] == seen[best["iteration"]]
    assert "trainer" not in torch.load(folder / "model_best.pth")


def test_run_and_results_are_recorded(tmp_path, squares):
    cfg = config(CASE, tmp_path, squares, "out")
    train(cfg)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|", run["commit"])
    assert run["seed"] == cfg.SEED and run["ranks"] == 1 and run["first_iteration"] == 0
    ((name, fingerprint),) = run["datasets"].items()
    assert name == cfg.DATASETS.TRAIN[0] and len(fingerprint) == 64
    teacher = cfg.DISTILL.TEACHER.WEIGHTS[0]
    assert len(run["weights"][teacher]) == 64
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["results"]["bbox"]) >= {"AP", "AP50"} and results["run"]["iterations"] == 8


def test_deterministic_switch(tmp_path, squares):
    path = write_config(tmp_path, squares, DETERMINISTIC=True)
    assert path.exists()
    cfg = config("RetinaNet", tmp_path, squares, "out", DETERMINISTIC=True)
    try:
        train(cfg)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
