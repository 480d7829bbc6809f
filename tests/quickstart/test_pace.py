"""The pace of the quick start."""

import pytest
import torch

from d2kd.engine.pace import Pace
from d2kd.errors import ConfigError
from d2kd.quickstart import pace
from d2kd.quickstart.pace import LIMITS, MAX_RATIO, Mode, measure_pace, possible_modes


def test_the_steps_are_bounded():
    assert Pace(0.2, 9.0, limits=LIMITS).matched_steps(800) == 800 * MAX_RATIO
    assert Pace(0.2, 0.7, limits=LIMITS).matched_steps(800) == 800
    assert Pace(0.2, 1.0, limits=LIMITS).matched_steps(1) == 1
    assert str(Pace(0.2, 9.0, limits=LIMITS)).endswith("9.00 plain ones, of which 2.50 count")


@pytest.mark.parametrize(
    ("cores", "threads", "ahead"), [(1, 1, 0), (2, 1, 1), (2, 2, 1), (4, 4, 2), (32, 8, 8)]
)
def test_student_and_teacher_share_the_cores(monkeypatch, cores, threads, ahead):
    monkeypatch.setattr(pace, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert possible_modes() == [Mode(), *([Mode(1, ahead)] if ahead else [])]


def test_the_fastest_mode_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "possible_modes", lambda: [Mode(), Mode(1, 1), Mode(2, 1)])
    measured = {0: 1.9, 1: 1.4, 2: 1.5}
    monkeypatch.setattr(pace, "_measure", lambda _, turns, mode: Pace(0.2, measured[mode.ahead]))
    assert measure_pace(tmp_path, 2) == (Pace(0.2, 1.4), Mode(1, 1, tried=True))
    assert "measured to be the fastest way" in str(Mode(1, 1, tried=True))


def test_a_mode_that_cannot_run_is_left_out(monkeypatch, tmp_path):
    def measure(_, turns, mode):
        if mode.ahead:
            raise ConfigError("no processes here")
        return Pace(0.2, 1.9)

    monkeypatch.setattr(pace, "possible_modes", lambda: [Mode(), Mode(1, 1)])
    monkeypatch.setattr(pace, "_measure", measure)
    assert measure_pace(tmp_path, 2) == (Pace(0.2, 1.9), Mode())
    assert str(Mode()) == "in the student's step"
