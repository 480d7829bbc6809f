"""Running a plan: one process for each stage; what is finished is not run again."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import yaml

from ..engine.run_folder import holds_run
from ..errors import ConfigError
from ..file_io import read_json, read_yaml, write_atomically
from .plan import Plan

FINISHED = "finished.yaml"  # stage -> its command and seconds
CONSOLE = "console.txt"


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
        say(f"{head}: {' '.join(words)}")
        start = time.monotonic()
        if code := _run(plan, name, words, quiet):
            where = f", see {plan.output / CONSOLE}" if quiet else ""
            raise ConfigError(f"{name} ended with exit code {code}{where}; what it needs mended, "
                              "type the same command again to go on.")  # fmt: skip
        finished[name] = {"command": words, "seconds": round(time.monotonic() - start)}
        _write(plan.output / FINISHED, finished)


def _run(plan: Plan, name: str, words: List[str], quiet: bool) -> int:
    goes_on = words[1] == "train" and holds_run(plan.output / name)
    command = [sys.executable, "-m", *words[:3], *["--resume"] * goes_on, *words[3:]]
    if not quiet:
        return subprocess.run(command, check=False).returncode
    with open(plan.output / CONSOLE, "a", encoding="utf-8") as file:
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode


def _write(file: Path, data: Dict[str, Any]) -> None:
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=200)
    write_atomically(file, lambda path: path.write_text(text, "utf-8"))


def _finished(plan: Plan) -> Dict[str, Any]:
    file = plan.output / FINISHED
    data = read_yaml(file) if file.is_file() else {}
    return data if isinstance(data, dict) else {}


def summary(plan: Plan) -> Dict[str, Any]:
    """What came out: AP of each run, files, seconds, and what to type next."""
    runs = [name for name in ("teacher", "plain", "distilled") if name in plan.stages]
    ap = {name: _ap(plan.output / name / "results.json") for name in runs}
    files = {"report": "report.html", "export": "student.onnx"}
    seconds = sum(x.get("seconds", 0) for x in _finished(plan).values())
    return {
        "AP": ap,
        "files": {k: str(plan.output / x) for k, x in files.items() if k in plan.stages},
        "student": str(plan.output / "distilled"),
        "minutes": round(seconds / 60, 1),
        "next": f"d2kd predict {plan.output / 'distilled'} FOLDER_OF_PHOTOS",
    }


def _ap(file: Path) -> float | None:
    results = read_json(file) if os.path.isfile(file) else {}
    value = results.get("results", {}).get("bbox", {}).get("AP")
    return round(value, 2) if isinstance(value, (int, float)) else None
