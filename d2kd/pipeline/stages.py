"""Running a plan: one process for each stage; what is finished is not run again."""

import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from ..checkpoint.of_run import read_best
from ..engine.run_folder import holds_run
from ..errors import ConfigError
from ..file_io import read_yaml, write_yaml
from ..report.runs import read_run
from .choose import Wishes
from .commands import FOLDER, MODEL, REPORT, RUNS
from .plan import DATA, PLAN, Plan, stored_plan

FINISHED = "finished.yaml"  # stage -> its command and seconds
CONSOLE = "console.txt"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED = {128 + number for number in _SIGNALS}


def run_plan(plan: Plan, say: Callable[[str], None], quiet: bool = False) -> None:
    """Run the stages that are not finished, in order.

    Args:
        plan: whose folder holds `finished.yaml` with those that are.
        say: prints a line.
        quiet: whether what the stages print goes into console.txt alone.

    Raises:
        ConfigError: a stage failed; what it printed says why.
    """
    finished = _finished(plan)
    for number, (name, words) in enumerate(plan.stages.items(), 1):
        head = f"[{number}/{len(plan.stages)}] {name}"
        if finished.get(name, {}).get("command") == words:
            say(f"{head}: finished before")
            continue
        say(f"{head}: {shlex.join(words)}")
        start = time.monotonic()
        if code := _run(plan, name, words, quiet):
            if code in _STOPPED:
                say(f"{name} is stopped: type the same command again to go on.")
                raise SystemExit(code)
            where = f", see {plan.output / CONSOLE}" if quiet else ""
            raise ConfigError(f"{name} ended with exit code {code}{where}; what it needs mended, "
                              "type the same command again to go on.")  # fmt: skip
        finished[name] = {"command": words, "seconds": round(time.monotonic() - start)}
        write_yaml(plan.output / FINISHED, finished)


def _run(plan: Plan, name: str, words: List[str], quiet: bool) -> int:
    goes_on = words[1] == "train" and holds_run(plan.output / name)
    command = [sys.executable, "-m", *words[:3], *["--resume"] * goes_on, *words[3:]]
    if not quiet:
        return _wait(subprocess.Popen(command, start_new_session=True))
    with open(plan.output / CONSOLE, "a", encoding="utf-8") as file:
        return _wait(subprocess.Popen(command, start_new_session=True, stdout=file,
                                      stderr=subprocess.STDOUT))  # fmt: skip


def _wait(process: subprocess.Popen) -> int:
    """The exit code, 128 + a signal's number if that ended it.

    Signals are passed on, each once, and a training has the time to save where it is.
    """
    got: List[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        got.append(number)
        process.send_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {x: signal.signal(x, pass_on) for x in _SIGNALS} if is_main else {}
    try:
        code = process.wait()
        return 128 + got[0] if got and code else code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finished(plan: Plan) -> Dict[str, Any]:
    file = plan.output / FINISHED
    data = read_yaml(file) if file.is_file() else {}
    return data if isinstance(data, dict) else {}


def remove_plan(wishes: Wishes) -> None:
    """Remove what a plan and its stages wrote into `wishes.output`, and nothing else.

    Raises:
        ConfigError: see `stored_plan`; nothing is removed then.
    """
    output = Path(wishes.output)
    if stored_plan(wishes):
        for name in (*RUNS, DATA, REPORT, MODEL, FOLDER, FINISHED, CONSOLE, PLAN):
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
        "next": f"d2kd predict {plan.output / 'distilled'} FOLDER_OF_PHOTOS",
    }


def _output(words: List[str]) -> str:
    return words[words.index("--output") + 1]


def _ap(run: Path) -> float | None:
    best = read_best(run)
    if best and best["metric"] == "bbox/AP":
        return round(best["value"], 2)
    value = read_run(run, run.name).results.get("bbox/AP")
    return None if value is None else round(value, 2)
