"""train_net.py as users start it: help, --import, two gloo ranks, torchrun, one-line errors."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers import detector, write_config

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(*args, launcher=(), **environment):
    """One launch, to its end."""
    return finish(begin(*args, launcher=launcher, **environment))


def finish(process):
    out, err = process.communicate(timeout=180)
    assert "Warning" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


TRAIN_NET = (str(ROOT / "train_net.py"),)


def begin(*args, launcher=(), program=TRAIN_NET, python=sys.executable, OMP_NUM_THREADS="1"):
    env = {
        **os.environ,
        "OMP_NUM_THREADS": OMP_NUM_THREADS,
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    env = {key: value for key, value in env.items() if value is not None}
    command = [
        python,
        *launcher,
        *program,
        *map(str, args),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT
    )


@pytest.fixture
def config(tmp_path, squares):
    register = tmp_path / "mine.py"
    register.write_text("import d2kd.testing\n")
    path = write_config(tmp_path, squares, SOLVER__MAX_ITER=3, SOLVER__CHECKPOINT_PERIOD=99)
    teacher = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=7)
    torch.save({"model": teacher.state_dict()}, tmp_path / "t.pth")
    distill = ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "RetinaNet",
               "DISTILL.HEADS", "('PKD', 'BCKD')", "DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)",
               "DISTILL.TEACHER.WEIGHTS", f"('{tmp_path}/t.pth',)"]  # fmt: skip
    return ["--config-file", path, "--import", register], distill


def check_two_ranks(done, folder):
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world size: 2" in (folder / "out" / "log.txt").read_text().lower()
    saved = torch.load(folder / "out" / "model_final.pth")
    assert saved["iteration"] == 2 and not any(k.startswith("module.") for k in saved["model"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
def test_two_ranks_of_torchrun(tmp_path, config):
    check_two_ranks(start(*config[0], *config[1], launcher=TORCHRUN), tmp_path)


@pytest.fixture
def two_cores():
    """This process and what it starts may use two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binds to cores")
def test_two_ranks_share_workers_and_threads(tmp_path, config, two_cores):
    """The import runs in every rank."""
    with open(tmp_path / "mine.py", "a") as file:
        file.write(
            "import multiprocessing, os, pathlib, torch\nfrom d2kd.cores import own_cores\n"
            f"file = pathlib.Path({str(tmp_path)!r}, 'rank' + str(os.getpid()))\n"
            "file.write_text(f'threads {torch.get_num_threads()} of {own_cores()}, '"
            "                f'workers by {multiprocessing.get_start_method()}')\n"
        )
    done = start(*config[0], "--num-gpus", "2", *config[1], "DATALOADER.NUM_WORKERS", 3,
                 OMP_NUM_THREADS=None)  # fmt: skip
    check_two_ranks(done, tmp_path)
    found = [x.read_text() for x in tmp_path.glob("rank*")]
    assert found == [f"threads 1 of 1, workers by {multiprocessing.get_start_method()}"] * 2
    assert "NUM_WORKERS is 3: data loaders use 1" in done.stdout
    assert "This DataLoader will create" not in done.stderr
    assert "NUM_WORKERS: 3" in (tmp_path / "out" / "config.yaml").read_text()


def test_errors_are_one_line_with_the_key(config, warm_python):
    done = start(*config[0], *config[1], "DISTILL.STUDENT", "RetinNet", python=warm_python)
    assert done.returncode == 1
    expected = "ConfigError: DISTILL.STUDENT: unknown 'RetinNet'. Did you mean 'RetinaNet'"
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
