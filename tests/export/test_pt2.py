"""torch.export programs against the detectors that they were made of."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from d2kd.export import check_export, export_pt2, fit_image, open_exported
from tests.conftest import ROOT
from tests.export.conftest import lively

SIZE = {"size": (96, 160), "input_format": "BGR", "score_threshold": 0.02}


@pytest.mark.parametrize(
    "variant, nms",
    [
        ("RetinaNet", True),
        ("FCOS scaled", True),
        ("ATSS", False),
        ("DDOD", True),
        ("SDGQP", True),
        ("RepPoints", True),
    ],
)
def test_every_box_coding(variant, nms, digits, tmp_path):
    model, path = lively(variant), tmp_path / "model.pt2"
    options = SIZE if nms else {key: SIZE[key] for key in ("size", "input_format")}
    export_pt2(model, path, **options, nms=nms)
    found = check_export(path, model, digits.images)
    assert found.detections > 80 and found.missing == found.added == 0
    assert found.box_difference < 1e-3


def test_limits_are_those_asked_for(digits, tmp_path):
    model, path = lively("GFL", levels=2), tmp_path / "few.pt2"
    limits = {"score_threshold": 0.3, "nms_threshold": 0.2, "topk": 50, "max_detections": 9}
    export_pt2(model, path, **{**SIZE, **limits})
    exported = open_exported(path)
    assert {name: exported.description[name] for name in limits} == limits
    for image in digits.images:
        _, scores, _ = exported.run(fit_image(image, exported.description)[0])
        assert len(scores) <= 9 and (scores > 0.3).all()
    assert 8 <= check_export(path, model, digits.images).detections <= 72


def test_few_and_no_detections(digits, tmp_path):
    model, path = lively("GFL"), tmp_path / "model.pt2"
    model.test_score_thresh = 0.0
    scores = _best_scores(model, digits.images[0])
    for wanted in (1, 0):
        threshold = (scores[wanted] + scores[wanted - 1]) / 2 if wanted else 1.0
        export_pt2(model, path, **{**SIZE, "score_threshold": threshold})
        exported = open_exported(path)
        image, _ = fit_image(digits.images[0], exported.description)
        assert len(exported.run(image)[1]) == wanted


def _best_scores(model, image):
    options = {"size": SIZE["size"], "pad_value": model.pixel_mean.flatten().tolist()}
    with torch.no_grad():
        found = model([{"image": torch.from_numpy(fit_image(image, options)[0][0])}])
    return found[0]["instances"].scores.tolist()


RUN = """
import sys
sys.modules.update(dict.fromkeys(["d2kd", "detectron2"]))
import json, numpy, torch, torchvision
extra = {"d2kd.json": ""}
model = torch.export.load("teacher.pt2", extra_files=extra).module()
assert json.loads(extra["d2kd.json"])["classes"] == ["a", "b", "c"]
boxes, scores, classes = model(torch.from_numpy(numpy.load("image.npy")))
numpy.savez("found.npz", boxes=boxes, scores=scores, classes=classes)
"""


def test_the_file_needs_neither_d2kd_nor_detectron2(digits, tmp_path):
    model, path = lively("GFLv2"), tmp_path / "teacher.pt2"
    export_pt2(model, path, **SIZE, class_names=["a", "b", "c"])
    exported = open_exported(path)
    image, _ = fit_image(digits.images[0], exported.description)
    np.save(tmp_path / "image.npy", image)
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert len(found["scores"]) > 10
    expected = zip(("boxes", "scores", "classes"), exported.run(image), strict=True)
    for name, value in expected:
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_the_file_names_no_folder_of_this_machine(tmp_path):
    path = tmp_path / "model.pt2"
    export_pt2(lively("RetinaNet"), path, **SIZE)
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(ROOT).encode() not in content and b"site-packages" not in content
