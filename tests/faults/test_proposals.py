"""Files of proposals are pickles, which Detectron2 runs: a config that asks for one is refused."""

import os
import pickle

import pytest
import torch
from detectron2.data.build import load_proposals_into_dataset

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.validate import check_config
from tests.conftest import ROOT
from tests.faults.broken import Call
from tests.helpers import d2kd, detector, write_config


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, squares):
    """A config, the mark that its proposals would leave, and weights to evaluate."""
    folder = tmp_path_factory.mktemp("proposals")
    mark, proposals = folder / "ran", folder / "proposals.pkl"
    proposals.write_bytes(pickle.dumps(Call(os.system, f"touch {mark}")))
    keys = {f"DATASETS__PROPOSAL_FILES_{kind}": (str(proposals),) for kind in ("TRAIN", "TEST")}
    keys.update(SOLVER__MAX_ITER=1, MODEL__LOAD_PROPOSALS=True)
    weights = folder / "weights.pth"
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()}, weights)
    return write_config(folder, squares, **keys), mark, weights


@pytest.mark.parametrize("command", ["train", "check", "eval"])
def test_a_yaml_alone_runs_no_code(hostile, command):
    config, mark, weights = hostile
    done = d2kd(command, config, *(["--weights", weights] if command == "eval" else []))
    assert not mark.exists()
    assert done.exit_code == 1 and "MODEL.LOAD_PROPOSALS is True: " in done.output


def test_train_net_checks_the_same(hostile):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(hostile[0]), "--config-file")
    with pytest.raises(ValueError, match="MODEL.LOAD_PROPOSALS is True: .*Set it to False"):
        check_config(cfg)
    assert "engine.main import main" in (ROOT / "train_net.py").read_text()


def test_stock_code_runs_them(hostile):
    """So the tests above can fail."""
    config, mark, _ = hostile
    with pytest.raises(TypeError):
        load_proposals_into_dataset([], str(config.parent / "proposals.pkl"))
    assert mark.exists()
