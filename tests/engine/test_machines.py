"""train_net.py on two machines."""

import contextlib
import random
import socket

import pytest
import torch

from tests.engine.test_launch import begin, config, finish  # noqa: F401
from tests.warm import NAME


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
        options = (machine, []) if how == "launch" else ([], torchrun)
        nodes.append(
            begin(*config[0], *options[0], *config[1], launcher=options[1], python=warm_python)
        )
    done = [finish(node) for node in nodes]
    assert all(x.returncode == 0 for x in done), [x.stderr[-2000:] for x in done]
    assert torch.load(tmp_path / "out" / "model_final.pth")["iteration"] == 2
