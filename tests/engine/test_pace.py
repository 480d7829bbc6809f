"""The pace of plain and distilled steps beside other jobs, on a clock of the test's own."""

import random

import pytest

from d2kd.engine import pace
from d2kd.engine.hooks.balance import GradientBalance
from d2kd.engine.pace import STEPS, TURNS, Pace, measure_pace, take_turns
from tests.engine.hooks.test_exact_resume import config

PLAIN, RATIO = 0.18, 1.9  # seconds, and plain steps in a distilled one
QUIET = round(800 * RATIO)
WHOLE = STEPS * PLAIN * (TURNS * (1 + RATIO) + 1)  # seconds of an undisturbed measurement


class Machine:
    """A clock, and jobs that take their time times how busy the machine is then."""

    def __init__(self, slowness):
        self.now, self.slowness = 0.0, slowness

    def job(self, seconds):
        def work():
            for _ in range(100):
                self.now += STEPS * seconds / 100 * self.slowness(self.now)

        return work

    def pace(self):
        return take_turns(self.job(PLAIN), self.job(PLAIN * RATIO), clock=lambda: self.now)


def noise(now, seed=0):
    """Another job for about a third of the time, in spells of a quarter of a second to a few."""
    draw = random.Random(seed)
    end, busy = 0.0, False
    while end <= now:
        busy = not busy
        end += draw.expovariate(1.0 if busy else 0.5)
    return 3.0 if busy else 1.0


@pytest.mark.parametrize(
    "slowness",
    [
        pytest.param(lambda now: 1, id="quiet"),
        pytest.param(lambda now: 15, id="busy throughout"),
        pytest.param(lambda now: 4 if now < WHOLE / 2 else 1, id="busy at first"),
        pytest.param(lambda now: 15 if now > WHOLE / 3 else 1, id="busy later"),
        pytest.param(lambda now: 8 if WHOLE / 4 < now < WHOLE / 2 else 1, id="a spell"),
        pytest.param(lambda now: 1 + now / WHOLE, id="busier and busier"),
    ],
)
def test_other_jobs_do_not_change_the_matched_steps(slowness):
    assert Machine(slowness).pace().matched_steps(800) == pytest.approx(QUIET, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_jobs_that_come_and_go(seed):
    """Spells about as long as a turn are the worst; timed apart, a job would triple the steps."""
    steps = Machine(lambda now: noise(now, seed)).pace().matched_steps(800)
    assert steps == pytest.approx(QUIET, rel=0.1)


def test_the_pace_of_a_plain_step():
    pace = Machine(lambda now: 1).pace()
    assert pace.plain == pytest.approx(PLAIN) and pace.turns == TURNS
    assert str(pace) == "a distilled step takes the time of 1.90 plain ones"


def test_the_steps_of_the_same_time():
    assert Pace(0.2, 9.0).matched_steps(800) == 7200 and Pace(0.2, 0.7).matched_steps(800) == 560
    assert Pace(0.2, 0.1).matched_steps(1) == 1


def test_what_is_measured_again_and_again_is_timed(tmp_path, squares, monkeypatch):
    """A turn has as many steps as the shares' period; the first measurements are not in it."""
    keys = {"DISTILL__BALANCE__SHARES": (0.3, 0.1), "DISTILL__BALANCE__STEPS": 2}
    name = "RetinaNet, PKD and BCKD"
    cfg = config(name, tmp_path, squares, "run", DISTILL__BALANCE__PERIOD=4, **keys)
    cfg.DISTILL.TEACHER.CACHE_DIR = str(tmp_path / "cache")
    plain = config("RetinaNet", tmp_path, squares, "plain")
    measured, timed = [], []
    measure, take = GradientBalance.measure, pace.take_turns

    def counted(hook, *args):
        measured.append(hook.trainer.iter)
        measure(hook, *args)

    def turns(first, second, count, steps, between):
        timed.append((len(measured), steps, count))
        return take(first, second, count, steps=steps, between=between)

    monkeypatch.setattr(GradientBalance, "measure", counted)
    monkeypatch.setattr(pace, "take_turns", turns)
    found = measure_pace(plain, cfg, turns=2)
    ((before, steps, count),) = timed
    assert before >= 2 and (steps, count) == (4, 3) and found.turns == 3
    assert len(measured) == before + count and not list(tmp_path.glob("run/*"))
    assert not (tmp_path / "cache").exists()
