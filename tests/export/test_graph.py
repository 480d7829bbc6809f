"""The exported steps, in PyTorch, against the stock inference."""

import copy

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from d2kd.errors import ConfigError
from d2kd.export import Options
from d2kd.export.graph import AllBoxes, Detections, classwise_nms
from d2kd.export.kinds import prepare
from tests.export.conftest import VARIANTS, lively
from tests.helpers import detector

SIZE = (96, 160)
EXACT = {"rtol": 0, "atol": 0}


def noise(seed=1, size=SIZE):
    return torch.randint(256, (1, 3, *size), generator=torch.Generator().manual_seed(seed)).float()


def same_detections(model, image, size=SIZE):
    with torch.no_grad():
        stock = model([{"image": image[0]}])[0]["instances"]
        boxes, scores, classes = Detections(model, Options(size, "BGR"))(image)
    order = scores.argsort(descending=True, stable=True)
    expected = stock.scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(scores[order], stock.scores[expected], rtol=0, atol=1e-7)
    torch.testing.assert_close(boxes[order], stock.pred_boxes.tensor[expected], **EXACT)
    torch.testing.assert_close(classes[order], stock.pred_classes[expected], **EXACT)
    return len(stock)


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_those_of_the_stock_inference(variant):
    model = lively(variant, levels=2)
    model.test_score_thresh = 0.02
    found = [same_detections(model, noise(seed)) for seed in range(3)]
    assert min(found) > 10


@pytest.mark.parametrize("variant", ["RetinaNet", "ATSS", "FCOS scaled"])
def test_more_candidates_than_topk_and_than_torchvision_moves_apart(variant):
    model = lively(variant, levels=2)
    model.test_score_thresh, model.max_detections_per_image = 1e-4, 3000
    assert same_detections(model, noise(size=(256, 320)), (256, 320)) > 300
    model.test_topk_candidates, model.max_detections_per_image = 40, 12
    assert 0 < same_detections(model, noise(size=(256, 320)), (256, 320)) <= 12


@pytest.mark.parametrize("variant", ["RetinaNet", "FCOS", "GFLv2"])
def test_all_boxes_become_the_stock_detections_by_threshold_nms_and_clipping(variant):
    model = lively(variant, levels=2)
    model.test_topk_candidates = model.max_detections_per_image = 100_000
    model.test_score_thresh = 0.3
    with torch.no_grad():
        stock = model([{"image": noise()[0]}])[0]["instances"]
        boxes, scores = AllBoxes(model, Options(SIZE, "BGR"))(noise())
    assert boxes.shape == (len(scores), 4) and scores.shape[1] == 3
    cell, classes = (scores > 0.3).nonzero(as_tuple=True)
    keep = batched_nms(boxes[cell], scores[cell, classes], classes, model.test_nms_thresh)
    kept = clip_boxes_to_image(boxes[cell][keep], SIZE)
    there = (kept[:, 2:] > kept[:, :2]).all(1)
    assert len(stock) > 20
    torch.testing.assert_close(kept[there], stock.pred_boxes.tensor, **EXACT)
    torch.testing.assert_close(classes[keep][there], stock.pred_classes, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_detection_is_an_empty_result(variant):
    model = lively(variant, levels=2)
    model.test_score_thresh = 1.0
    with torch.no_grad():
        boxes, scores, classes = Detections(model, Options(SIZE, "BGR"))(noise())
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)


def test_nms_suppresses_within_a_class_only():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores, classes = torch.tensor([0.5, 0.9, 0.8, 0.1]), torch.tensor([0, 0, 1, 0])
    one = torch.zeros(4, dtype=torch.long)
    assert classwise_nms(boxes, scores, classes, 0.5, one).tolist() == [1, 2, 3]
    assert classwise_nms(boxes, scores, classes, 0.95, one).tolist() == [1, 2, 0, 3]
    empty = boxes[:0], scores[:0], classes[:0]
    assert classwise_nms(*empty, 0.5, one[:0]).tolist() == []


def test_the_detector_is_copied_and_not_changed():
    model = lively("GFL").train()
    before = copy.deepcopy(model.state_dict())
    made = prepare(model, Options(SIZE, "BGR", score_threshold=0.3, topk=7))
    assert made.test_score_thresh == 0.3 and made.test_topk_candidates == 7
    assert model.test_score_thresh == 0.05 and model.test_topk_candidates == 1000
    assert model.training and not made.training
    torch.testing.assert_close(model.state_dict(), before, **EXACT)


class Averaging(RetinaNet):
    def forward_inference(self, images, features, predictions):
        return super().forward_inference(images, features, predictions)


class Repeating(GeneralizedRCNN):
    def inference(self, *args, **keys):
        return super().inference(*args, **keys)


class Renamed(RetinaNet):
    pass


def test_detectors_with_an_inference_of_their_own_are_refused():
    model = lively("RetinaNet")
    model.__class__ = Renamed
    assert same_detections(model, noise()) > 10
    model.__class__ = Averaging
    regions = detector("GeneralizedRCNN")
    regions.__class__ = Repeating
    for refused in (model, regions, nn.Linear(1, 1)):
        with pytest.raises(ConfigError) as error:
            prepare(refused, Options(SIZE, "BGR"))
        assert type(refused).__name__ in str(error.value)
        assert "GFL, RepPoints and GeneralizedRCNN can" in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": (100, 160)}, "pads such images to (128, 160)"),
        ({"size": (0, 160)}, "size must be height and width"),
        ({"size": (96.5, 160)}, "size must be height and width"),
        ({"input_format": "HSV"}, "unknown 'HSV'"),
        ({"class_names": ["a", "b"]}, "2 names, but the detector 3 classes"),
        ({"score_threshold": 1.5}, "score_threshold must be from 0 to 1, not 1.5"),
        ({"nms_threshold": -0.1}, "nms_threshold must be from 0 to 1"),
        ({"topk": 0}, "topk must be at least 1"),
        ({"max_detections": 0}, "max_detections must be at least 1"),
        ({"masks": "pasted"}, "masks='pasted' is for Mask R-CNN; this RetinaNet has no masks"),
    ],
)
def test_options_that_cannot_work_are_named(options, message):
    with pytest.raises(ConfigError) as error:
        prepare(lively("RetinaNet"), Options(**{"size": SIZE, "input_format": "BGR", **options}))
    assert message in str(error.value)
