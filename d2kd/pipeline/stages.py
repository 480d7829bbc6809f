"""Running a plan: one process for each stage; what is finished is not run again."""

import contextlib
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from ..checkpoint.of_run import read_best
from ..data.prepare import forget_prepared
from ..engine.run_folder import holds_run
from ..errors import ConfigError
from ..file_io import LOCK, check_output, holder_of, locked, read_yaml, write_yaml
from ..report.runs import read_run
from ..text import shell
from .choose import Wishes
from .commands import FOLDER, MODEL, REPORT, RUNS
from .plan import DATA, MARK, PLAN, Plan, check_wishes, stored_plan

FINISHED = "finished.yaml"  # stage -> its command and seconds
CONSOLE = "console.txt"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def hold_plan(wishes: Wishes) -> Iterator[None]:
    """Lock `wishes.output` against other processes while a plan is removed, made and run.

    A folder that was not there is removed if nothing came to be in it.

    Raises:
        ConfigError: see `stored_plan`; or another process is at it.
    """
    stored_plan(wishes)
    output = Path(wishes.output)
    check_output(output, "--output")
    new = [x for x in (output, *output.parents) if not x.exists() or (x / MARK).exists()]
    with locked(output / LOCK):
        try:
            yield
        finally:
            if new and [x.name for x in output.glob("*")] == [LOCK]:
                with contextlib.suppress(OSError):  # somebody writes into it meanwhile
                    (output / LOCK).unlink()
                    for folder in new:
                        folder.rmdir()


def run_plan(plan: Plan, say: Callable[[str], None], quiet: bool = False) -> None:
    """Run the stages that are not finished, in order; see `hold_plan`.

    Args:
        plan: whose folder holds `finished.yaml` with those that are.
        say: prints a line.
        quiet: whether what the stages print goes into console.txt alone.

    Raises:
        ConfigError: a stage failed, and what it printed says why.
        SystemExit: a signal stopped a stage; 128 and its number.
    """
    finished = _finished(plan)
    for index, (name, words) in enumerate(plan.stages.items(), 1):
        head = f"[{index}/{len(plan.stages)}] {name}"
        if finished.get(name, {}).get("command") == words and _is_there(plan, name):
            say(f"{head}: finished before")
            continue
        for later in list(plan.stages)[index - 1 :]:  # they read what it writes
            finished.pop(later, None)
        say(f"{head}: {shell(*words)}")
        start = time.monotonic()
        code, number = _run(plan, name, words, quiet)
        if code == 0:
            finished[name] = {"command": words, "seconds": round(time.monotonic() - start)}
            write_yaml(plan.output / FINISHED, finished)
        if number:
            say(f"{name} is stopped: type the same command again to go on.")
            raise SystemExit(128 + number)
        if code:
            where = f", see {plan.output / CONSOLE}" if quiet else ""
            raise ConfigError(f"{name} ended with exit code {code}{where}; what it needs mended, "
                              "type the same command again to go on.")  # fmt: skip


def _is_there(plan: Plan, name: str) -> bool:
    """Whether what a stage has written is still there."""
    words = plan.stages[name]
    return holds_run(plan.output / name) if words[1] == "train" else Path(_output(words)).exists()


def _run(plan: Plan, name: str, words: List[str], quiet: bool) -> Tuple[int, int]:
    goes_on = words[1] == "train" and holds_run(plan.output / name)
    command = [sys.executable, "-m", *words[:3], *["--resume"] * goes_on, *words[3:]]
    if not quiet:
        return _wait(command, {})
    with open(plan.output / CONSOLE, "a", encoding="utf-8") as file:
        return _wait(command, {"stdout": file, "stderr": subprocess.STDOUT})


def _wait(command: List[str], output: Dict[str, Any]) -> Tuple[int, int]:
    """The exit code, and the first signal that came meanwhile, or 0.

    Signals are passed on, and the process has the time to save. A terminal sends it the same, which
    a training takes as one. Only a main thread can pass them on.
    """
    got: List[int] = []
    running: List[subprocess.Popen] = []

    def pass_on(number: int, _frame: Any) -> None:
        got.append(number)
        for process in running:
            process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    is_main = threading.current_thread() is threading.main_thread()
    heard = [x for x in _SIGNALS if is_main and signal.getsignal(x) is not signal.SIG_IGN]
    before = {x: signal.signal(x, pass_on) for x in heard}
    try:
        running.append(subprocess.Popen(command, **output))
        for number in got:
            running[0].send_signal(number)
        return running[0].wait(), got[0] if got else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _finished(plan: Plan) -> Dict[str, Any]:
    file = plan.output / FINISHED
    data = read_yaml(file) if file.is_file() else {}
    return data if isinstance(data, dict) else {}


def remove_plan(wishes: Wishes) -> None:
    """Remove what a plan and its stages wrote into `wishes.output`, and nothing else.

    Raises:
        ConfigError: see `stored_plan` and `check_wishes`, or a run is still trained, as it is after
            a kill of what started it; nothing is removed then.
    """
    output = Path(wishes.output)
    if stored_plan(wishes):
        check_wishes(wishes)
        for run in (output / name for name in RUNS):
            if holder := holder_of(run / LOCK):
                raise ConfigError(
                    f"--overwrite: {run} is in use by {holder}: stop it or wait until it ends, or "
                    "give another --output."
                )
        forget_prepared(output / DATA)
        for name in (*RUNS, REPORT, MODEL, FOLDER, FINISHED, CONSOLE, PLAN):
            path = output / name
            is_folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)


def summary(plan: Plan) -> Dict[str, Any]:
    """What came out of a plan.

    Returns:
        Dict: "AP" of each run (box AP of the best checkpoint, 0 to 100; None without one), "files"
        and the folder "student", "minutes" of all stages, and "next", a command to type.
    """
    runs = [name for name in RUNS if name in plan.stages]
    ap = {name: _ap(plan.output / name) for name in runs}
    seconds = sum(x.get("seconds", 0) for x in _finished(plan).values())
    return {
        "AP": ap,
        "files": {k: _output(plan.stages[k]) for k in ("report", "export") if k in plan.stages},
        "student": str(plan.output / "distilled"),
        "minutes": round(seconds / 60, 1),
        "next": shell("d2kd", "predict", plan.output / "distilled", "FOLDER_OF_PHOTOS"),
    }


def _output(words: List[str]) -> str:
    return words[words.index("--output") + 1]


def _ap(run: Path) -> float | None:
    best = read_best(run)
    if best and best["metric"] == "bbox/AP":
        return round(best["value"], 2)
    value = read_run(run, run.name).results.get("bbox/AP")
    return None if value is None or math.isnan(value) else round(value, 2)
