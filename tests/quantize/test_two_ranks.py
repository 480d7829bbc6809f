"""Two ranks of a quantized training have the same ranges."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from d2kd.quantize import Ranges, quantize_student, set_rounding, share_ranges
from d2kd.testing import make_batch
from tests.helpers import detector
from tests.quantize.conftest import config
from tests.ranks import two_ranks


def on_rank(rank, folder):
    """A batch of its own, and what is shared behind it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    model = detector("FCOS")
    quantize_student(model, config("last convolutions"))
    set_rounding(model, True)
    with EventStorage(0):
        model.train()(make_batch(seed=rank))
    own = Ranges(model).state_dict()
    share_ranges(model)
    torch.save((own, Ranges(model).state_dict()), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_ranks_share_the_mean_of_their_ranges(tmp_path):
    two_ranks(on_rank, tmp_path)
    (one, shared), (two, other) = (torch.load(tmp_path / f"{i}.pth") for i in (0, 1))
    assert any(not torch.equal(x, two[name]) for name, x in one.items())
    for name, x in shared.items():
        assert torch.equal(x, other[name])
        torch.testing.assert_close(x, (one[name] + two[name]) / 2)
