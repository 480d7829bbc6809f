"""The table on the console and report.md."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Sequence

import detectron2
import torch

from .. import __version__
from ..engine.pace import Pace, device_name
from ..inspection.checkup import parameters
from .pace import MAX_RATIO, Mode
from .training import Result

HEADER = (
    "model", "AP", "AP50", "AP75", "parameters (M)", "ms per image", "training steps",
    "training minutes",
)  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table whose columns line up."""
    rows = [HEADER, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [_line(row, widths) for row in rows]
    rule = "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _row(result: Result) -> Sequence[str]:
    box = (f"{result.box[key]:.1f}" for key in ("AP", "AP50", "AP75"))
    cost = (f"{parameters(result.model):.2f}", f"{result.ms:.1f}", str(result.steps))
    return result.name, *box, *cost, f"{result.seconds / 60:.1f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return f"| {' | '.join([first, *rest])} |"


def _match(pace: Pace, matched: Result, distilled: Result) -> str:
    """How the steps were matched, and what to say when the times of the trainings differ."""
    text = f"{pace}, measured in {pace.turns} turns of each before the trainings"
    if pace.used != pace.ratio:
        return f"{text} and limited to 1 to {MAX_RATIO}: **the times do not match**"
    if 0.9 < matched.seconds / distilled.seconds < 1.1:
        return text
    return f"{text}. The times differ by more: other jobs slowed one of the trainings"


def _gains(results: Sequence[Result], pace: Pace) -> str:
    _, student, matched, distilled = (result.box["AP"] for result in results)
    text = f"Distilled minus student: {distilled - student:+.1f} AP at the same steps"
    if pace.used != pace.ratio:
        return f"{text}; at the same training time it is not known, see below"
    return f"{text}, {distilled - matched:+.1f} AP at the same training time"


def write_report(
    path: Path, results: Sequence[Result], pace: Pace, mode: Mode, seed: int, share: float
) -> None:
    """Write report.md.

    Args:
        path: the file; the pictures lie beside it.
        results: teacher, student, time-matched student and distilled student.
        pace: of their steps.
        mode: where the teacher computed.
        seed: SEED of all trainings.
        share: of the training images that the students use, 0 to 1.
    """
    _, _, matched, distilled = results
    text = f"""# Quick start: distilling a digit detector

{table(results)}

{_gains(results, pace)}. This is one run with one seed on a small data
set; other seeds give other numbers.

- The students train on {share:.0%} of the images that the teacher was trained on, as when labels
  are few: with all of them, more plain steps help more.
- The three students are the same network; student and distilled see the same images in the same
  order from the same initial weights.
- The time-matched student trains for as many plain steps as fit in the distilled run's time
  ({matched.seconds:.0f} s and {distilled.seconds:.0f} s); its learning rate schedule spans them.
  The steps are matched beforehand, so that other jobs on the machine do not change them:
  {_match(pace, matched, distilled)}.
- The teacher computed {mode}. What the
  student learns does not depend on it, but for rounding where threads differ.
- Training minutes are those of the training steps, without set-up and evaluation. The teacher's
  are those of the run that made it, perhaps on another machine.
- AP is COCO's, 0 to 100, on the test images. Milliseconds are the median over test images one at a
  time, the models taking turns.

![AP during training](curve.png)

![Detections](detections.png)

Detections with a score of 0.4 or more. Blue: the right digit with an IoU of at least 0.5; orange:
any other. Dotted yellow: digits that are missed.

## How it was made

- Device: {device_name()}
- Python {platform.python_version()}, torch {torch.__version__}, Detectron2
  {detectron2.__version__}, timm {version("timm")}, d2kd {__version__}
- Seed: {seed}
- Command: `python -m d2kd.quickstart {" ".join(sys.argv[1:])}`
- Configs: `configs/quickstart/{{teacher,student,distilled}}.yaml`; what each run used is in
  `student/config.yaml`, `student_time_matched/config.yaml` and `distilled/config.yaml`
"""
    path.write_text(text.replace("quickstart `", "quickstart`"), encoding="utf-8")
