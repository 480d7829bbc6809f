"""Size of the images and length of the trainings, from the data and the time there is."""

import math
import statistics
from dataclasses import dataclass
from typing import Tuple

from ..data.folder import Split
from ..data.problems import sized_records
from ..data.small_boxes import small_boxes
from ..errors import ConfigError

STRIDE = 8  # px, the finest of the detectors of own/
STEP = 32  # px between sizes
SMALLEST, LARGEST = 128, 640  # px of the shorter side
_AT_LEAST = 320  # px, where the images have as many
_EPOCHS, _FEWEST, _MOST = 60, 300, 5000  # of a student, where neither time nor steps are given
ENOUGH = 200  # steps of a student below which a smaller size is the better use of the time
_FEWEST_IN_TIME = 10  # steps that `--time` has to leave
TEACHER = 2  # times the steps of a student
_AFTER = 6.0  # starts of a command that report and export take, which start and do more


@dataclass(frozen=True)
class Wishes:
    """What a user asks for; 0, "" and None leave the choice to the plan.

    Attributes:
        folder: labelled images, in any layout.
        output: folder of everything that is written.
        student, teacher: configs; "" takes those of configs/own. A teacher that is a run, or has
            weights, is not trained.
        seconds: of the whole.
        steps: of the student.
        epochs: of the student, instead of its steps.
        size: of the images' shorter side, px.
        batch: images of a step.
        val: share of the images to validate on where there is no such split.
        seed: of the division and the trainings.
        plain: whether a plain student is trained for comparison.
        options: KEY VALUE pairs for all trainings.
    """

    folder: str
    output: str
    student: str = ""
    teacher: str = ""
    seconds: float = 0.0
    steps: int = 0
    epochs: float = 0.0
    size: int = 0
    batch: int = 0
    val: float = 0.2
    seed: int = 1
    plain: bool = True
    options: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Costs:
    """What was measured at a size of images.

    Attributes:
        size: px of their shorter side.
        plain, teacher, distilled: seconds of a step; 0 for a teacher that is not trained.
        memory: bytes of the largest of them.
        base: bytes of `memory` that do not depend on the size.
        disk: bytes of the checkpoints of all runs.
        start: seconds of a command before its first step.
    """

    size: int
    plain: float
    teacher: float
    distilled: float
    memory: int
    base: int
    disk: int
    start: float

    def at(self, size: int) -> float:
        """How many times as long a step takes at another size: its pixels."""
        return (size / self.size) ** 2

    def memory_at(self, size: int) -> float:
        """Bytes at another size."""
        return self.base + (self.memory - self.base) * self.at(size)


def choose_size(split: Split) -> int:
    """Px of the shorter side, a multiple of 32, at which nine of ten boxes reach the stride.

    Not above the images' own size and 640, and not below 320 where they are larger, nor below 128.
    """
    records = sized_records(split)
    own = statistics.median([min(x["width"], x["height"]) for x in records] or [LARGEST])
    found = small_boxes(records, own, math.inf, STRIDE)
    most = min(LARGEST, STEP * max(1, round(own / STEP)))
    return max(SMALLEST, min(most, max(found.size, _AT_LEAST)))


def choose_steps(wishes: Wishes, images: int, batch: int) -> int:
    """Steps of the student where the time does not decide."""
    if wishes.steps:
        return wishes.steps
    if wishes.epochs:
        return max(1, math.ceil(wishes.epochs * images / batch))
    return min(_MOST, max(_FEWEST, math.ceil(_EPOCHS * images / batch)))


def fit_time(
    wishes: Wishes,
    size: int,
    costs: Costs,
    images: Tuple[int, int],
    batch: int,
    spent: float = 0.0,
) -> Tuple[int, int]:
    """Size and steps of the student within `wishes.seconds`; smaller images before few steps.

    Args:
        wishes: what is asked for.
        size: px to begin with.
        costs: what was measured.
        images: of the training and the validation split.
        batch: images of a step.
        spent: seconds that are over.

    Raises:
        ConfigError: the time is too short for a training.
    """
    while True:
        fixed, step = _seconds(wishes, costs, costs.at(size), images[1], batch)
        fixed += spent
        steps = math.floor((wishes.seconds - fixed) / step)
        if steps >= ENOUGH or size <= SMALLEST or wishes.size:
            break
        size = max(SMALLEST, int(size * 0.8) // STEP * STEP)
    if steps < _FEWEST_IN_TIME:
        needed = math.ceil((fixed + ENOUGH * step) / 60)
        raise ConfigError(
            f"--time {wishes.seconds / 60:.3g}m is too short: {fixed / 60:.1f} min go into "
            f"reading, starting and evaluating here. Give --time {needed}m for "
            f"{ENOUGH} steps of the student at {size} px, or say --steps."
        )
    return size, steps


def estimate(
    wishes: Wishes, size: int, steps: int, costs: Costs, validation: int, batch: int
) -> float:
    """Seconds of everything."""
    fixed, step = _seconds(wishes, costs, costs.at(size), validation, batch)
    return fixed + steps * step


def _seconds(
    wishes: Wishes, costs: Costs, factor: float, validation: int, batch: int
) -> Tuple[float, float]:
    """Seconds that do not depend on the steps, and those of a step of the student and its share."""
    trained = {
        "teacher": TEACHER * costs.teacher,
        "plain": costs.plain * wishes.plain,
        "distilled": costs.distilled,
    }
    runs = sum(x > 0 for x in trained.values())
    evaluation = 0.6 * costs.plain * factor * validation / batch  # without a backward
    fixed = costs.start * (runs + _AFTER) + (4 * runs + 1) * evaluation
    return fixed, factor * sum(trained.values())
