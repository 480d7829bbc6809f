"""Two gloo ranks: parameters stay equal, distillation terms equal those of one process."""

import os

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2kd.detectors.loss_normalizer import averages_to_save
from d2kd.losses import mean_over_ranks
from d2kd.testing import make_batch
from tests.helpers import detector, pair
from tests.ranks import two_ranks

SIZES = ((96, 128), (96, 128), (96, 128), (96, 128))


def whole_batch():
    """Images with 4, 4, 0 and 9 boxes."""
    return [
        *make_batch(SIZES[:2], boxes=4, seed=0),
        *make_batch(SIZES[:1], boxes=0, seed=1),
        *make_batch(SIZES[:1], boxes=9, seed=2),
    ]


def distillation(losses, heads):
    return {k: v for k, v in losses.items() if k.split("_")[1] in heads}


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def terms_and_gradients(meta, batch, ddp):
    heads = ("PKD", "BCKD", "CrossKD", "PGD") + (("LD", "Parallel") if meta == "GFL" else ())
    options = {"CrossKD": {"BLOCK": 1}, "LD": {"CLS_WEIGHT": 1.0}}
    keys = {"MODEL__GFL__QUALITY": "SDGQP", "MODEL__AUTOASSIGN__HARD_LABELS": True}
    _, model = pair(meta, heads, 8, options, **keys)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ddp else model
    losses = wrapped(batch)
    zero = sum(losses.values()) * 0  # the supervised losses keep every parameter in the graph
    terms = distillation(losses, heads)
    (sum(terms.values()) + zero).backward()
    terms = {k: mean_over_ranks(v.detach()) for k, v in terms.items()}
    return terms, gradients(model)


def compare_with_one_process(rank, folder, meta):
    terms, grads = terms_and_gradients(meta, whole_batch()[2 * rank : 2 * rank + 2], ddp=True)
    expected_terms, expected_grads = torch.load(f"{folder}/expected.pth")
    for name, value in expected_terms.items():
        assert_close(terms[name], value, atol=1e-5, rtol=1e-5)
    assert set(grads) == set(expected_grads)
    for name, value in expected_grads.items():
        assert_close(grads[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def supervised_and_gradients(meta, batch, ddp):
    model = detector(meta, MODEL__GFL__QUALITY="DGQP").train()
    torch.nn.init.constant_(model.head.cls_score.bias, 0)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ddp else model
    losses = wrapped(batch)
    sum(losses.values()).backward()
    means = {k: mean_over_ranks(v.detach()) for k, v in losses.items()}
    return means, gradients(model), averages_to_save(model)


def compare_supervised(rank, folder, meta):
    mine = supervised_and_gradients(meta, whole_batch()[2 * rank : 2 * rank + 2], ddp=True)
    for values, expected in zip(mine, torch.load(f"{folder}/expected.pth"), strict=True):
        assert_close(values, expected, atol=1e-5, rtol=1e-5)


def train_three_steps(rank, folder, meta):
    heads = {"RetinaNet": ("PKD", "BCKD"), "GeneralizedRCNN": ("PKD", "RoIKD", "MaskKD")}
    _, model = pair(meta, heads[meta])
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
    start = [p.detach().clone() for p in model.parameters()]
    for step in range(3):
        optimizer.zero_grad()
        sum(wrapped(make_batch(seed=10 * step + rank)).values()).backward()
        optimizer.step()
    moved = sum((a - b).abs().sum() for a, b in zip(start, model.parameters(), strict=True))
    assert moved > 0
    for name, parameter in model.named_parameters():
        mine, mean = parameter.detach(), mean_over_ranks(parameter.detach())
        assert_close(mine, mean, atol=1e-7, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def worker(rank, function, folder, meta):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    with EventStorage(0):
        function(rank, folder, meta)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "meta", ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints"]
)
def test_two_ranks_give_the_terms_and_gradients_of_one_process(tmp_path, meta):
    expected = terms_and_gradients(meta, whole_batch(), ddp=False)
    assert all(v.item() > 0 for v in expected[0].values())
    assert len(expected[0]) == {"GFL": 13, "ATSS": 8, "DDOD": 8}.get(meta, 7)
    torch.save(expected, tmp_path / "expected.pth")
    two_ranks(worker, compare_with_one_process, str(tmp_path), meta)


@pytest.mark.parametrize("meta", ["ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints"])
def test_two_ranks_give_the_supervised_losses_of_one_process(tmp_path, meta):
    torch.save(supervised_and_gradients(meta, whole_batch(), ddp=False), tmp_path / "expected.pth")
    two_ranks(worker, compare_supervised, str(tmp_path), meta)


@pytest.mark.parametrize("meta", ["RetinaNet", "GeneralizedRCNN"])
def test_parameters_stay_equal(tmp_path, meta):
    two_ranks(worker, train_three_steps, str(tmp_path), meta)
