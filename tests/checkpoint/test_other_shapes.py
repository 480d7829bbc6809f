"""Weights of a detector of other classes or width go where they fit, with and without a teacher."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from d2kd.checkpoint import SafeCheckpointer
from d2kd.errors import ConfigError
from tests.helpers import clone, detector, pair

OTHERS = {
    "classes": {"MODEL__RETINANET__NUM_CLASSES": 7},
    "convolutions": {"MODEL__RETINANET__NUM_CONVS": 1},
    "anchors": {"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
}


def same(state, other):
    """Names of tensors that are equal in both."""
    return {k for k, v in state.items() if k in other and torch.equal(v, other[k])}


@pytest.mark.parametrize("wrapper", [lambda model: model, nn.DataParallel])
@pytest.mark.parametrize("checkpointer", [SafeCheckpointer, DetectionCheckpointer])
@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_a_distilled_student_takes_what_a_plain_one_takes(
    tmp_path, caplog, other, checkpointer, wrapper
):
    source = detector(seed=9, **other).state_dict()
    torch.save({"model": source}, tmp_path / "x.pth")
    student, distiller = pair()
    plain = clone(student)
    taken, warned = [], []
    for model in (plain, distiller):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            checkpointer(wrapper(model)).load(str(tmp_path / "x.pth"), checkpointables=[])
        taken.append(same(model.state_dict(), source))
        warned.append([x.getMessage() for x in caplog.records])
    assert taken[0] == taken[1] and warned[0] == warned[1]
    skipped = {
        k for k, v in student.state_dict().items() if k in source and v.shape != source[k].shape
    }
    assert taken[1] == {k for k in student.state_dict() if k in source} - skipped
    for name in skipped:
        assert any(name in message for message in warned[1]), name


def test_names_of_the_state_dict_lead_to_the_students_modules():
    student, distiller = pair()
    for name in student.state_dict():
        module, _, tensor = name.rpartition(".")
        assert getattr(distiller.get_submodule(module), tensor) is not None
    assert distiller.backbone is student.backbone
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        distiller.nonsense  # noqa: B018


STATES = {
    "projection": ("distillation", {"PKD.nothing": torch.ones(1)}, "it cannot be loaded: "),
    "not a state": ("distillation", 3, "it cannot be loaded: "),
    "momentum": (
        "distillation",
        {"a": [{3: torch.tensor(torch.nan)}]},
        r"NaN or infinite values: distillation.a.0.3",
    ),
}


@pytest.mark.parametrize("case", list(STATES))
def test_a_state_beside_the_weights_that_is_damaged_is_one_line(tmp_path, case):
    key, state, match = STATES[case]
    _, model = pair()
    path = tmp_path / "x.pth"
    torch.save({"model": model.state_dict(), key: state}, path)
    with pytest.raises(ConfigError, match=f"{path}: .*({match})") as info:
        SafeCheckpointer(model, distillation=model.heads).load(str(path))
    assert "\n" not in str(info.value)
