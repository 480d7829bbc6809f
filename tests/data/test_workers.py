"""Workers and threads follow the cores that a process may use; the config stays as it is.

Two ranks that share them are in tests/engine/test_launch.py.
"""

import logging
import os
import warnings

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils.logger import log_first_n

from d2kd import DistillationTrainer
from d2kd.config.loading import load_config
from d2kd.cores import own_cores, share_cores, usable_cores
from d2kd.data import loader_workers, register_custom_datasets
from d2kd.engine.hooks.first_images import FirstImages
from d2kd.robustness import load_plan, run_plan
from tests.helpers import worker_processes, write_config

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binds to cores")
ASKED = 3


@pytest.fixture
def one_core():
    """This process and what it starts may use one core; a loader with more workers is an error."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(cores)[:1])
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="This DataLoader will create")
        yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.fixture
def shared():
    """Forgets, afterwards, that other processes share the cores."""
    threads = torch.get_num_threads()
    yield
    share_cores(1)
    torch.set_num_threads(threads)


@pytest.fixture
def path(tmp_path, squares):
    return write_config(
        tmp_path, squares, SOLVER__MAX_ITER=1, DATALOADER__NUM_WORKERS=ASKED, TEST__EVAL_PERIOD=1
    )


def test_a_training_with_its_evaluation(path, one_core, caplog):
    cfg = load_config(str(path), [])
    register_custom_datasets(cfg)
    log_first_n.__globals__["_LOG_COUNTER"].clear()
    before = worker_processes()  # of tests whose training failed
    with caplog.at_level(logging.INFO, "d2kd.data.workers"):
        trainer = DistillationTrainer(cfg)
        trainer.train()
        assert not set(worker_processes()) - set(before)
        DistillationTrainer.test(cfg, trainer.model)
    said = [r.getMessage() for r in caplog.records if r.name == "d2kd.data.workers"]
    assert said == [f"DATALOADER.NUM_WORKERS is {ASKED}: data loaders use 1, this process's part "
                    "of the cores."]  # fmt: skip
    assert trainer.cfg.DATALOADER.NUM_WORKERS == cfg.DATALOADER.NUM_WORKERS == ASKED


def test_the_check_of_a_teacher(path, one_core):
    cfg = load_config(str(path), [])
    register_custom_datasets(cfg)
    assert FirstImages(cfg, 2).evaluate(build_model(cfg), "BGR").ap >= 0


def test_robustness(path, tmp_path, one_core):
    pytest.importorskip("imagecorruptions", reason="needs imagecorruptions-imaug")
    torch.save({"model": build_model(load_config(str(path), [])).state_dict()}, tmp_path / "a.pth")
    model = {"config": str(path), "options": ["MODEL.WEIGHTS", str(tmp_path / "a.pth")]}
    data = {"title": "Toy", "output": str(tmp_path / "result"), "models": {"a": model},
            "corruptions": {"names": ["contrast"], "severities": [1]}, "images": 2}  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    run_plan(load_plan(str(tmp_path / "plan.yaml")))


@pytest.mark.parametrize("given", ["", "2"])
def test_threads_of_a_share(monkeypatch, shared, given):
    monkeypatch.setattr("d2kd.cores.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(8)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        torch.set_num_threads(int(given))
    share_cores(2)
    assert own_cores() == 4 and torch.get_num_threads() == (2 if given else 4)
    share_cores(16)
    assert own_cores() == 1


def test_as_many_workers_as_asked_where_there_are_cores(path, monkeypatch, shared):
    monkeypatch.setattr("d2kd.cores.usable_cores", lambda: 16)
    cfg = load_config(str(path), ["DATALOADER.NUM_WORKERS", "4"])
    found = []
    for processes in (1, 4, 8, 32):
        share_cores(processes)
        found.append(loader_workers(cfg))
    assert found == [4, 4, 2, 1]
    cfg.DATALOADER.NUM_WORKERS = 0
    assert loader_workers(cfg) == 0


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 1.0),
        ({"cpu.max": "max 100000\n"}, 1.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ({"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.0),
    ],
)
def test_the_limit_of_a_container(tmp_path, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    bound = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == (bound if cores == 1.0 else 1)
