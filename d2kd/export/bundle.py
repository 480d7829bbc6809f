"""A trained detector of any kind as a folder that predicts, evaluates and teaches like its run."""

from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import torch
from detectron2.config import CfgNode

from .. import __version__
from ..build import student_config
from ..checkpoint.checkpointer import FINAL
from ..checkpoint.of_run import BEST
from ..engine.provenance import write_json
from ..errors import ConfigError
from ..evaluation.best_f1 import TASK, stored_best_f1
from ..file_io import read_json, write_atomically, write_text
from ..inference.predict import Predictor, class_names

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


def write_bundle(cfg: CfgNode, weights: str, run: Optional[Path], output: Path) -> Iterator[str]:
    """Write the plain config, the weights alone and the class names, and say so.

    The folder is taken wherever a run is (`d2kd predict`, `eval`, `export`, `--teacher`). It has
    no state of the optimizer and names no file of this machine.

    Args:
        cfg: of the detector, plain or distilled.
        weights: its checkpoint.
        run: folder of the run, for the class names; None for those of the data set.
        output: a folder that is made.

    Raises:
        ConfigError: the config or the checkpoint cannot work, or `output` is the run itself.
    """
    if run and output.resolve() == run.resolve():
        raise ConfigError(f"--output {output} is the run itself: name another folder.")
    detector, classes = Predictor(cfg, weights).detector, class_names(cfg, run)
    best = Path(weights).with_name(f"{BEST}.json")
    is_best = Path(weights).name == f"{BEST}.pth" and best.is_file()
    name = f"{BEST}.pth" if is_best else FINAL
    write_json(output / "run.json", {"d2kd": __version__, "classes": classes})
    if is_best:
        write_json(output / best.name, read_json(best))
    else:
        write_json(output / "results.json", {"results": {TASK: stored_best_f1(weights)}})
        write_text(output / "last_checkpoint", FINAL)
    write_text(output / "config.yaml", _plain_config(cfg))
    write_atomically(output / name, lambda x: torch.save({"model": detector.state_dict()}, x))
    size = sum(x.stat().st_size for x in output.iterdir()) / 2**20
    yield f"wrote {output}: {type(detector).__name__}, {size:.1f} MB, a folder for d2kd predict"


def _plain_config(cfg: CfgNode) -> str:
    cfg = student_config(cfg)
    cfg.merge_from_list([x for pair in _OF_THE_RUN.items() for x in pair])
    return cfg.dump()
