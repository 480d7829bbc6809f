"""The distillation of one pair for every method, from its plan to a step on real images."""

import math
import os
from importlib import import_module
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import get_event_storage

from d2kd.data import register_custom_datasets
from d2kd.engine.command_line import argument_parser, config_of
from d2kd.engine.main import main
from d2kd.engine.trainer import DistillationTrainer
from d2kd.heads import DISTILLATION_HEAD_REGISTRY
from d2kd.reproduce import load_pairs, new_dry_run, plan_of
from d2kd.reproduce.costs import step_seconds
from d2kd.reproduce.pairs import WEIGHTS
from d2kd.reproduce.stand_in import lacks_library, write_stand_in
from tests.faults.conftest import FULL

COCO = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco")
TEACHERS = import_module("d2kd.teachers.from_config")
METHODS = {name for name, _ in DISTILLATION_HEAD_REGISTRY}


def size(pair):
    """Pairs of many methods first, then those with small trunks; none at a size of its own."""
    cfg = pair.cfg.DISTILL
    return cfg.TEACHER.SIZE == "own", -len(cfg.HEADS), sum(step_seconds(pair.name, pair))


def one_of_each():
    chosen, seen = {}, set()
    for pair in sorted(load_pairs().values(), key=size):
        if not seen.issuperset(pair.cfg.DISTILL.HEADS):
            chosen[pair.name] = pair
            seen.update(pair.cfg.DISTILL.HEADS)
    return chosen


CHOSEN = one_of_each()


def test_every_method_is_there():
    assert METHODS == {name for pair in CHOSEN.values() for name in pair.cfg.DISTILL.HEADS}


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A folder, and KEY VALUE pairs of a dry run in it, whose data sets are forgotten later."""
    if not COCO.is_dir():
        pytest.skip("needs coco/ in DETECTRON2_DATASETS")
    before = set(DatasetCatalog)
    with new_dry_run(tmp_path_factory.mktemp("dry")) as run:
        yield run
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("name", load_pairs() if FULL else CHOSEN)
def test_a_step(name, dry, monkeypatch):
    folder, given = dry
    pair = load_pairs()[name]
    if library := lacks_library(pair):
        pytest.skip(f"needs {library}")
    if FULL or pair.needs_tokens:
        teacher = write_stand_in(pair, folder / "teachers")
    else:  # the weights that it is built with are random as well
        teacher = [WEIGHTS, "('none.pth',)"]
        monkeypatch.setattr(TEACHERS, "load_detector", lambda *args: None)
    images = "2" if "DetKDS" in pair.cfg.DISTILL.HEADS else "1"
    short = ["SOLVER.IMS_PER_BATCH", images, "SOLVER.MAX_ITER", "1"]
    study = plan_of(pair, folder, options=[*given, *short, *teacher])
    for row in (x for x in study.rows if x.startswith("tokens_")):
        main(argument_parser().parse_args(["--config-file", *study.rows[row][0].command[2:]]))
    cfg = config_of(study.trained[name])
    cfg.OUTPUT_DIR = str(folder / name)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.iter = trainer.start_iter
    trainer.run_step()
    found = {key: value for key, (value, _) in get_event_storage().latest().items()}
    assert all(math.isfinite(value) for value in found.values())
    for head in pair.cfg.DISTILL.HEADS:
        assert any(key.startswith(f"loss_{head}") for key in found), found
    trained = [x for x in trainer.model.parameters() if x.requires_grad]
    assert all(x.grad is not None for x in trained)
