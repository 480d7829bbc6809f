"""Mutated configs: each trains two iterations or fails with an error that names the key."""

import os
import random

import pytest

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.errors import ConfigError
from tests.faults import mutations
from tests.faults.conftest import FULL
from tests.faults.mutations import fault, mutation, train
from tests.helpers import d2kd

MUTATIONS = 300 if FULL else 30
# in full a new one each time; the one that is printed repeats a run
SEED = int(os.environ.get("D2KD_FAULTS_SEED") or (random.randrange(10**6) if FULL else 0))


@pytest.fixture(scope="module")
def bases(tmp_path_factory, squares):
    """A distillation config of each family."""
    return mutations.bases(tmp_path_factory.mktemp("bases"), squares)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Mutated folders are made here."""
    monkeypatch.chdir(tmp_path)


def test_mutated_configs(bases, capsys):
    with capsys.disabled():
        print(f" {MUTATIONS} mutated configs, D2KD_FAULTS_SEED={SEED} ", end="")
    faults = []
    for index in range(MUTATIONS):
        name, options = mutation(SEED, index)
        if text := fault(bases[name], options):
            faults.append(f"mutation {index} of {name}, {' '.join(options)}: {text}")
    assert not faults, f"D2KD_FAULTS_SEED={SEED}:\n" + "\n".join(faults)


def test_the_unchanged_configs_train(bases):
    for base in bases.values():
        train(base, [])


def test_a_misspelt_key_gets_the_right_one(bases):
    base = bases["RetinaNet"]
    for wrong, right in {"SOLVER.BASE_RL": "SOLVER.BASE_LR", "DISTILL.PDK.WEIGHT": "PKD.WEIGHT",
                         "MODEL.NUM_CLASSES": "MODEL.RETINANET.NUM_CLASSES"}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"{wrong} is no config key. Did you mean .*{right}"):
            train(base, [wrong, "1"])
    with pytest.raises(ConfigError, match="pairs KEY VALUE"):
        train(base, ["SOLVER.BASE_LR"])
    with pytest.raises(ConfigError, match="SOLVER.BASE_LR: .*decimal point"):
        train(base, ["SOLVER.BASE_LR", "1"])
    with pytest.raises(ConfigError, match=r"64 is of another type than \(\d+,\), .*: write it"):
        train(base, ["INPUT.MIN_SIZE_TRAIN", "64"])


def test_keys_that_contradict_each_other(bases):
    base = bases["RetinaNet"]
    cases = {
        "SOLVER.BEST_METRIC": (["SOLVER.BEST_METRIC", "bbox/AP"], "TEST.EVAL_PERIOD"),
        "SOLVER.EMA.DECAY": (
            ["SOLVER.EMA.DECAY", "0.9", "TEST.PRECISE_BN.ENABLED", "True"], "TEST.PRECISE_BN"
        ),
        "SOLVER.GUARD.SPIKE": (
            ["SOLVER.GUARD.SPIKE", "5.0", "SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED"
        ),
        "INPUT.MIN_SIZE_TRAIN": (
            ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(64,)"], "2 entries"
        ),
        "MODEL.PIXEL_STD": (["MODEL.PIXEL_STD", "[1.0]"], "3 entries"),
        "OUTPUT_DIR": (["OUTPUT_DIR", "/dev/null/here"], "is a file: name a folder"),
        "MODEL.DEVICE": (["MODEL.DEVICE", "gpu"], "cuda:0"),
    }  # fmt: skip
    for key, (more, text) in cases.items():
        with pytest.raises(ConfigError, match=f"{key}.*{text}"):
            train(base, more)


def test_keys_without_a_value(bases, tmp_path):
    """None on the command line, null and nothing in yaml; each is merged into any key."""
    for key in ("INPUT.MASK_FORMAT", "MODEL.DEVICE", "DATASETS.CUSTOM", "SOLVER.IMS_PER_BATCH",
                "MODEL.RPN.IOU_LABELS", "DISTILL.PKD.WEIGHT", "OUTPUT_DIR"):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{key} is None, or empty in yaml"):
            train(bases["RetinaNet"], [key, "None"])
    path = tmp_path / "empty.yaml"
    path.write_text("INPUT:\n  FORMAT:\n")
    with pytest.raises(ConfigError, match=r"empty.yaml: INPUT.FORMAT is None, or empty in yaml"):
        merge_config_file(get_d2kd_cfg(), str(path), "--config-file")
    train(bases["RetinaNet"], ["SOLVER.WEIGHT_DECAY_BIAS", "None"])


def test_what_a_method_lacks_names_the_keys_that_it_depends_on(bases):
    with pytest.raises(ConfigError, match="RoIKD needs roi.*MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOX"):
        train(bases["GeneralizedRCNN"], ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", "True"])


def test_numbers_beyond_any_use(bases):
    for key, value in {"SOLVER.IMS_PER_BATCH": 2**40, "SEED": 2**40, "SOLVER.BASE_LR": "1e300",
                       "MODEL.RETINANET.NUM_CONVS": 10**6, "DATALOADER.NUM_WORKERS": 10**6,
                       "MODEL.FPN.OUT_CHANNELS": 10**9, "DISTILL.PKD.WEIGHT": "-1e30",
                       "DISTILL.CWD.TEMPERATURE": "1e-300",
                       "MODEL.ANCHOR_GENERATOR.SIZES": "(1e300,)"}.items():  # fmt: skip
        with pytest.raises(
            ConfigError, match=rf"^{key} is .*: (no number that large|it must be|give 0, or)"
        ):
            train(bases["RetinaNet"], [key, str(value)])


def test_errors_of_construction_name_the_one_key(bases):
    cases = {
        "MODEL.RPN.IN_FEATURES": ("timm", ["MODEL.FPN.TOP_BLOCK", "none"], "gives p2, p3, p4, p5"),
        "MODEL.ROI_HEADS.IN_FEATURES": ("GeneralizedRCNN", ["('p9',)"], "names 'p9'"),
        "MODEL.RETINANET.IN_FEATURES": ("RetinaNet", ["('p3', 'p12')"], "names 'p12'"),
        "MODEL.FPN.IN_FEATURES": ("timm", ["()"], "is empty"),
        "MODEL.ANCHOR_GENERATOR.SIZES": ("RetinaNet", ["(0.5, 0.5)"], "4 anchors a cell"),
    }
    for key, (name, more, text) in cases.items():
        options = more if len(more) == 2 else [key, *more]
        with pytest.raises(ConfigError, match=key) as error:
            train(bases[name], options)
        assert text in str(error.value) and str(error.value).count("MODEL.") <= 4
    with pytest.raises(ConfigError, match="above all MODEL.RESNETS.OUT_FEATURES;"):
        train(bases["RetinaNet"], ["MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"])


def test_the_config_of_a_teacher_is_named(bases, tmp_path):
    base = bases["GeneralizedRCNN"]
    path = tmp_path / "teacher.yaml"
    path.write_text(f"_BASE_: {base.path}\nMODEL:\n  RPN:\n    IN_FEATURES: [p2, p8]\n")
    with pytest.raises(ConfigError, match=r"CONFIG_FILES\[0\]: MODEL.RPN.IN_FEATURES names 'p8'"):
        train(base, ["DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)"])
    done = d2kd("eval", path, "--weights", "none.pth", "OUTPUT_DIR", tmp_path / "out")
    assert "MODEL.RPN.IN_FEATURES names 'p8'" in str(done.exception)
