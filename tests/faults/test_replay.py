"""Every fault leaves a capsule, and its step fails again as it did, bit by bit."""

import logging

import pytest

from tests.faults.broken_steps import faults, set_traps, spoilt_config, stop
from tests.faults.conftest import FULL
from tests.helpers import d2kd

FAULTS = faults()
SHORT = ["input 0", "weights 2", "teacher 1", "loss 3", "gradient 4", "exception 0", "exception 7",
         "spike 2", "label 3", "label 5"]  # fmt: skip
CHOSEN = [name for name in FAULTS if FULL or any(name.startswith(f"{x},") for x in SHORT)]
NAMED = {"teacher": "teacher 0.backbone", "loss": "is loss_Trap_feat", "gradient": "is heads.Trap",
         "exception": "in heads.Trap (Trap)", "spike": "is loss_Trap_feat",
         "label": "has an object of class", "input": "Image 3 of the batch",
         "weights": "is not finite"}  # fmt: skip
SIZES = []


def test_there_are_a_hundred():
    assert len(FAULTS) == 100


@pytest.mark.parametrize("name", CHOSEN)
def test_a_fault(tmp_path, squares, monkeypatch, name):
    kind, case, detail, at = FAULTS[name]
    set_traps(monkeypatch)
    cfg = spoilt_config(tmp_path, squares, kind, case, detail)
    error, folder = stop(cfg, kind, detail, at)
    assert error is not None and (folder / "capsule.json").is_file(), error
    logging.disable(logging.INFO)
    done = d2kd("replay", folder)
    logging.disable(logging.NOTSET)
    assert done.exit_code == 0 and "as it did, bit by bit" in done.output, done.output
    assert "Missing" not in done.output and NAMED[kind] in done.output, done.output
    SIZES.append(sum(x.stat().st_size for x in folder.iterdir()))
    assert SIZES[-1] < 2e6
