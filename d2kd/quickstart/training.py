"""One training or evaluation of the quick start: a timed trainer with a quiet console."""

import contextlib
import io
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils.env import seed_all_rng
from torch import nn

from ..config.defaults import get_d2kd_cfg
from ..config.loading import merge_config_file
from ..engine.log_file import log_to
from ..engine.trainer import DistillationTrainer

CONFIGS = Path("configs/quickstart")
EVALUATIONS = 4  # per training run, the last one after the last step


@dataclass
class Result:
    """What a row of the table and a line of the plot need.

    Args:
        name: the row's name.
        model: the plain detector, in evaluation mode.
        box: AP, AP50 and AP75 on the test images, 0 to 100.
        steps: training steps; 0 when unknown.
        seconds: wall clock of the training loop, without set-up and evaluation.
        curve: (steps, seconds, AP) of every evaluation.
        ms: median inference time of an image, milliseconds.
    """

    name: str
    model: nn.Module
    box: Dict[str, float]
    steps: int = 0
    seconds: float = 0.0
    curve: List[Tuple[int, float, float]] = field(default_factory=list)
    ms: float = math.nan


def load_config(name: str, folder: Path, steps: Optional[int] = None) -> CfgNode:
    """The config `configs/quickstart/<name>.yaml` for this machine.

    Args:
        name: "teacher", "student" or "distilled".
        folder: becomes OUTPUT_DIR.
        steps: SOLVER.MAX_ITER, which the schedule spans; None keeps the file's.

    Raises:
        FileNotFoundError: the working directory is not the repository's.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not below {Path.cwd()}. The quick start reads the configs of the "
            "repository: run it in the repository's root folder."
        )
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "quick start")
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.OUTPUT_DIR = str(folder)
    cfg.SOLVER.MAX_ITER = steps or cfg.SOLVER.MAX_ITER
    cfg.TEST.EVAL_PERIOD = math.ceil(cfg.SOLVER.MAX_ITER / EVALUATIONS)
    return cfg


def evaluate(cfg: CfgNode, model: nn.Module) -> Dict[str, float]:
    """AP, AP50 and AP75 of COCO (0 to 100) on DATASETS.TEST; 0 for a model that finds nothing."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; the log has the tables
        box = DistillationTrainer.test(cfg, model)["bbox"]
    return {k: 0.0 if math.isnan(box[k]) else box[k] for k in ("AP", "AP50", "AP75")}


class Clock(HookBase):
    """Sums the wall clock of the steps alone; first in the list of hooks."""

    seconds = 0.0

    def before_step(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop, once the device has finished."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._start


class Progress(HookBase):
    """A line on the console every `period` steps."""

    def __init__(self, clock: Clock, period: int = 50) -> None:
        """Set the clock and the period in steps."""
        self.clock, self.period = clock, period

    def after_step(self) -> None:
        """Print steps, the mean detection loss of the last 20 steps and the time left."""
        done, total = self.trainer.iter + 1, self.trainer.max_iter
        if done % self.period and done < total:
            return
        histories = self.trainer.storage.histories()
        loss = sum(histories[name].avg(20) for name in ("loss_cls", "loss_box_reg"))
        left = self.clock.seconds / done * (total - done)
        print(
            f"      step {done:>4}/{total}   detection loss {loss:.3f}   "
            f"{self.clock.seconds / done:.2f} s per step   {left / 60:.1f} min left",
            flush=True,
        )


class QuickstartTrainer(DistillationTrainer):
    """`DistillationTrainer` with a clock, progress lines and a record of its evaluations."""

    def build_hooks(self) -> List[HookBase]:
        """The stock hooks between a clock and the progress lines."""
        self.clock = Clock()
        self.curve: List[Tuple[int, float, float]] = []
        hooks = [h for h in super().build_hooks() if not isinstance(h, EvalHook)]
        test = EvalHook(self.cfg.TEST.EVAL_PERIOD, self.record)
        return [self.clock, *hooks, Progress(self.clock), test]

    def record(self) -> Dict[str, Dict[str, float]]:
        """Evaluate the model as it is now."""
        box = evaluate(self.cfg, self.model)
        steps = min(self.iter + 1, self.max_iter)
        self.curve.append((steps, self.clock.seconds, box["AP"]))
        self.box = box
        print(f"      step {steps:>4}/{self.max_iter}   AP {box['AP']:.1f}", flush=True)
        return {"bbox": box}


def train(name: str, cfg: CfgNode) -> Result:
    """Train from scratch as `cfg` says; its SEED fixes initial weights and data order.

    The folder OUTPUT_DIR gets log.txt, config.yaml, metrics.json and model_final.pth.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with log_to(folder):
        (folder / "metrics.json").unlink(missing_ok=True)
        (folder / "config.yaml").write_text(cfg.dump())
        seed_all_rng(cfg.SEED)
        trainer = QuickstartTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    model = trainer.distiller.student if trainer.distiller else trainer.model
    clock, curve = trainer.clock, trainer.curve
    return Result(name, model.eval(), trainer.box, trainer.max_iter, clock.seconds, curve)
