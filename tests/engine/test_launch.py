"""train_net.py as users start it: help, --import, two gloo ranks, torchrun, one-line errors."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers import detector, write_config

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(*args, launcher=()):
    """One launch, to its end."""
    return finish(begin(*args, launcher=launcher))


def finish(process):
    out, err = process.communicate(timeout=180)
    assert "Warning" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def begin(*args, launcher=()):
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        *launcher,
        str(ROOT / "train_net.py"),
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


@pytest.mark.parametrize("how", ["launch", "torchrun"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
def test_two_ranks(tmp_path, config, how):
    extra = ["--num-gpus", "2"] if how == "launch" else []
    done = start(*config[0], *extra, *config[1], launcher=TORCHRUN if how == "torchrun" else ())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world size: 2" in (tmp_path / "out" / "log.txt").read_text().lower()
    saved = torch.load(tmp_path / "out" / "model_final.pth")
    assert saved["iteration"] == 2 and not any(k.startswith("module.") for k in saved["model"])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("how", ["launch", "torchrun"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
def test_two_machines(tmp_path, config, how):
    """Two node ranks, of one process each, that meet over loopback."""
    port, nodes = free_port(), []
    for rank in (0, 1):
        machine = ["--num-machines", 2, "--machine-rank", rank, "--num-gpus", 1,
                   "--dist-url", f"tcp://127.0.0.1:{port}"]  # fmt: skip
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                    "--node_rank", str(rank), "--master_addr", "127.0.0.1",
                    "--master_port", str(port)]  # fmt: skip
        options = (machine, []) if how == "launch" else ([], torchrun)
        nodes.append(begin(*config[0], *options[0], *config[1], launcher=options[1]))
    done = [finish(node) for node in nodes]
    assert all(x.returncode == 0 for x in done), [x.stderr[-2000:] for x in done]
    assert torch.load(tmp_path / "out" / "model_final.pth")["iteration"] == 2


def test_errors_are_one_line_with_the_key(config):
    done = start(*config[0], *config[1], "DISTILL.STUDENT", "RetinNet")
    assert done.returncode == 1
    expected = "ConfigError: DISTILL.STUDENT: unknown 'RetinNet'. Did you mean 'RetinaNet'"
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
