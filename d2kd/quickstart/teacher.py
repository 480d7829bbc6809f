"""The shipped teacher: loading it, and writing it again after a training."""

from pathlib import Path
from typing import Optional

import torch
from detectron2.modeling import build_model
from safetensors import safe_open
from safetensors.torch import save_file

from ..checkpoint import load_detector, read_weights
from ..engine.log_file import log_to
from .training import Result, evaluate, load_config, train

TEACHER = Path(__file__).with_name("teacher.safetensors")


def save_teacher(checkpoint: Path, path: Path, steps: int, seconds: float) -> None:
    """Write the detector of a training checkpoint in half precision, as data only.

    Args:
        checkpoint: Detectron2's `model_final.pth`.
        path: the `.safetensors` file to write.
        steps: training steps, kept in the file's header.
        seconds: wall clock of the training, likewise.

    Raises:
        ValueError: a weight does not fit in half precision.
    """
    weights = read_weights(str(checkpoint))["model"]
    small = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    wide = [k for k, v in small.items() if not torch.isfinite(v).all()]
    if wide:
        raise ValueError(f"{checkpoint}: {', '.join(wide)} are not finite in half precision.")
    header = {"format": "pt", "steps": str(steps), "seconds": f"{seconds:.0f}"}
    save_file({k: v.contiguous() for k, v in small.items()}, path, header)


def load_teacher(folder: Path, path: Path = TEACHER) -> Result:
    """Build the teacher, fill it from `path` and evaluate it.

    Args:
        folder: gets log.txt and the detections on the test images.
        path: a file of `save_teacher`.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; --rebuild-teacher trains and writes it.")
    cfg = load_config("teacher", folder)
    with log_to(folder):
        model = build_model(cfg)
        load_detector(model, str(path), "teacher")
        box = evaluate(cfg, model.eval())
    with safe_open(path, "pt") as file:
        header = file.metadata()
    return Result("teacher", model, box, int(header["steps"]), float(header["seconds"]))


def rebuild_teacher(folder: Path, path: Path = TEACHER, steps: Optional[int] = None) -> None:
    """Train `configs/quickstart/teacher.yaml` and write it to `path`.

    Args:
        folder: gets the checkpoint, metrics and log.
        path: the `.safetensors` file to write.
        steps: training steps; None keeps the config's.
    """
    trained = train("teacher", load_config("teacher", folder, steps))
    save_teacher(folder / "model_final.pth", path, trained.steps, trained.seconds)
