"""Two machines: `d2kd train`, each with a disk of its own, and train_net.py by torchrun."""

import contextlib
import random
import socket

import pytest
import torch

from tests.engine.test_launch import begin, config, finish  # noqa: F401
from tests.warm import NAME

D2KD = "-m", "d2kd", "train"


def free_port():
    """Below those that the system gives to others while the test runs."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port


@pytest.mark.parametrize("how", ["launch", "torchrun"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="two gloo ranks are for machines without GPU")
def test_two_machines(tmp_path, config, how, warm_python, monkeypatch):  # noqa: F811
    """Two node ranks, of one process each, that meet over loopback."""
    monkeypatch.setenv(NAME, warm_python)  # of what torchrun starts
    port, nodes = free_port(), []
    for rank in (0, 1):
        machine = ["--num-machines", 2, "--machine-rank", rank, "--num-gpus", 1,
                   "--dist-url", f"tcp://127.0.0.1:{port}"]  # fmt: skip
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                    "--node_rank", str(rank), "--master_addr", "127.0.0.1",
                    "--master_port", str(port)]  # fmt: skip
        own = ["OUTPUT_DIR", tmp_path / f"disk_{rank}"]
        nodes.append(
            begin(*config[0][1:], *machine, *config[1], *own, program=D2KD, python=warm_python)
            if how == "launch" else
            begin(*config[0], *config[1], launcher=torchrun, python=warm_python)
        )  # fmt: skip
    done = [finish(node) for node in nodes]
    assert all(x.returncode == 0 for x in done), [x.stderr[-2000:] for x in done]
    folder = tmp_path / ("disk_0" if how == "launch" else "out")
    assert torch.load(folder / "model_final.pth")["iteration"] == 2
    if how == "launch":
        told = ["3 steps, AP " in x.stdout for x in done]
        assert told == [True, False] and not [*(tmp_path / "disk_1").glob("*.pth")]
