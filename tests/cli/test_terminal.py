"""What `d2kd train` and `d2kd eval` show on a terminal, in a file, quiet and as json."""

import json
import os
import pty
import re
import subprocess
from argparse import Namespace

import pytest

from d2kd.cli.closing import close_training
from tests.helpers import d2kd, write_config

DUMPS = "Environment info", "Running with full config", "Command line arguments"


@pytest.fixture(scope="module")
def place(tmp_path_factory, squares):
    """A config and its run, `plain`, with what was printed."""
    at = tmp_path_factory.mktemp("terminal")
    keys = {"TEST__EVAL_PERIOD": 6, "SOLVER__BEST_METRIC": "bbox/AP", "SOLVER__MAX_ITER": 6}
    write_config(at / "c", squares, **keys).rename(at / "base.yaml")
    return at, d2kd("train", at / "base.yaml", "--output", at / "plain")


def test_lines_of_a_file_have_no_colours_and_no_dumps(place):
    at, done = place
    log = (at / "plain" / "log.txt").read_text()
    assert done.exit_code == 0 and "\x1b" not in done.output and "\r" not in done.output
    assert all(x in log and x not in done.output for x in DUMPS)
    assert "\x1b" not in log and r"\x1b" not in log and "\nVERSION: 2\n" in log
    assert re.search(r"6/6 100 % .* task \d", done.output) and "6/6 100 %" in log
    assert done.output.splitlines()[-1] == f"next: d2kd predict {at / 'plain'} FOLDER_OF_PHOTOS"


def in_terminal(python, *words):
    """What a terminal of 120 columns gets from the command."""
    terminal, its_end = pty.openpty()
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
    command = [python, "-W", "ignore", "-m", "d2kd", *map(str, words)]
    child = subprocess.Popen(command, env={**os.environ, "COLUMNS": "120"}, **ends)
    os.close(its_end)
    shown = b""
    try:
        while chunk := os.read(terminal, 2**16):
            shown += chunk
    except OSError:  # its end, on Linux
        pass
    assert child.wait() == 0, shown.decode()
    return shown.decode()


def test_a_terminal_has_one_live_line_and_warnings(place, fresh_logging, warm_python):
    at, _ = place
    (at / "mine.py").write_text("import d2kd.testing\n")
    shown = in_terminal(warm_python, "train", at / "base.yaml", "--import", at / "mine.py",
                        "--output", at / "live")  # fmt: skip
    lines = shown.replace("\r\n", "\n").split("\n")
    live = [x for x in re.split(r"[\r\n]", shown) if "task 0." in x]
    assert "1/6 16 %" in live[0] and "6/6 100 %" in live[-1] and all(len(x) < 120 for x in live)
    assert "WARNING: DATASETS.TEST" in shown and "detectron2" not in shown
    assert "6/6 100 %" in (at / "live" / "log.txt").read_text() and len(lines) < 12


def test_an_evaluation_as_json_and_quiet(place):
    at, _ = place
    done = d2kd("eval", at / "plain", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["file"] == str(at / "plain" / "eval" / "results.json")
    assert "AP" in found and "DATASETS.TEST" in done.stderr and "weights: " in done.stderr
    done = d2kd("eval", at / "plain", "--quiet", "--output", at / "eval2")
    lines = [x for x in done.output.splitlines() if "WARNING" not in x]
    assert len(lines) == 2 and lines[1].endswith(f"written to {at / 'eval2' / 'results.json'}")


def test_the_result_of_a_training_compares_with_the_plain_run(place, capsys):
    at, _ = place
    words = ["--teacher", at / "plain", "--distill", "PKD", "--output", at / "distilled", "--json"]
    done = d2kd("train", at / "base.yaml", *words)
    assert done.exit_code == 0 and json.loads(done.stdout)["run"] == str(at / "distilled")
    for name, ap in (("plain", 30.0), ("distilled", 31.5)):
        path = at / name / "results.json"
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "results": {"bbox": {"AP": ap}}}))
    best = {"metric": "bbox/AP", "value": 32.0, "iteration": 5}
    (at / "distilled" / "model_best.json").write_text(json.dumps(best))
    args = Namespace(config_file=str(at / "distilled"), opts=[], console="")
    close_training(args)
    plain, run = os.path.relpath(at / "plain"), at / "distilled"
    assert capsys.readouterr().out.splitlines() == [
        f"{run}: 6 steps, AP 31.50, +1.50 to the plain run {plain} (30.00)",
        f"best: {run / 'model_best.pth'} (bbox/AP 32.00 at step 6)",
        f"next: d2kd report {plain} {run}",
    ]
