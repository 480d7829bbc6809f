"""A stage as a fork: what it has of `python -m`, and when it ends."""

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest

from d2kd.reproduce import forks
from d2kd.reproduce.forks import start_fork
from d2kd.study.trainings import start_python
from tests.ranks import CLEAN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks of Linux")
SHOWN = """
import json, multiprocessing, os, sys
print(json.dumps({
    "argv": sys.argv, "folder": os.getcwd(), "path": sys.path[0], "name": __name__,
    "environment": dict(os.environ), "method": multiprocessing.get_start_method(allow_none=True),
}))
print("a new Python" if "torch" not in sys.modules else sys.modules["torch"].get_num_threads())
sys.exit(int(sys.argv[1]) if sys.argv[1:] else "said")
"""


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Start a module that shows itself: exit code, what it shows, "a new Python", the rest."""
    (tmp_path / "shown.py").write_text(SHOWN)
    monkeypatch.chdir(tmp_path)
    ensure_running()  # the server of all tests, with their imports

    def run(start, *words, **variables):
        console = tmp_path / "console.txt"
        console.unlink(missing_ok=True)
        code = start(["shown", *words], console, {**os.environ, **variables}, -1)
        first, second, *rest = sorted(console.read_text().splitlines(), key=lambda x: x == "said")
        return code, json.loads(first), second, rest

    return run


@pytest.mark.parametrize("words", [["3", "--x"], ["0"], []])
def test_it_is_as_a_python_of_its_own(shown, words):
    """But for its imports: words, folder, variables, start method, exit code, what it prints."""
    fork, own = (shown(start, *words, D2KD_X="1") for start in (start_fork, start_python))
    assert own[1]["environment"]["D2KD_X"] == "1" and own[2] == "a new Python"
    assert fork[2].isdecimal() and (*fork[:2], fork[3]) == (*own[:2], own[3])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        assert fork[2] == threads


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "DETECTRON2_DATASETS"])
def test_what_imports_read_makes_it_a_python_of_its_own(shown, name):
    code, found, python, _ = shown(start_fork, "3", **{name: "7"})
    assert (code, python, found["environment"][name]) == (3, "a new Python", "7")


def test_the_callers_start_method_stays_open(shown):
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    try:
        assert shown(start_fork, "0")[0] == 0
        assert multiprocessing.get_start_method(allow_none=True) is None
    finally:
        multiprocessing.set_start_method(method, force=True)


def test_it_ends_with_who_started_it(tmp_path, monkeypatch):
    """Even by SIGKILL, which lets go of the lock."""
    (tmp_path / "sleeps.py").write_text(
        "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    )
    monkeypatch.chdir(tmp_path)
    console = tmp_path / "console.txt"
    console.touch()
    starter = CLEAN.Process(target=begin, args=["sleeps", str(console)])
    starter.start()
    assert wait_for(lambda: console.read_text().endswith("\n"))
    command = Path(f"/proc/{int(console.read_text())}/cmdline")  # empty once it has ended
    assert command.read_text()
    starter.kill()
    assert wait_for(lambda: not command.is_file() or not command.read_text())


def begin(word, console):
    """As `start_fork` does, with no server of its own."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=forks._run, args=([word], console, dict(os.environ)))
    process.start()
    process.join()


def wait_for(condition):
    until = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found
