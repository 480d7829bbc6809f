"""The quick start: data, teacher, pace of the steps, three students, report."""

import os
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from torch import nn

from ..cores import torch_threads
from ..data import register_custom_datasets
from ..engine.changes import read_record
from ..engine.pace import Pace
from ..engine.provenance import command
from ..engine.run_folder import holds_run
from ..errors import ConfigError
from ..inference.speed import IMAGES, first_test_images, measure_inference
from .digits import DigitsSpec, build_digits
from .markdown import table, write_report
from .pace import Mode, measure_pace
from .pictures import draw_curves, draw_detections
from .teacher import TEACHER, load_teacher, rebuild_teacher
from .training import Result, load_config, train

_PROGRAM = ("d2kd", "quickstart", "__main__.py")  # the end of its path, wherever d2kd is
_TRAINED = ("student", "distilled", "student_time_matched", "teacher")
GUESS = 12.0  # minutes of all trainings on two CPU cores, said before anything is measured


def run(
    output: Path,
    steps: Optional[int] = None,
    rebuild: bool = False,
    spec: Optional[DigitsSpec] = None,
    teacher: Path = TEACHER,
) -> List[Result]:
    """Run the quick start in the repository's root folder.

    Args:
        output: folder of the report, the checkpoints and the logs.
        steps: training steps of student and distilled student; None keeps the configs'.
        rebuild: train the teacher first and write it to `teacher`.
        spec: the data set; None is the quick start's.
        teacher: a file of `save_teacher`.

    Returns:
        List[Result]: teacher, student, time-matched student and distilled student.
    """
    cfg = load_config("student", output / "student", steps)
    for name in _TRAINED[: None if rebuild else -1]:
        check_own(output / name)
    prepare_data(cfg, spec)
    if rebuild:
        print("[0/6] train the teacher, about 20 minutes on two CPU cores", flush=True)
        rebuild_teacher(output / "teacher", teacher, steps)
    results, pace, mode = train_all(output, cfg, steps, teacher)
    print("[6/6] measure inference, draw, write the report", flush=True)
    images = [first_test_images(cfg, IMAGES)] * len(results)
    times = measure_inference([r.model for r in results], images)
    for result, ms in zip(results, times, strict=True):
        result.ms = ms
    finish(output, cfg, results, pace, mode)
    return results


def check_own(folder: Path) -> None:
    """Check that a folder, whose run is about to be overwritten, holds none but a quick start's.

    Raises:
        ConfigError: it holds a run of another command.
    """
    program = [*read_record(folder).get("command", []), ""][0]
    is_own = program == command()[0] or Path(program).parts[-3:] == _PROGRAM
    if holds_run(folder) and not is_own:
        raise ConfigError(
            f"{folder} holds a run that is no quick start's: give another folder with --output."
        )


def prepare_data(cfg: CfgNode, spec: Optional[DigitsSpec]) -> None:
    """Build the digits where DATASETS.CUSTOM looks for them first, and register them."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "digits"
    print(f"Data: {root}", "(built)" if build_digits(root, spec) else "(already there)", flush=True)
    register_custom_datasets(cfg)


def train_all(
    output: Path, cfg: CfgNode, steps: Optional[int], teacher: Path
) -> Tuple[List[Result], Pace, Mode]:
    """Evaluate the teacher, time the steps and train the students; see `run`."""
    total = cfg.SOLVER.MAX_ITER
    guess = GUESS * total / load_config("student", output).SOLVER.MAX_ITER
    _announce(1, "evaluate the teacher", guess)
    best = load_teacher(output / "teacher_test", teacher)
    print(f"      AP {best.box['AP']:.1f}")

    _announce(2, "time plain and distilled steps in turns", guess)
    pace, mode = measure_pace(teacher)
    plain = pace.matched_steps(total)
    print(f"      {pace}: {plain} plain steps match {total} distilled ones")
    print(f"      the teacher computes {mode}")

    _announce(3, f"train the student, {total} steps", (total + 2 * plain) * pace.plain / 60)
    student = train("student", cfg)

    minutes = 2 * plain * student.seconds / student.steps / 60
    _announce(4, f"train the distilled student, {total} steps", minutes)
    distill_cfg = load_config("distilled", output / "distilled", steps)
    distill_cfg.DISTILL.TEACHER.WEIGHTS = (str(teacher),)
    mode.set_in(distill_cfg)
    with torch_threads(mode.threads):
        distilled = train("distilled", distill_cfg)

    text = f"train the student again for the time of 4, {plain} steps"
    _announce(5, text, distilled.seconds / 60)
    matched_cfg = load_config("student", output / "student_time_matched", plain)
    matched = train("student (time-matched)", matched_cfg)
    return [best, student, matched, distilled], pace, mode


def finish(output: Path, cfg: CfgNode, results: List[Result], pace: Pace, mode: Mode) -> None:
    """Draw the pictures, write report.md and print the table and what to do next."""
    teacher, student, _, distilled = results
    draw_curves(teacher, results[1:], output / "curve.png")
    shown: Dict[str, nn.Module] = {r.name: r.model for r in (teacher, student, distilled)}
    draw_detections(cfg, shown, output / "detections.png")
    share = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    write_report(output / "report.md", results, pace, mode, cfg.SEED, share)
    print(f"\n{table(results)}\n\nReport and pictures: {output / 'report.md'}")
    print(
        "Next, distil on your own data, a folder cells of labelled images "
        "(docs/tutorials/own_detector.md):\n  source .venv/bin/activate\n  d2kd data cells"
    )


def _announce(stage: int, text: str, minutes: float) -> None:
    print(f"[{stage}/6] {text}, about {max(1, round(minutes))} min left in all", flush=True)
