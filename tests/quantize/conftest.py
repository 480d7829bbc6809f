"""Tiny quantized detectors."""

import pytest
from detectron2.config import CfgNode

from d2kd.quantize import quantize_student, set_rounding


def config(*left, on=True):
    return CfgNode({"QUANTIZE": {"ENABLED": on, "START": 0, "FLOAT": left}})


@pytest.fixture
def quantized():
    """A detector changed in place: with layers that round, all but the parts that are named."""

    def change(detector, *left, rounds=True):
        quantize_student(detector, config(*left))
        set_rounding(detector, rounds)
        return detector

    return change
