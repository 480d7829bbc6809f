"""The pace of the quick start."""

from d2kd.engine.pace import Pace
from d2kd.quickstart.pace import LIMITS, MAX_RATIO


def test_the_steps_are_bounded():
    assert Pace(0.2, 9.0, limits=LIMITS).matched_steps(800) == 800 * MAX_RATIO
    assert Pace(0.2, 0.7, limits=LIMITS).matched_steps(800) == 800
    assert Pace(0.2, 1.0, limits=LIMITS).matched_steps(1) == 1
    assert str(Pace(0.2, 9.0, limits=LIMITS)).endswith("9.00 plain ones, of which 2.50 count")
