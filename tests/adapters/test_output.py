"""Fields of an output: there once set, an error that names them before."""

import copy

import pytest
import torch

from d2kd import DetectorOutput, build_adapter
from d2kd.adapters import DenseMaps
from d2kd.heads import RoIKD
from d2kd.testing import make_batch
from tests.helpers import detector, pair

FIELDS = {
    "labels": "labels",
    "matched_boxes": "matched_boxes",
    "num_pos": "labels",
    "proposals": "proposals",
    "rpn": "rpn",
    "masks": "masks",
}


def empty(**fields):
    return DetectorOutput(images=None, adapter=None, features={}, **fields)


@pytest.mark.parametrize(("name", "required"), FIELDS.items())
def test_a_field_that_was_not_computed_names_itself_and_what_it_takes(name, required):
    output = empty()
    assert not hasattr(output, name)
    message = f"DetectorOutput.{name} was not computed.*'{required}' in `requires`"
    with pytest.raises(AttributeError, match=message):
        getattr(output, name)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_there_once_set_until_it_is_none(name):
    value = torch.zeros(2)
    output = empty(**{name: value})
    assert hasattr(output, name) and getattr(output, name) is value
    setattr(output, name, None)
    assert not hasattr(output, name)
    assert not hasattr(empty(), name)  # outputs share nothing


def test_a_copy_with_other_maps_leaves_the_first_as_it_is():
    labels = torch.zeros(1, 4)
    first = empty(labels=labels, logits={8: labels})
    second = copy.copy(first)
    second.logits, second.num_pos = {}, torch.tensor(1.0)
    assert second.labels is labels and not second.logits
    assert set(first.logits) == {8} and not hasattr(first, "num_pos")


def test_rpn_maps_of_a_teacher_have_no_labels():
    with pytest.raises(AttributeError, match="DenseMaps.labels was not computed"):
        DenseMaps(logits={}, deltas={}).labels  # noqa: B018


def test_a_head_that_reads_more_than_it_requires_is_told_so(event_storage, monkeypatch):
    _, model = pair("GeneralizedRCNN", ("RoIKD",))

    def forward(self, student, teacher):
        return {"mask": student.masks.logits.sum()}

    monkeypatch.setattr(RoIKD, "forward", forward)
    with pytest.raises(AttributeError, match="'masks' in `requires`"):
        model(make_batch())


def test_roi_heads_that_cannot_be_replayed_run_as_they_are(event_storage):
    keys = {"MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES": True}
    adapter, batch = build_adapter(detector("GeneralizedRCNN", **keys).train()), make_batch()
    assert "roi" not in adapter.provides
    gt = [x["instances"] for x in batch]
    output = adapter(adapter.preprocess(batch, 32), gt, frozenset({"features", "roi"}))
    assert output.roi == [] and "loss_cls" in output.losses
