"""Files that take any number of images, or any size, against the detectors of one image."""

import pytest
import torch
from PIL import Image

from d2kd.errors import ConfigError
from d2kd.export import Options, check_export, export_onnx, export_pt2, fit_image, open_exported
from d2kd.export.graph import Detections, classwise_nms
from d2kd.export.kinds import prepare
from tests.export.conftest import VARIANTS, lively
from tests.export.test_regions import lively as regions
from tests.faults.conftest import FULL

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
run = pytest.importorskip("d2kd.export.device_bundle.run", reason="it needs onnxruntime")

SIZE = {"size": (96, 160), "input_format": "BGR", "score_threshold": 0.02}


def noise(count, size=(96, 160)):
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, *size), generator=rng).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_image_of_a_batch_has_what_it_has_alone(variant):
    model = lively(variant, levels=2)
    model.test_score_thresh, model.max_detections_per_image = 0.02, 30
    graph, counts = Detections(model, Options(SIZE["size"], "BGR", dynamic_batch=True)), []
    with torch.no_grad():
        boxes, scores, classes, images = graph(noise(3))
        for k in range(3):
            stock = model([{"image": noise(3)[k]}])[0]["instances"]
            stock = stock[stock.scores.argsort(descending=True, stable=True)]
            counts.append(len(stock))
            own = images == k
            torch.testing.assert_close(boxes[own], stock.pred_boxes.tensor, rtol=0, atol=1e-3)
            torch.testing.assert_close(scores[own], stock.scores, rtol=0, atol=1e-5)
            torch.testing.assert_close(classes[own], stock.pred_classes, rtol=0, atol=0)
    assert 10 < sum(counts) and max(counts) <= 30


def test_nms_suppresses_within_an_image_only():
    boxes = torch.tensor([[0.0, -300, 10, -200], [0, 0, 10, 100], [0, 0, 10, 99]])
    scores, images = torch.tensor([0.5, 0.9, 0.8]), torch.tensor([1, 0, 0])
    zero = torch.zeros(3, dtype=torch.long)
    assert classwise_nms(boxes, scores, zero, 0.5, images).tolist() == [1, 0]
    assert classwise_nms(boxes[1:], scores[1:], zero[1:], 0.5, images[:2]).tolist() == [0, 1]


@pytest.mark.parametrize("write, variant, options", [
    (export_onnx, "GFLv2", {"dynamic_batch": True}),
    (export_onnx, "ATSS", {"dynamic_size": True}),
    (export_onnx, "SDGQP", {"dynamic_batch": True, "dynamic_size": True, "nms": False}),
    (export_pt2, "RetinaNet", {"dynamic_batch": True, "dynamic_size": True, "size": (160, 192)}),
][: 4 if FULL else 2])  # fmt: skip
def test_files_are_checked_in_batches_and_at_their_sizes(write, variant, options, digits, tmp_path):
    model = lively(variant, levels=2)
    path = tmp_path / ("x.onnx" if write is export_onnx else "x.pt2")
    write(model, path, **{**SIZE, **options})
    pt2 = path.suffix == ".pt2"  # its maps have more than one cell a side
    images = [x[: 128 - 40 * k * (not pt2)] for k, x in enumerate(digits.images[:3])]
    found = check_export(path, model, images)
    batch = "dynamic_batch" in options
    assert found.images == (12 if batch else 3) and found.detections > 30 and not found.missing
    exported = open_exported(path)
    assert exported.description["dynamic"] == [x[8:] for x in options if x.startswith("dynamic")]
    shapes = [(n, *exported.description["size"]) for n in (1, 3)[: 1 + batch]]
    shapes += [(1, 160 if pt2 else 64, 224)] * ("dynamic_size" in options)
    for shape in shapes:
        given = noise(shape[0], shape[1:]).numpy()
        assert len(exported.of_each(given)) == shape[0]
    if pt2:
        narrow, _ = fit_image(images[0][:, :20], exported.description)
        assert narrow.shape[2:] == (160, 160) and exported.description["least"] == 160
        assert len(exported.of_each(narrow)) == 1
    if path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path), full_check=True)
    if options == {"dynamic_size": True}:
        session, about = run.load(path)
        photo = Image.fromarray(digits.images[0]).resize((300, 30))
        assert run.prepare(photo, about)[0].shape == (1, 3, 32, 160)
        assert len(run.detect(session, about, photo, 0.02)[0]) > 0


def test_two_stage_detectors_take_one_image(tmp_path):
    with pytest.raises(ConfigError, match="is written for one image of one size"):
        export_onnx(regions("Mask"), tmp_path / "x.onnx", **SIZE, dynamic_batch=True)


def test_a_backbone_that_pads_by_size_is_named():
    timm = pytest.importorskip("timm", reason="the backbone is timm's")
    model = lively("RetinaNet")
    model.backbone.trunk = timm.create_model("tf_efficientnet_lite0", features_only=True)
    with pytest.raises(ConfigError, match=r"backbone.trunk.conv_stem pads by the size"):
        prepare(model, Options(SIZE["size"], "BGR", dynamic_size=True))
    prepare(model, Options(SIZE["size"], "BGR", dynamic_batch=True))
