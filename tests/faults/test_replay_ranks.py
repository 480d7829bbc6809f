"""A fault on one of two ranks: both leave a capsule, and together they repeat the step."""

import logging
import os

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from d2kd.engine.capsule import read_capsule
from d2kd.inspection.replay.ranks import folders_of_ranks
from tests.faults.broken_steps import NAN, spoilt_config, stop
from tests.ranks import run_d2kd, two_ranks


def train(rank, cfg, store):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    dist.init_process_group("gloo", init_method=f"file://{store}", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    error, folder = stop(cfg, "input", NAN if rank else 0.0, 2)
    assert isinstance(error, FloatingPointError), error
    assert all(os.path.isdir(x) for x in (folder, f"{folder}_rank1"))  # before this rank ends
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="ranks repeat a step on the CPU")
def test_both_ranks_repeat_a_fault_of_one(tmp_path, squares):
    cfg = spoilt_config(tmp_path, squares, "input", "RetinaNet, PKD and BCKD", "")
    two_ranks(train, cfg, str(tmp_path / "store"))
    folder, mine, said = tmp_path / "out" / "replay", tmp_path / "mine.py", tmp_path / "said.txt"
    first, second = (read_capsule(folder / x) for x in ("2", "2_rank1"))
    assert first.record["reason"]["text"] != second.record["reason"]["text"]
    mine.write_text("import d2kd.testing")
    code = run_d2kd("replay", second.folder, "--import", mine, output=said)
    one, two = said.read_text().split("Rank 0:")[1].split("Rank 1:")
    assert code == 0 and "Missing" not in one + two
    assert "as it did, bit by bit" in one and "all modules are finite" in one
    assert "as it did, bit by bit" in two and "Image 1 of the batch" in two
    assert folders_of_ranks(second) == [first.folder, second.folder]
    os.utime(first.folder / "capsule.json", (0, 0))
    assert folders_of_ranks(second) == []  # of an earlier run, that stopped there too
    (first.folder / "capsule.json").unlink()
    assert folders_of_ranks(second) == []  # the other alone, which says that one is missing
