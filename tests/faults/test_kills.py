"""A kill at any moment changes no weight, no evaluation, no best model and no row of metrics."""

import json
import os
import random
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from d2kd.evaluation.coco import FastCOCOEvaluator
from tests.engine.hooks.test_exact_resume import UNTIMED, config, train
from tests.faults.conftest import FULL
from tests.ranks import CLEAN

KILLED = 9
PERIODS = {"together": (6, 6), "evaluated often": (9, 6), "rarely": (4, 8)}  # checkpoint, test


def build(folder, squares, name, periods):
    checkpoint, evaluation = PERIODS[periods]
    return config("RetinaNet", folder, squares, name, SOLVER__MAX_ITER=23,
                  SOLVER__CHECKPOINT_PERIOD=checkpoint, TEST__EVAL_PERIOD=evaluation,
                  SOLVER__BEST_METRIC="bbox/AP50",
                  MODEL__RETINANET__SCORE_THRESH_TEST=0.0)  # fmt: skip


class Kill:
    """End this process before the n-th thing that reaches the disk, or in the n-th evaluation."""

    def __init__(self, what, number):
        self.what, self.left = what, number

    def arm(self):
        owner, name = {"write": (os, "fsync"), "rename": (os, "replace"),
                       "evaluation": (FastCOCOEvaluator, "evaluate")}[self.what]  # fmt: skip
        stock = getattr(owner, name)

        def counted(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                os._exit(KILLED)
            return stock(*args, **kwargs)

        setattr(owner, name, counted)  # in the child alone


def child(rank, ranks, store, cfg, kill, resume):
    """A rank of a run, in a process of its own that shares nothing but files."""
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        method = f"file://{store}"
        dist.init_process_group("gloo", init_method=method, world_size=ranks, rank=rank)
        comm.create_local_process_group(ranks)
    if kill and rank == 0:
        kill.arm()
    seed_all_rng(cfg.SEED + rank)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()


def run(cfg, kill=None, resume=False, ranks=1):
    """Exit codes of the ranks; where one is killed, the others end as well."""
    store = f"{cfg.OUTPUT_DIR}_{random.getrandbits(64)}"
    ranks_of = [CLEAN.Process(target=logged_child, args=(rank, ranks, store, cfg, kill, resume))
                for rank in range(ranks)]  # fmt: skip
    for process in ranks_of:
        process.start()
    for process in ranks_of:
        process.join()
    return [process.exitcode for process in ranks_of]


def logged_child(rank, ranks, store, *args):
    """As `child`, with its output in a file; ends without waiting for threads."""
    code = 1
    try:
        sys.stdout = sys.stderr = open(f"{store}.log", "a")  # noqa: SIM115
        child(rank, ranks, store, *args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def rows(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    found = [{k: v for k, v in json.loads(x).items() if k not in UNTIMED} for x in lines]
    return [json.dumps(row, sort_keys=True) for row in found if set(row) != {"iteration"}]


def assert_same(parts, whole):
    assert rows(parts) == rows(whole)
    for name in ("model_best.json", "results.json"):
        a, b = (json.loads((x / name).read_text()) for x in (parts, whole))
        for key in ("results", "value", "iteration", "best_f1"):
            assert a.get(key) == b.get(key)
    for name in ("model_best.pth", "model_final.pth"):
        a, b = torch.load(parts / name), torch.load(whole / name)
        assert_close(a["model"], b["model"], rtol=0, atol=0)
        assert a["iteration"] == b["iteration"]
    assert not list(parts.glob("*.tmp"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, squares):
    """Runs that nothing interrupts, each made once: periods and ranks -> folder."""
    folder, done = tmp_path_factory.mktemp("whole"), {}

    def get(periods, ranks=1):
        if (periods, ranks) not in done:
            name = f"{periods}{ranks}"
            assert set(run(build(folder, squares, name, periods), ranks=ranks)) == {0}
            done[periods, ranks] = folder / name
        return done[periods, ranks]

    return get


POINTS = [
    ("together", "evaluation", 2), ("evaluated often", "evaluation", 3), ("rarely", "rename", 9),
    ("together", "write", 21),
]  # fmt: skip
if FULL:
    POINTS = [(periods, what, number) for periods in PERIODS
              for what, last in {"write": 60, "rename": 30, "evaluation": 6}.items()
              for number in range(1, last)]  # fmt: skip


@pytest.mark.parametrize(("periods", "what", "number"), POINTS)
def test_a_kill_changes_nothing(tmp_path, squares, whole, periods, what, number):
    expected = whole(periods)
    cfg = build(tmp_path, squares, "parts", periods)
    killed = run(cfg, Kill(what, number))
    assert killed == [KILLED] or FULL
    assert run(cfg, Kill(what, number + 2), resume=True)[0] in (KILLED, 0)
    assert run(cfg, resume=True) == [0]
    assert_same(tmp_path / "parts", expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
@pytest.mark.parametrize(("what", "number"), [("evaluation", 2), ("write", 17)][: 2 if FULL else 1])
def test_a_kill_of_two_ranks_changes_nothing(tmp_path, squares, whole, what, number):
    expected = whole("together", 2)
    cfg = build(tmp_path, squares, "parts", "together")
    assert run(cfg, Kill(what, number), ranks=2)[0] == KILLED
    assert run(cfg, resume=True, ranks=2) == [0, 0]
    assert_same(tmp_path / "parts", expected)


def test_an_evaluation_that_was_complete_is_not_repeated(tmp_path, squares, monkeypatch):
    cfg = build(tmp_path, squares, "out", "together")
    assert run(cfg) == [0]
    calls, stock = [], DistillationTrainer.test.__func__
    monkeypatch.setattr(DistillationTrainer, "test",
                        classmethod(lambda *x: calls.append(1) or stock(*x)))  # fmt: skip
    before = rows(tmp_path / "out")
    train(cfg, resume=True)
    assert not calls and rows(tmp_path / "out") == before
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    train(cfg, resume=True)
    assert len(calls) == 1


def test_a_run_that_is_prolonged_keeps_its_rows(tmp_path, squares):
    cfg = build(tmp_path, squares, "out", "together")
    assert run(cfg) == [0]
    before = rows(tmp_path / "out")
    cfg.SOLVER.MAX_ITER = 25
    assert run(cfg, resume=True) == [0]
    after = rows(tmp_path / "out")
    assert after[: len(before)] == before and len(set(after)) == len(after)
    assert json.loads(after[-1])["iteration"] == 25
