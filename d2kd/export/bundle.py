"""A trained detector of any kind as a folder that predicts, evaluates and teaches like its run."""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from detectron2.config import CfgNode

from .. import __version__
from ..build import student_config
from ..checkpoint.checkpointer import FINAL
from ..checkpoint.of_run import BEST
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
    "DISTILL.TEACHER.CONFIG_FILES": (),
    "DISTILL.TEACHER.WEIGHTS": ("",),
    "DISTILL.TEACHER.CACHE_DIR": "",
    "DISTILL.TEACHER.AHEAD": 0,
    "DISTILL.TEACHER.DEVICE": "",
    "DISTILL.TEACHER.CHECK_AGAINST": "",
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
        run: folder of the run, for the class names; None for those of the data set.
        output: a folder that is made.

    Raises:
        ConfigError: the config or the checkpoint cannot work, or `output` holds a training.
    """
    if run and output.resolve() == run.resolve():
        raise ConfigError(f"--output {output} is the run itself: name another folder.")
    if any(True for name in _OF_A_TRAINING for _ in output.glob(name)):
        raise ConfigError(f"--output {output} holds a training: name another folder.")
    detector, classes = Predictor(cfg, weights).detector, class_names(cfg, run)
    name, texts = _of_checkpoint(weights)
    texts["run.json"] = json.dumps({"d2kd": __version__, "classes": classes})
    texts["config.yaml"] = _plain_config(cfg)
    state = {"model": detector.state_dict()}
    state |= {key: part.state_dict() for key, part in beside(detector).items()}
    output.mkdir(parents=True, exist_ok=True)
    for old in _FILES:
        (output / old).unlink(missing_ok=True)
    for file, text in texts.items():
        write_text(output / file, text)
    write_atomically(output / name, lambda x: torch.save(state, x))
    size = sum(x.stat().st_size for x in output.iterdir()) / 2**20
    yield f"wrote {output}: {type(detector).__name__}, {size:.1f} MB, a folder for d2kd predict"


def _of_checkpoint(weights: str) -> Tuple[str, Dict[str, str]]:
    """What a checkpoint is called in the folder, and the files that say what it is."""
    best = Path(weights).with_name(f"{BEST}.json")
    if Path(weights).name == f"{BEST}.pth" and best.is_file():
        return f"{BEST}.pth", {best.name: json.dumps(read_json(best))}
    results = {"results": {TASK: stored_best_f1(weights)}}
    return FINAL, {"results.json": json.dumps(results), "last_checkpoint": FINAL}


def _plain_config(cfg: CfgNode) -> str:
    cfg = student_config(cfg)
    cfg.merge_from_list([x for pair in _OF_THE_RUN.items() for x in pair])
    return cfg.dump()
