"""train_net.py as users start it: help, --import, two gloo ranks, torchrun, one-line errors."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers import detector, write_config

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(*args, launcher=()):
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-W",
        "ignore",
        *launcher,
        str(ROOT / "train_net.py"),
        *map(str, args),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=180)


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


@pytest.mark.parametrize("how", ["launch", "torchrun"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
def test_two_ranks(tmp_path, config, how):
    extra = ["--num-gpus", "2"] if how == "launch" else []
    done = start(*config[0], *extra, *config[1], launcher=TORCHRUN if how == "torchrun" else ())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "World size: 2" in done.stdout or "world size: 2" in done.stdout.lower()
    saved = torch.load(tmp_path / "out" / "model_final.pth")
    assert saved["iteration"] == 2 and not any(k.startswith("module.") for k in saved["model"])


def test_errors_are_one_line_with_the_key(config):
    done = start(*config[0], *config[1], "DISTILL.STUDENT", "RetinNet")
    assert done.returncode == 1
    assert (
        "ValueError: DISTILL.STUDENT: unknown 'RetinNet'. Did you mean 'RetinaNet'" in done.stderr
    )
    assert "Traceback" not in done.stderr
