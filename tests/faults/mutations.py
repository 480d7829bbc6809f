"""Mutated configs of tiny runs, the same again for the same seed."""

import random
from typing import List, NamedTuple, Tuple

import torch

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.keys import flatten
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.data import register_custom_datasets
from d2kd.errors import ConfigError
from tests.helpers import detector, write_config

# numbers of steps, places, and what takes too long here
LEFT_ALONE = ("OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "DISTILL.COMPILE", "SOLVER.MAX_ITER")
KEYS = [(k, v) for k, v in flatten(get_d2kd_cfg()).items() if not k.startswith(LEFT_ALONE)]
DETECTORS = {"RetinaNet": "('PKD', 'BCKD')", "FCOS": "('CWD', 'CrossKD')", "GFL": "('LD', 'PGD')",
             "GeneralizedRCNN": "('RoIKD', 'StructuredKD')"}  # fmt: skip
TIMM = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "test_resnet",
        "MODEL.FPN.IN_FEATURES", "['c2', 'c3', 'c4', 'c5']",
        "MODEL.FPN.TOP_BLOCK", "maxpool", "MODEL.TIMM.PRETRAINED", "False"]  # fmt: skip
ANY = ["None", "nonsense", "-7", "0", "1", "2.5", "()", "('x',)", "{}", "True"]
OF_TYPE = {
    bool: ["True", "False", "maybe", "-1", "2"],
    int: ["-1", "0", "1", "2", "5", "33", "1.5", "(1,)", "1000000", str(2**40),
          str(-(2**63)), "None"],
    float: ["-1.0", "0.0", "1e-6", "0.5", "2.0", "1", "1e999", "1e300", "1e-300", "-1e30",
            "None"],
    str: ["nonsense", "../nowhere", "3", "('a',)", "BN", "None", "''", "a b\tc", "x" * 3000],
    tuple: ["()", "(-1,)", "('x',)", "((1, 2), (3,))", "(0.5, 0.5)", "(None,)", "(1e999,)", "7",
            "nonsense", "((),)", "(0,)", "('p2', 'p9')", "([0.5], 0.5)", f"({2**40},)", "None"],
}  # fmt: skip


class Base(NamedTuple):
    """A config that trains two iterations, and the options that make it distil."""

    path: str
    options: List[str]


def bases(folder, data):
    """A distillation of each family by name, one of them on a timm trunk."""
    found = {}
    for name in (*DETECTORS, "timm"):
        meta = name if name in DETECTORS else "GeneralizedRCNN"
        (folder / name).mkdir()
        keys = {"SOLVER__MAX_ITER": 2, "MODEL__MASK_ON": False}
        path = write_config(folder / name, data, meta, **keys)
        sections = ("RETINANET", "FCOS", "GFL", "ROI_HEADS")
        classes = {f"MODEL__{section}__NUM_CLASSES": 2 for section in sections}
        weights = folder / name / "t.pth"
        torch.save({"model": detector(meta, seed=7, **classes).state_dict()}, weights)
        heads = DETECTORS[meta] if name in DETECTORS else "('RoIKD',)"
        more = [] if name in DETECTORS else TIMM
        found[name] = Base(str(path), [
            "MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", meta, "DISTILL.HEADS", heads,
            "DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)", "DISTILL.TEACHER.WEIGHTS",
            f"('{weights}',)", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()", *more,
        ])  # fmt: skip
    return found


def mutation(seed: int, index: int) -> Tuple[str, List[str]]:
    """The base and the keys and values of mutation `index`: one key in two of three, or up to 4."""
    rng = random.Random(f"{seed}/{index}")
    base = rng.choice([*DETECTORS, "timm"])
    pairs = {}
    for _ in range(rng.choice([1, 1, 1, 1, 2, 4])):
        key, default = rng.choice(KEYS)
        kind = tuple if isinstance(default, list) else type(default)
        pairs[key] = rng.choice(OF_TYPE.get(kind, ANY) if rng.random() < 0.8 else ANY)
    return base, [text for pair in pairs.items() for text in pair]


def train(base: Base, options: List[str]) -> None:
    """Train the two iterations."""
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, base.path, "--config-file")
    merge_options(cfg, [*base.options, *options])
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == trainer.max_iter


def fault(base: Base, options: List[str]) -> str:
    """What is wrong with how a mutated run ends; "" where it trains or names a mutated key."""
    try:
        train(base, options)
    except (ConfigError, FloatingPointError) as error:
        text = str(error)
        named = [key for key in options[::2] if key in text]
        if "\n" in text:
            return f"several lines: {text}"
        return "" if named else f"no key: {type(error).__name__}: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return ""
