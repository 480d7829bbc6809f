"""Faster, Mask and Cascade R-CNN as ONNX against the detectors that they were made of."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from PIL import Image

from d2kd.errors import ConfigError, RunError
from d2kd.export import check_export, export_onnx, export_pt2, fit_image, open_exported
from d2kd.export.check import Comparison, _judge
from d2kd.export.regions import paste
from tests.helpers import detector

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
run = pytest.importorskip("d2kd.export.device_bundle.run", reason="it needs onnxruntime")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

SIZE = {"size": (96, 160), "input_format": "BGR"}
CASCADE = {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
           "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}  # fmt: skip
KINDS = {"Faster": {"MODEL__MASK_ON": False}, "Mask": {}, "Cascade": CASCADE}


def lively(kind, noise=0.05):
    """A tiny detector whose random weights give scattered scores and tens of detections."""
    model = detector("GeneralizedRCNN", **KINDS[kind], MODEL__RPN__POST_NMS_TOPK_TEST=40).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=rng))
    return model


@pytest.fixture(scope="module")
def images():
    """Noise of the graph's shape: proposals where nothing is have equal scores, and no order."""
    return list(np.random.default_rng(0).integers(0, 256, (8, 96, 160, 3), np.uint8))


@pytest.mark.parametrize("kind, masks", [
    ("Faster", "raw"), ("Mask", "raw"), ("Mask", "pasted"), ("Cascade", "raw")])  # fmt: skip
def test_every_family(kind, masks, images, tmp_path):
    model, path = lively(kind), tmp_path / "model.onnx"
    export_onnx(model, path, **SIZE, masks=masks)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    found = check_export(path, model, images)
    assert found.images == 8 and found.detections > 80
    assert found.missing == found.added == 0 and found.mask_difference < 1e-3
    outputs = open_exported(path).run(np.full((1, 3, 96, 160), 99, np.float32))
    assert len(outputs) == (3 if kind == "Faster" else 4)
    if kind != "Faster":
        side, kept = (96, 160) if masks == "pasted" else (8, 8), len(outputs[0])
        assert outputs[3].shape == (kept, *side)
        assert outputs[3].dtype == (bool if masks == "pasted" else np.float32)


@pytest.mark.parametrize("masks", ["raw", "pasted"])
def test_no_detection_is_an_empty_result(masks, tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(lively("Mask"), path, **SIZE, masks=masks, score_threshold=1.0)
    outputs = open_exported(path).run(np.zeros((1, 3, 96, 160), np.float32))
    assert [len(x) for x in outputs] == [0] * 4 and outputs[0].shape == (0, 4)


@pytest.mark.parametrize("kind", ["Mask", "Cascade"])
def test_limits_are_those_asked_for_and_in_the_description(kind, images, tmp_path):
    model, path = lively(kind), tmp_path / "model.onnx"
    limits = {"score_threshold": 0.4, "nms_threshold": 0.2, "max_detections": 7}
    export_onnx(model, path, **SIZE, **limits)
    about = open_exported(path).description
    assert {name: about[name] for name in limits} == limits and "topk" not in about
    assert about["masks"] == "raw" and about["num_classes"] == 3
    assert 8 <= check_export(path, model, images).detections <= 8 * 7


def test_other_masks_are_noticed(images, tmp_path):
    model, path = lively("Mask"), tmp_path / "model.onnx"
    export_onnx(model, path, **SIZE)
    with torch.no_grad():
        model.roi_heads.mask_head.predictor.bias.add_(0.1)
    with pytest.raises(RunError, match="differs from the detector. .* masks by 0.02"):
        check_export(path, model, images)


def test_the_tolerance_of_masks_is_judged_alone(tmp_path):
    _judge(Comparison(1, 9, mask_difference=5e-4), tmp_path, 0.01, 1e-4)
    with pytest.raises(RunError):
        _judge(Comparison(1, 9, mask_difference=2e-3), tmp_path, 0.01, 1e-4)


def test_masks_are_pasted_as_detectron2_does():
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 8, 8, generator=rng)
    boxes = torch.rand(6, 4, generator=rng) * 30
    boxes[:, 2:] += boxes[:, :2] + 1
    boxes[0] = torch.tensor([0, 0, 64, 48.0])  # the whole image
    expected = paste_masks_in_image(masks, boxes, (48, 64))
    torch.testing.assert_close(paste(masks, boxes, (48, 64)), expected, rtol=0, atol=0)
    assert paste(masks[:0], boxes[:0], (48, 64)).shape == (0, 48, 64)


@pytest.mark.parametrize("masks, height, most", [("raw", 90, 1e-3), ("pasted", 72, 0.01)])
def test_the_program_of_a_bundle_has_masks(masks, height, most, images, tmp_path):
    model, path = lively("Mask"), tmp_path / "model.onnx"
    export_onnx(model, path, **SIZE, masks=masks)
    image = Image.fromarray(images[0]).resize((120, height), Image.Resampling.BILINEAR)
    boxes, scores, classes, drawn = run.detect(*run.load(path), image, 0.2)
    stock = _stock(model, image, open_exported(path).description)
    assert len(stock) == len(drawn) > 5 and classes.tolist() == stock.pred_classes.tolist()
    np.testing.assert_allclose(boxes, stock.pred_boxes.tensor, atol=0.02)
    np.testing.assert_allclose(scores, stock.scores, atol=1e-4)
    for mask, expected in zip(drawn, stock.pred_masks.numpy(), strict=True):
        assert mask.size == (120, height) and set(np.unique(mask)) <= {0, 255}
        assert (np.asarray(mask).astype(bool) != expected).mean() < most
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    drawing = "--draw", str(tmp_path / "drawn.png"), "--threshold", "0.2"
    run.main([str(tmp_path / "photo.png"), "--model", str(path), *drawing])
    assert (np.asarray(Image.open(tmp_path / "drawn.png")) != images[0]).mean() > 0.05


def _stock(model, image, about):
    """Detectron2's own detections, in px of an RGB image that is resized to fit."""
    pixels, scale = fit_image(np.asarray(image)[:, :, ::-1].copy(), about)
    with torch.no_grad():
        raw = model.inference([{"image": torch.from_numpy(pixels[0])}], do_postprocess=False)[0]
    size = [round(side * scale) for side in image.size[::-1]]  # without the padding
    found = detector_postprocess(Instances(size, **raw.get_fields()), *image.size[::-1])
    return found[found.scores >= 0.2]


def test_the_file_names_no_folder_of_this_machine(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(lively("Mask"), path, **SIZE)
    assert not [x for x in (b"/home", b"site-packages", b".py") if x in path.read_bytes()]


@pytest.mark.parametrize("kind, options, message", [
    ("Mask", {"nms": False}, "GeneralizedRCNN cannot be exported without NMS: it selects"),
    ("Mask", {"topk": 9}, "topk is for dense detectors; GeneralizedRCNN has proposals"),
    ("Faster", {"masks": "pasted"}, "masks='pasted' is for Mask R-CNN; this GeneralizedRCNN"),
    ("Mask", {"masks": "png"}, "masks: unknown 'png'"),
])  # fmt: skip
def test_options_that_cannot_work_are_named(kind, options, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        export_onnx(lively(kind), tmp_path / "x.onnx", **SIZE, **options)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_it_is_no_pt2_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be a .pt2 file.*end the name with .onnx"):
        export_pt2(lively("Faster"), tmp_path / "x.pt2", **SIZE)
