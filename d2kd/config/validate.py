"""Checks of a whole config, before anything is built or read."""

from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.weights_file import split_pin
from ..errors import ConfigError, check_choice
from ..file_io import check_output, expect
from .defaults import get_d2kd_cfg
from .keys import flatten, refuse_none
from .norms import check_group_norms
from .rules import CHOICES, REGISTRIES, is_number, rules_of

MAX_INT = 2**32 - 1  # also of a seed
MAX_FLOAT = 1e15
MIN_FLOAT = 1e-30  # but for 0; smaller ones are 0 in float32


def check_config(cfg: CfgNode) -> None:
    """Check the values of all keys, and those that depend on each other.

    Raises:
        ConfigError: names the key, the value, and what it must be.
    """
    refuse_none(cfg, get_d2kd_cfg())
    values = flatten(cfg)
    _refuse_ignored(values)
    for key, value in values.items():
        check_value(key, value)
    for key, known in CHOICES.items():
        _check_known(values[key], known, key)
    for key, registry in REGISTRIES.items():
        if values[key]:
            check_choice(values[key], [name for name, _ in registry], key)
    _check_lengths(values)
    _check_solver(values)
    check_group_norms(values)
    for key in ("MODEL.DEVICE", "DISTILL.TEACHER.DEVICE"):
        _check_device(values[key], key)
    check_output(values["OUTPUT_DIR"], "OUTPUT_DIR")
    for key in ("MODEL.WEIGHTS", "DISTILL.TEACHER.WEIGHTS"):
        for path in [values[key]] if isinstance(values[key], str) else values[key]:
            expect(split_pin(str(path))[0], key, "weights", "program")


def check_value(key: str, value: Any) -> None:
    """Check the numbers in a value, and the rules of its key.

    Raises:
        ConfigError: names the key, the value, and what it must be.
    """
    for number in _numbers(value):
        if not is_number(number):
            raise ConfigError(f"{key} is {value}: give a finite number.")
        if abs(number) > (MAX_INT if isinstance(number, int) else MAX_FLOAT):
            raise ConfigError(f"{key} is {value}: no number that large makes sense.")
        if 0 < abs(number) < MIN_FLOAT:
            raise ConfigError(f"{key} is {value}: give 0, or at least {MIN_FLOAT}.")
    for holds, asked in rules_of(key):
        if not holds(value):
            raise ConfigError(f"{key} is {value!r}: it must be {asked}.")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value or in nested lists of values."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif type(value) in (int, float):
        yield value


def _check_known(value: Any, known: Tuple[Any, ...], key: str) -> None:
    if isinstance(known[0], str):
        check_choice(value, known, key)
    elif value not in known:
        raise ConfigError(f"{key} is {value!r}: choose one of {', '.join(map(str, known))}.")


def _check_lengths(values: Dict[str, Any]) -> None:
    """Lists whose lengths are fixed, or depend on each other."""
    for key in ("MODEL.PIXEL_MEAN", "DISTILL.SCHEDULE"):
        if not values[key] or not all(map(is_number, values[key])):
            raise ConfigError(f"{key} is {values[key]!r}: it must be a list of numbers.")
    fixed = {"INPUT.CROP.SIZE": 2, "DISTILL.SCHEDULE": 2}
    if values["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        fixed["INPUT.MIN_SIZE_TRAIN"] = 2
    for key, length in fixed.items():
        if len(values[key]) != length:
            raise ConfigError(f"{key} is {values[key]!r}: it must have {length} entries.")
    _check_pairs(values)
    for entry in values["TEST.EXPECTED_RESULTS"]:
        if not isinstance(entry, (list, tuple)) or len(entry) != 5:
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS holds {entry!r}: each entry is [data set, task, metric, "
                "value, tolerance]."
            )
    if not values["INPUT.MIN_SIZE_TRAIN"]:
        raise ConfigError("INPUT.MIN_SIZE_TRAIN is empty: give at least one size in px.")


def _check_pairs(values: Dict[str, Any]) -> None:
    """Lists that must be as long as another one, or one longer."""
    pairs = [("MODEL.PIXEL_STD", "MODEL.PIXEL_MEAN", 0)]
    for section in ("MODEL.RETINANET", "MODEL.RPN", "MODEL.ROI_HEADS"):
        pairs.append((f"{section}.IOU_LABELS", f"{section}.IOU_THRESHOLDS", 1))
    for key, other, more in pairs:
        length = len(values[other]) + more
        if len(values[key]) != length:
            raise ConfigError(
                f"{key} is {values[key]!r}: it must have {length} entries, since {other} is "
                f"{values[other]!r}."
            )


def _check_solver(values: Dict[str, Any]) -> None:
    batch, ranks = values["SOLVER.IMS_PER_BATCH"], comm.get_world_size()
    ranks = values["SOLVER.REFERENCE_WORLD_SIZE"] or ranks
    if batch % ranks:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, the images of all {ranks} ranks together (they are "
            f"SOLVER.REFERENCE_WORLD_SIZE, if that is not 0): it must be a multiple of {ranks}."
        )
    if values["SOLVER.BEST_METRIC"] and not values["TEST.EVAL_PERIOD"]:
        raise ConfigError(
            "SOLVER.BEST_METRIC compares evaluations in the training, of which there are none: set "
            "TEST.EVAL_PERIOD to so many iterations."
        )
    if values["SOLVER.EMA.DECAY"] and values["TEST.PRECISE_BN.ENABLED"]:
        raise ConfigError(
            "SOLVER.EMA.DECAY averages the statistics of batch norm, which TEST.PRECISE_BN.ENABLED "
            "would measure for other weights: switch one of them off."
        )
    if values["QUANTIZE.ENABLED"] and values["DISTILL.COMPILE"]:
        raise ConfigError(
            "DISTILL.COMPILE cannot be used with QUANTIZE.ENABLED, whose ranges change in each "
            "step: switch one of them off."
        )
    if values["QUANTIZE.ENABLED"] and values["TEST.PRECISE_BN.ENABLED"]:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED cannot be used with QUANTIZE.ENABLED, whose ranges it would "
            "change behind the last step: switch one of them off."
        )
    if values["QUANTIZE.ENABLED"] and values["QUANTIZE.START"] >= values["SOLVER.MAX_ITER"]:
        raise ConfigError(
            f"QUANTIZE.START is {values['QUANTIZE.START']}, but the run ends at SOLVER.MAX_ITER "
            f"{values['SOLVER.MAX_ITER']}: give a lower one."
        )
    if values["SOLVER.GUARD.SPIKE"] and values["SOLVER.AMP.ENABLED"]:
        raise ConfigError(
            "SOLVER.GUARD.SPIKE cannot be used with SOLVER.AMP.ENABLED, whose gradients are scaled "
            "by a changing factor: switch one of them off."
        )


def _refuse_ignored(values: Dict[str, Any]) -> None:
    """Keys that are not read here, though a run without them is another one."""
    if values["MODEL.LOAD_PROPOSALS"]:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS is True: files of proposals are pickles, which can run code, so "
            "d2kd does not read them. Set it to False: an RPN makes the proposals."
        )
    if values["TEST.AUG.ENABLED"]:
        raise ConfigError(
            "TEST.AUG.ENABLED is True, but d2kd evaluates each image once, at INPUT.MIN_SIZE_TEST: "
            "set it to False."
        )


def _check_device(device: str, key: str) -> None:
    if not device and key != "MODEL.DEVICE":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"{key} is {device!r}: give cpu, cuda or cuda:0.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key} is {device!r}, but no GPU is found: set it to cpu.")


def check_shares(shares: Sequence[float], heads: Sequence[str]) -> List[float]:
    """One share per head; a single one is that of each.

    Raises:
        ConfigError: their number, or what they leave to the task, is wrong.
    """
    shares = list(shares) * (len(heads) if len(shares) == 1 else 1)
    key = f"DISTILL.BALANCE.SHARES is {tuple(shares)}"
    if len(shares) != len(heads):
        raise ConfigError(f"{key}: give one share, or one for each of {', '.join(heads)}.")
    if not all(0 < share < 1 for share in shares) or not sum(shares) < 1:
        raise ConfigError(f"{key}: each must be above 0, and all together below 1: the rest is the "
                          "task's.")  # fmt: skip
    return shares
