"""Hooks on two ranks: two test sets, an average, held shares and a teacher's check."""

import contextlib
import json

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.engine.hooks.balance import GradientBalance
from d2kd.engine.hooks.gradient_share import gradient_norms
from d2kd.losses.reduce import sum_over_ranks
from tests.engine.hooks.test_balance import measured
from tests.engine.hooks.test_exact_resume import Interruption, config, result, train
from tests.ranks import two_ranks

NORMS = [  # of gradients, on each rank
    [{"task": 1.0, "A": 0.5, "B": 2.0}, {"task": 1.0, "A": 0.5, "B": 2.0}],
    [{"task": 0.0, "A": 0.5, "B": 2.0}, {"task": 1.0, "A": 0.0, "B": 0.5}],
]


def on_rank(rank, folder):
    """A measurement, a whole run, then one that stops and goes on, in one process of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    with EventStorage(0):
        weights = measured(GradientBalance((0.25,), ("A", "B"), 9, folder), NORMS[rank])
        held = measured(GradientBalance((0.25,), ("A", "B"), 9, folder, band=0.5), NORMS[rank])
    torch.save((weights, held, norm_where_the_first_overflows(rank)), f"{folder}/{rank}.pth")
    whole, parts = get_d2kd_cfg(), get_d2kd_cfg()
    merge_config_file(whole, f"{folder}/whole.yaml", "")
    merge_config_file(parts, f"{folder}/parts.yaml", "")
    train(whole)
    with contextlib.suppress(Interruption):
        train(parts, stop_before=3)
    train(parts, resume=True)
    dist.destroy_process_group()


def norm_where_the_first_overflows(rank):
    """Each backward pass adds the ranks' gradients, as those of ALL_RANKS and of SyncBN do."""
    features = torch.ones(1, 4, 8, 8, dtype=torch.float16, requires_grad=True)
    loss = sum_over_ranks((features * 1e-3).float().sum() * (1, 1e-3)[rank])
    return gradient_norms({"term": loss}, [features])["term"]


def test_two_ranks(tmp_path, squares):
    """A rank without a gradient leaves the measurement to the other one.

    Ratios: A 0.5 twice; B 2, then the mean of 2 and 0.5, by their logarithms 1. In a band B goes
    from 6 to a tenth, and stays there: 0.36 of the sum is within half of 0.25. The first rank alone
    has the measures, of both test sets, and keeps them.
    """
    for name in ("whole", "parts"):
        cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, name, TEST__EVAL_PERIOD=2)
        first, json_file, images = cfg.DATASETS.CUSTOM[0]
        cfg.DATASETS.CUSTOM = [[first, json_file, images], ["more", json_file, images]]
        cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER = (first, "more"), 4
        cfg.SOLVER.EMA.DECAY, cfg.SOLVER.BEST_METRIC = 0.5, "more/bbox/AP"
        cfg.DISTILL.BALANCE.SHARES, cfg.DISTILL.BALANCE.STEPS = (0.2,), 2
        cfg.DISTILL.BALANCE.PERIOD, cfg.DISTILL.TEACHER.CHECK_IMAGES = 1, 100
        (tmp_path / f"{name}.yaml").write_text(cfg.dump())
    two_ranks(on_rank, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    (weights, held, norm), (*others, small) = ranks
    assert others == [weights, held]
    assert (norm, small) == (pytest.approx(0.032, rel=0.01), pytest.approx(3.2e-5, rel=0.01))
    assert weights == {"A": pytest.approx(1), "B": pytest.approx(0.5 / 2**0.5)}
    assert held == {"A": pytest.approx(1), "B": 0.6}
    for one, parts in zip(result(tmp_path / "whole"), result(tmp_path / "parts"), strict=True):
        assert_close(parts, one, rtol=0, atol=0, equal_nan=True)
    kept = json.loads((tmp_path / "parts" / "last_evaluation.json").read_text())
    assert kept["steps"] == 4 and {"AP", "AP50"} < set(kept["results"]["more"]["bbox"])
    rows = (tmp_path / "parts" / "metrics.json").read_text()
    assert rows.count("distill/teacher_advantage") == 2 and "more/bbox/AP50" in rows
