"""A trained detector of any kind as a folder that predicts, evaluates and teaches like its run."""

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from detectron2.config import CfgNode

from .. import __version__
from ..build import student_config
from ..checkpoint.checkpointer import FINAL
from ..checkpoint.of_run import BEST
from ..checkpoint.weights_file import split_pin
from ..config.defaults import get_d2kd_cfg
from ..errors import ConfigError
from ..evaluation.best_f1 import TASK, stored_best_f1
from ..file_io import read_json, write_atomically, write_text
from ..inference.predict import Predictor, class_names
from ..quantize import beside

_OF_THE_RUN: Dict[str, Any] = {  # what names the machine that it was trained on
    "OUTPUT_DIR": "output",
    "MODEL.WEIGHTS": "",
    "MODEL.TIMM.CHECKPOINT": "",
    "DATASETS.CUSTOM": [],
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "DATASETS.UNLABELLED": (),
    "DATASETS.PROPOSAL_FILES_TRAIN": (),
    "DATASETS.PROPOSAL_FILES_TEST": (),
}
_FILES = (f"{BEST}.pth", f"{BEST}.json", FINAL, "results.json", "last_checkpoint", "config.yaml",
          "run.json")  # fmt: skip
_OF_A_TRAINING = "metrics.json", "log.txt", "model_[0-9]*.pth"


def write_bundle(cfg: CfgNode, weights: str, run: Optional[Path], output: Path) -> Iterator[str]:
    """Write the plain config, the weights, a quantized detector's ranges and the class names.

    The folder is taken wherever a run is (`d2kd predict`, `eval`, `export`, `--teacher`). It has
    no state of the optimizer and names no file of this machine. What another such folder had there
    goes, so that no older checkpoint stands for it.

    Args:
        cfg: of the detector, plain or distilled.
        weights: its checkpoint.
        run: folder of the run, for class names that are not known beside `weights`, or None.
        output: a folder that is made.

    Raises:
        ConfigError: the config or the checkpoint cannot work, or `output` holds a training.
    """
    sources = [Path(split_pin(weights)[0]).resolve().parent, *filter(None, [run])]
    if output.resolve() in [x.resolve() for x in sources]:
        raise ConfigError(f"--output {output} holds what is exported: name another folder.")
    if any(True for name in _OF_A_TRAINING for _ in output.glob(name)):
        raise ConfigError(f"--output {output} holds a training: name another folder.")
    detector = Predictor(cfg, weights).detector
    classes = class_names(str(run or ""), cfg, weights, detector)
    name, texts = _of_checkpoint(weights)
    texts["run.json"] = json.dumps({"d2kd": __version__, "classes": classes})
    texts["config.yaml"] = _plain_config(cfg)
    state = {"model": detector.state_dict()}
    state |= {key: part.state_dict() for key, part in beside(detector).items()}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / name, lambda x: torch.save(state, x))
    for file, text in texts.items():
        write_text(output / file, text)
    for old in {*_FILES} - {name, *texts}:
        (output / old).unlink(missing_ok=True)
    size = sum(x.stat().st_size for x in output.iterdir()) / 2**20
    yield f"wrote {output}: {type(detector).__name__}, {size:.1f} MB, a folder for d2kd predict"


def _of_checkpoint(weights: str) -> Tuple[str, Dict[str, str]]:
    """What a checkpoint is called in the folder, and the files that say what it is."""
    best = Path(weights).with_name(f"{BEST}.json")
    point = {TASK: stored_best_f1(weights)}
    if Path(weights).name == f"{BEST}.pth" and best.is_file():
        return f"{BEST}.pth", {best.name: json.dumps({**read_json(best), **point})}
    return FINAL, {"results.json": json.dumps({"results": point}), "last_checkpoint": FINAL}


def _plain_config(cfg: CfgNode) -> str:
    for key, value in (
        ("MODEL.TRANSFORMERS.FOLDER", cfg.MODEL.TRANSFORMERS.FOLDER),
        ("MODEL.LAZY_CONFIG", cfg.MODEL.LAZY_CONFIG),
    ):
        if os.path.exists(value):
            raise ConfigError(
                f"{key}: the detector is built from {value}, which a folder does not hold: name "
                "that itself wherever this folder would be named."
            )
    cfg = student_config(cfg)
    cfg.DISTILL = get_d2kd_cfg().DISTILL  # of which a plain detector reads nothing
    cfg.merge_from_list([x for pair in _OF_THE_RUN.items() for x in pair])
    return cfg.dump()
