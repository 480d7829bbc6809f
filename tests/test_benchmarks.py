"""The benchmark of the losses runs to its end, where it has compared every value and gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_losses(tmp_path):
    sizes = ["--size", "64", "96", "--proposals", "32", "--masks", "4", "--rounds", "1"]
    output = tmp_path / "losses.json"
    command = [sys.executable, "benchmarks/bm_losses.py", *sizes, "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    assert len(results) > 20
    assert all(row["times faster"] > 0 for row in results.values())
