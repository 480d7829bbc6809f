"""The ten minutes on a GPU, rehearsed on the CPU, and what becomes of a section that fails."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from tests.faults.conftest import FULL

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REHEARSED = ["device", "precision", "waits", "tax", "teacher"]
LONGER = ["distillation", "export", "ranks"]  # commands of their own


@pytest.fixture(scope="module")
def gpu_check():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu_check

        yield gpu_check
    for name in ("gpu_check", "timing"):
        sys.modules.pop(name)


def test_rehearsal(gpu_check, tmp_path, quick_starts):
    """Of one method; what takes minutes in `make test-faults`, tests and compilers never."""
    sections = REHEARSED + LONGER * FULL
    words = ["--device", "cpu", "--methods", "PKD", "--output", str(tmp_path)]
    gpu_check.main([*words, "--sections", *sections])
    found = json.loads((tmp_path / "report.json").read_text())
    assert found.pop("about")["GPUs"] == "0" and set(found) == set(sections)
    for name, section in found.items():
        assert not section["problem"], (name, section)
        assert section["rows"] and not any("error" in row for row in section["rows"]), section
    assert found["device"]["rows"][0]["losses"].startswith("0 (")
    assert {row[""] for row in found["precision"]["rows"]} == {"PKD, fp16", "PKD, bf16"}
    report = (tmp_path / "report.md").read_text()
    assert "| PKD" in report and "failed" not in report and "this shows that it runs" in report
    assert {x.name for x in tmp_path.iterdir()} == {"report.md", "report.json"}


def test_a_section_that_fails_is_in_the_report(gpu_check, tmp_path, quick_starts):
    args = Namespace(device="cpu", methods=["NoMethod"], output=tmp_path)
    failed = gpu_check.run("waits", 60, args)
    assert failed["problem"].startswith("It ended with exit code 2: ") and not failed["rows"]
    stopped = gpu_check.run("device", 0.01, Namespace(**{**vars(args), "methods": None}))
    assert stopped["problem"].startswith("It was stopped after 0 seconds")
    rows = [{"": "PKD", "losses": "0"}, {"": "CWD", "error": "RuntimeError: no"}]
    one = {"rows": rows, "problem": "", "seconds": 1.0}
    gpu_check.write(tmp_path, {}, {"waits": failed, "device": one}, tiny=True)
    report = (tmp_path / "report.md").read_text()
    assert failed["problem"] in report and report.count("1 of its rows failed") == 1
    assert "RuntimeError: no" in report and "| PKD" in report


def test_without_a_gpu_it_says_how_to_rehearse(gpu_check, tmp_path):
    with pytest.raises(SystemExit, match="No GPU is found: --device cpu rehearses"):
        gpu_check.main(["--output", str(tmp_path)])
