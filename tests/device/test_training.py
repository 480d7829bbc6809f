"""Whole trainings on a device that is not the CPU: what they end with is what the CPU's do."""

import pytest
import torch
from torch.testing import assert_close

from tests.device.simulated import missing, set_up, simulated
from tests.engine.hooks.test_exact_resume import CASES, Interruption, config, result, train
from tests.faults.conftest import FULL
from tests.ranks import in_process
from tests.teachers.test_ahead import waits

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
SOME = ("GFL, LD and StructuredKD", "Faster R-CNN, RoIKD")
EXTRAS = {
    "DISTILL__BALANCE__SHARES": (0.3,), "DISTILL__BALANCE__STEPS": 2, "DISTILL__BALANCE__PERIOD": 2,
    "DISTILL__PICTURES__PERIOD": 8, "DISTILL__PICTURES__IMAGES": 1, "DISTILL__GRADIENT_PERIOD": 3,
    "DISTILL__TEACHER__CHECK_IMAGES": 12, "SOLVER__EMA__DECAY": 0.5, "SOLVER__OPTIMIZER": "AdamW",
    "SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
    "SOLVER__BASE_LR": 1e-4, "SOLVER__GUARD__SPIKE": 1e6, "TEST__EVAL_PERIOD": 4,
    "DATALOADER__NUM_WORKERS": 1,
}  # fmt: skip


def run(case, folder, squares, keys):
    """On the CPU, on the device, and there with an interruption."""
    torch.set_num_threads(1)
    set_up()
    with torch.jit.optimized_execution(False):
        train(config(case, folder, squares, "cpu", **keys))
        keys = {**keys, "MODEL__DEVICE": "sim:0"}
        with simulated():
            train(config(case, folder, squares, "whole", **keys))
            cfg = config(case, folder, squares, "parts", **keys)
            try:
                train(cfg, 5)
            except Interruption:
                train(cfg, resume=True)


def run_ahead(folder, squares, keys):
    torch.set_num_threads(1)
    set_up()
    with torch.jit.optimized_execution(False), simulated():
        for name, more in (("own", {}), ("whole", keys)):
            keys = {"MODEL__DEVICE": "sim:0", **more}
            train(config("RetinaNet, PKD and BCKD", folder, squares, name, **keys))


def same(folder, names, rtol, atol):
    for a, b in list(zip(*(result(folder / name) for name in names), strict=True))[:3]:
        assert_close(b, a, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("case", SOME if not FULL else CASES)
def test_training(tmp_path, squares, case):
    in_process(run, case, tmp_path, squares, {})
    same(tmp_path, ("whole", "parts"), 0, 0)
    if case != "DDOD":  # its offsets start at 0, where the CPU's own operator has another gradient
        same(tmp_path, ("cpu", "whole"), 1e-4, 1e-6)


def test_with_everything(tmp_path, squares):
    in_process(run, "RetinaNet, PKD and BCKD", tmp_path, squares, EXTRAS)
    same(tmp_path, ("whole", "parts"), 0, 0)
    same(tmp_path, ("cpu", "whole"), 1e-3, 1e-5)


@pytest.mark.parametrize("ahead", [1, 4] if FULL else [1])
def test_a_teacher_on_a_second_stream(tmp_path, squares, ahead):
    """What it makes is waited for and recorded on the student's; the bits are the same."""
    keys = {"DISTILL__TEACHER__AHEAD": ahead}
    in_process(run_ahead, tmp_path, squares, keys)
    same(tmp_path, ("own", "whole"), 0, 0)
    assert waits(tmp_path / "whole") and not waits(tmp_path / "own")
