"""Hostile configs, data, weights and run folders: no code, program, address or file elsewhere.

One process runs every command on them under `tests/faults/watch.py`. A new way in, also one that a
new version of a dependency brings, is an event that fails the test.
"""

import json
import os
import subprocess
import sys

import matplotlib
import pytest

from tests.conftest import ROOT

GOES_ON = {"offline names", "train, names"}


@pytest.fixture(scope="module")
def report(tmp_path_factory, squares):
    folder, outside = (tmp_path_factory.mktemp(name) for name in ("hostile", "outside"))
    places = {"HOME": folder, "TMPDIR": folder, "FVCORE_CACHE": folder / "cache",
              "OUTSIDE": outside, "MPLCONFIGDIR": matplotlib.get_cachedir()}  # fmt: skip
    env = {**os.environ, **{key: str(value) for key, value in places.items()},
           "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.faults.every_command",
        str(folder),
        squares,
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder / "RAN").exists()
    return json.loads(done.stdout.splitlines()[-1])


def test_each_event_is_seen_when_it_is_caused(report):
    assert report["silent"] == []


def test_no_hostile_input_causes_one(report):
    found = {name: events for name, (_, _, events) in report["cases"].items() if events}
    assert not found, json.dumps(found, indent=1)


def test_each_is_refused_in_one_line(report):
    for name, (code, output, _) in report["cases"].items():
        assert (code == 0) == (name in GOES_ON), (name, code, output)
        assert "Traceback" not in output and "Unexpected" not in output, (name, output)
