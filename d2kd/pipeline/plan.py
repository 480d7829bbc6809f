"""What `d2kd distill` will do: written before anything is trained, and read when it goes on."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

from ..data.coco_json import summary
from ..data.prepare import forget_prepared, prepare_folder
from ..engine.command_line import config_of
from ..errors import ConfigError, MissingFileError
from ..file_io import LOCK, check_output, expect, read_yaml, write_yaml
from ..text import shell
from .choose import ENOUGH, TEACHER, Wishes, choose_size, choose_steps, estimate, fit_time
from .commands import Commands
from .measure import measure, measured_size

PLAN, DATA = "plan.yaml", "data"
_LABELLED = "data", "yolo", "images"  # groups of what FOLDER may be
MARK = "planning"  # there is no plan yet, and the data are its own
_KEYS = ("asked", "size", "steps", "estimate", "stages")


@dataclass(frozen=True)
class Plan:
    """Stages with their commands, and what they were chosen from.

    Attributes:
        asked: the fields of `Wishes`.
        size: px of the images' shorter side.
        steps: of "teacher", if it is trained, and of "student".
        estimate: "minutes", "memory_mb" and "disk_mb".
        stages: name -> words of its command, in their order.
    """

    asked: Dict[str, Any]
    size: int
    steps: Dict[str, int]
    estimate: Dict[str, float]
    stages: Dict[str, List[str]]

    @property
    def output(self) -> Path:
        """The folder of everything that is written."""
        return Path(self.asked["output"])

    def __str__(self) -> str:
        """The plan as it is shown: sizes, costs and the commands to type instead."""
        costs = self.estimate
        steps = ", ".join(f"{name} {count:,}" for name, count in self.steps.items())
        few = self.steps["student"] < ENOUGH
        lines = [
            f"Images at {self.size} px (shorter side), steps: {steps}.",
            f"About {costs['minutes']:.0f} min, {costs['memory_mb'] / 1024:.1f} GB of memory, "
            f"{costs['disk_mb'] / 1024:.1f} GB of disk.",
        ]
        lines += ["So few steps teach a student little: give more --time or --steps."] * few
        return "\n".join([*lines, *(shell(*words) for words in self.stages.values())])


def open_plan(
    wishes: Wishes, dry_run: bool = False, say: Callable[[str], None] = lambda _: None
) -> Plan:
    """The plan that the same wishes have made before, or a new one, which is written to `output`.

    Args:
        wishes: what is asked for.
        dry_run: leave nothing of a new one behind.
        say: prints a line.

    Raises:
        ConfigError, MissingFileError: see `read_plan` and `make_plan`.
    """
    if known := read_plan(wishes):
        return known
    output, mark = Path(wishes.output), Path(wishes.output, MARK)
    check_output(output, "--output")
    made = [x for x in (output, *output.parents) if not x.exists() or (x / MARK).exists()]
    if mark.exists():
        forget_prepared(output / DATA)  # of a call that came to no plan
    is_own = not (output / DATA).exists()
    if is_own:
        output.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        plan = make_plan(wishes, say)
        if not dry_run:
            write_plan(plan)
    finally:
        if is_own and not (output / PLAN).exists():
            forget_prepared(output / DATA)
        mark.unlink(missing_ok=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return plan


def check_wishes(wishes: Wishes) -> Commands:
    """The commands of what is asked for, before anything is read.

    Raises:
        ConfigError, MissingFileError: folder, config, option or a trunk's weights are wrong.
    """
    folder = Path(wishes.folder).expanduser()
    if not folder.exists():
        raise MissingFileError(f"{folder}: there is no such file or folder.")
    expect(folder, "FOLDER", *_LABELLED)
    words = Commands(wishes, Path(wishes.output, DATA))
    words.check()
    return words


def make_plan(wishes: Wishes, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Read the folder, divide it where there is no validation split, and choose size and steps.

    The data set in COCO's format is written to `output`/data; nothing else is written. Some steps
    of the trainings are timed on models that are thrown away.

    Raises:
        ConfigError, MissingFileError: see `check_wishes`, `prepare_folder` and `fit_time`.
    """
    begin, data = time.monotonic(), Path(wishes.output, DATA)
    words = check_wishes(wishes)
    splits = prepare_folder(Path(wishes.folder), data, wishes.val, wishes.seed)
    counts = summary(splits["train"].json)[0], summary(splits["val"].json)[0]
    size = wishes.size or choose_size(splits["train"])
    cfg = config_of(words.plain(size, 1))
    say("Some steps are timed: a minute or two.")
    tried = measured_size(size)
    costs = measure(tried, words.plain(tried, 1), words.measured(tried), words.trains_teacher)
    batch = cfg.SOLVER.IMS_PER_BATCH
    if wishes.seconds:
        spent = costs.start + time.monotonic() - begin
        size, steps = fit_time(wishes, size, costs, counts, batch, spent)
    else:
        steps = choose_steps(wishes, counts[0], batch)
    seconds = estimate(wishes, size, steps, costs, counts[1], batch)
    return Plan(
        asked=_plain(wishes),
        size=size,
        steps={**({"teacher": TEACHER * steps} if words.trains_teacher else {}), "student": steps},
        estimate={
            "minutes": round(seconds / 60, 1),
            "memory_mb": round(costs.memory_at(size) / 2**20),
            "disk_mb": round(costs.disk / 2**20),
        },
        stages=words.stages(size, steps, cfg.MODEL.META_ARCHITECTURE),
    )  # fmt: skip


def _plain(wishes: Wishes) -> Dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(wishes).items()}


def write_plan(plan: Plan) -> None:
    """Write `output`/plan.yaml."""
    write_yaml(plan.output / PLAN, asdict(plan))


def read_plan(wishes: Wishes) -> Plan | None:
    """The plan in `output` that the same wishes have made before, None if there is none.

    Raises:
        ConfigError: see `stored_plan`; or `output` holds another one, which stays as it is.
    """
    plan = stored_plan(wishes)
    asked = _plain(wishes)
    if plan and (other := [k for k, value in asked.items() if plan.asked.get(k) != value]):
        said = ", ".join(f"{key} {plan.asked.get(key)!r}" for key in other)
        raise ConfigError(f"{Path(wishes.output, PLAN)} is the plan of another command ({said}): "
                          "type that again to go on with it, give another --output, or begin anew "
                          "with --overwrite.")  # fmt: skip
    return plan


def stored_plan(wishes: Wishes) -> Plan | None:
    """The plan in `output`, of these or other wishes, None if there is none.

    Raises:
        ConfigError: `output` holds files that no plan has written, or is inside of `folder`.
    """
    file = Path(wishes.output, PLAN)
    if file.resolve().is_relative_to(Path(wishes.folder).resolve()):
        raise ConfigError(
            f"--output {wishes.output} is inside of {wishes.folder}: give a "
            "folder beside it, such as --output ../distilled."
        )
    if not file.is_file():
        if others := sorted({x.name for x in file.parent.glob("*")} - {DATA, LOCK, MARK}):
            raise ConfigError(
                f"--output {wishes.output} holds files that d2kd distill did not write "
                f"({', '.join(others[:3])}): give another folder."
            )
        return None
    data = read_yaml(file)
    if not isinstance(data, dict) or set(data) != set(_KEYS):
        raise ConfigError(f"{file} was not written by d2kd distill: give another --output.")
    return Plan(**data)
