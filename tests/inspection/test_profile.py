"""`d2kd train --profile` says what the parts of a step take, and leaves a trace alone."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from d2kd.inspection.profile import PROFILED, format_profile, part_times
from tests.helpers import d2kd, detector, write_config

PARTS = ["data", "student", "teachers", "heads", "backward", "optimizer", "hooks", "rest", "step"]


@pytest.fixture
def place(tmp_path, squares, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=7).state_dict()
    torch.save({"model": weights}, "tea.pth")
    write_config(tmp_path / "t", squares)
    write_config(tmp_path / "s", squares, SOLVER__CHECKPOINT_PERIOD=1, TEST__EVAL_PERIOD=2,
                 SOLVER__BEST_METRIC="bbox/AP")  # fmt: skip
    return tmp_path


def table(output):
    rows = re.findall(r"^(\w[\w ]*?) +([\d.]+) +(-?\d+)%$", output, re.M)
    return {name: float(ms) for name, ms, _ in rows}


def test_a_distilled_step(place, caplog):
    """The shares of the gradient, which are held by default, are measured while it warms up."""
    caplog.set_level(logging.INFO, "d2kd")
    distil = ["--teacher", "t/plain.yaml", "--teacher-weights", "tea.pth", "--distill", "PKD"]
    done = d2kd("train", "s/plain.yaml", *distil, "--profile", "--output", "out")
    assert done.exit_code == 0, done.output
    assert "Balanced weights" in caplog.text
    times = table(done.output)
    assert list(times) == PARTS
    assert all(times[name] > 0 for name in PARTS if name != "rest"), times
    assert sum(times[name] for name in PARTS[:-1]) == pytest.approx(times["step"], abs=0.05)
    assert 0 <= times["rest"] < 0.5 * times["step"]
    assert [x.name for x in (place / "out").iterdir()] == ["profile.json"]
    names = [
        x.get("name") for x in json.loads((place / "out/profile.json").read_text())["traceEvents"]
    ]
    for name in ("d2kd.student", "d2kd.teachers", "d2kd.heads"):
        assert names.count(name) == PROFILED
    again = d2kd("train", "s/plain.yaml", "--profile", "--output", "out")
    assert again.exit_code and "profile.json exists: delete it" in again.output


def test_a_plain_step(place):
    done = d2kd("train", "s/plain.yaml", "--profile", "--output", "out")
    assert list(table(done.output)) == ["data", "backward", "optimizer", "hooks",
                                        "student and rest", "step"]  # fmt: skip


@pytest.mark.parametrize("option", ["--resume", "--num-gpus 2"])
def test_what_it_is_not_for(place, option):
    done = d2kd("train", "s/plain.yaml", "--profile", "--output", "out", *option.split())
    assert done.exit_code and "--profile is of a new run on one rank" in done.output
    assert not (place / "out").exists()


def event(name, host, on_gpu=0.0, parent=None, device=DeviceType.CPU):
    return SimpleNamespace(name=name, cpu_time_total=host, device_time_total=on_gpu,
                           cpu_parent=parent, device_type=device)  # fmt: skip


def test_an_event_counts_once():
    """A part inside another is the outer one's; the GPU's copies of ranges do not count."""
    step = event("ProfilerStep#3", 10_000 * PROFILED, 8_000 * PROFILED)
    student = event("d2kd.student", 4_000 * PROFILED, 5_000 * PROFILED, step)
    events = [
        step, student,
        event("autograd::engine::evaluate_function: Mul", 1_000, 0, event("x", 0, 0, student)),
        event("autograd::engine::evaluate_function: Mul", 2_000 * PROFILED, 1_000 * PROFILED),
        event("d2kd.student", 9e9, 9e9, None, DeviceType.CUDA), event("aten::mul", 9e9),
    ]  # fmt: skip
    times = part_times(events)
    assert times == {"step": (10, 8), "student": (4, 5), "backward": (2, 1)}
    lines = [x.split() for x in format_profile(times).splitlines()[3:]]
    assert lines == [
        ["student", "4.00", "40%", "5.00"],
        ["backward", "2.00", "20%", "1.00"],
        ["rest", "4.00", "40%", "2.00"],
        ["step", "10.00", "100%", "8.00"],
    ]
