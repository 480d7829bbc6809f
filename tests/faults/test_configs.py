"""Mutated configs: each trains two iterations or fails with an error that names the key."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.keys import flatten
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.data import register_custom_datasets
from d2kd.errors import ConfigError
from tests.faults.conftest import FULL
from tests.helpers import detector, write_config

MUTATIONS = 300 if FULL else 30
# large values of the others only make a run slow, or empty the machine's memory
LEFT_ALONE = (
    "OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "MODEL.PANOPTIC_FPN", "MODEL.SEM_SEG_HEAD",
    "MODEL.KEYPOINT_ON", "DISTILL.COMPILE", "GLOBAL.HACK"
)  # fmt: skip
KEYS = [
    (key, value)
    for key, value in flatten(get_d2kd_cfg())
    if not key.startswith(LEFT_ALONE) and value is not None
]
DETECTORS = {"RetinaNet": "('PKD', 'BCKD')", "GFL": "('LD', 'PGD')",
             "GeneralizedRCNN": "('RoIKD', 'StructuredKD')"}  # fmt: skip


def other_values(value):
    """Values of the same type and of others, in and out of range."""
    if isinstance(value, bool):
        return st.sampled_from([str(not value), "maybe", "-1"])
    if isinstance(value, int):
        return st.sampled_from(["-7", "-1", "0", "1", "2", "5", "33", "1.5", "nonsense", "(1,)"])
    if isinstance(value, float):
        return st.sampled_from(["-1.0", "0.0", "1e-6", "0.5", "2.0", "1", "nonsense", "1e999"])
    if isinstance(value, str):
        return st.sampled_from(["nonsense", "../nowhere", "3", "('a',)", "BN", value + "x"])
    return st.sampled_from(["()", "(-1,)", "('x',)", "((1, 2), (3,))", "(0.5, 0.5)", "(None,)",
                            "(1e999,)", "7", "nonsense", str(tuple(value) * 2)])  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory, squares):
    """A distillation config by student."""
    configs = {}
    for meta, heads in DETECTORS.items():
        folder = tmp_path_factory.mktemp(meta)
        keys = {"SOLVER__MAX_ITER": 2, "MODEL__MASK_ON": False, "DATALOADER__NUM_WORKERS": 0}
        path = write_config(folder, squares, meta, **keys)
        classes = {"MODEL__RETINANET__NUM_CLASSES": 2, "MODEL__GFL__NUM_CLASSES": 2,
                   "MODEL__ROI_HEADS__NUM_CLASSES": 2}  # fmt: skip
        torch.save({"model": detector(meta, seed=7, **classes).state_dict()}, folder / "t.pth")
        configs[meta] = (path, ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", meta,
                                "DISTILL.HEADS", heads, "DISTILL.TEACHER.CONFIG_FILES",
                                f"('{path}',)", "DISTILL.TEACHER.WEIGHTS", f"('{folder}/t.pth',)",
                                "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"])  # fmt: skip
    return configs


def train(path, options):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "--config-file")
    merge_options(cfg, options)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == trainer.max_iter


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Mutated folders are made here."""
    monkeypatch.chdir(tmp_path)


@settings(max_examples=MUTATIONS, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(data=st.data(), meta=st.sampled_from(list(DETECTORS)))
def test_mutated_config(bases, data, meta):
    key, default = data.draw(st.sampled_from(KEYS))
    value = data.draw(other_values(default))
    path, options = bases[meta]
    try:
        train(path, [*options, key, value])
    except (ConfigError, FloatingPointError) as error:
        assert key in str(error), (key, value, str(error))
        assert "\n" not in str(error)


def test_the_unchanged_configs_train(bases):
    for path, options in bases.values():
        train(path, options)


def test_a_misspelt_key_gets_the_right_one(bases):
    path, options = bases["RetinaNet"]
    for wrong, right in {"SOLVER.BASE_RL": "SOLVER.BASE_LR", "DISTILL.PDK.WEIGHT": "PKD.WEIGHT",
                         "MODEL.NUM_CLASSES": "MODEL.RETINANET.NUM_CLASSES"}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"{wrong} is no config key. Did you mean .*{right}"):
            train(path, [*options, wrong, "1"])
    with pytest.raises(ConfigError, match="pairs KEY VALUE"):
        train(path, [*options, "SOLVER.BASE_LR"])
    with pytest.raises(ConfigError, match="SOLVER.BASE_LR: .*decimal point"):
        train(path, [*options, "SOLVER.BASE_LR", "1"])


def test_keys_that_contradict_each_other(bases):
    path, options = bases["RetinaNet"]
    cases = {
        "SOLVER.BEST_METRIC": (["SOLVER.BEST_METRIC", "bbox/AP"], "TEST.EVAL_PERIOD"),
        "SOLVER.GUARD.SPIKE": (
            ["SOLVER.GUARD.SPIKE", "5.0", "SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED"
        ),
        "INPUT.MIN_SIZE_TRAIN": (
            ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(64,)"], "2 entries"
        ),
        "MODEL.PIXEL_STD": (["MODEL.PIXEL_STD", "[1.0]"], "3 entries"),
        "OUTPUT_DIR": (["OUTPUT_DIR", "/dev/null/here"], "no folder"),
        "MODEL.DEVICE": (["MODEL.DEVICE", "gpu"], "cuda:0"),
    }  # fmt: skip
    for key, (more, text) in cases.items():
        with pytest.raises(ConfigError, match=f"{key}.*{text}"):
            train(path, [*options, *more])
