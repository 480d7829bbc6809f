"""Small detectors that find much, digits, and the shipped teacher as a file."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2kd.checkpoint import load_detector
from d2kd.config.loading import load_config
from d2kd.export import export_onnx
from d2kd.quickstart.digits import DigitsSpec, build_digits
from d2kd.quickstart.teacher import TEACHER
from tests.conftest import ROOT
from tests.helpers import detector

VARIANTS = {
    "RetinaNet": {},
    "FCOS": {},
    "FCOS scaled": {"HEAD": "scaled", "BOX_ACTIVATION": "exp", "SCORE": "product"},
    "ATSS": {},
    "ATSS iou": {"QUALITY": "iou"},
    "AutoAssign": {},
    "AutoAssign joint": {"SCORE": "joint"},
    "DDOD": {},
    "GFL": {},
    "RepPoints": {},
    "RepPoints minmax": {"TRANSFORM": "minmax", "PRIOR_PROB": 0.05},
    "GFLv2": {"QUALITY": "DGQP"},
    "SDGQP": {"QUALITY": "SDGQP"},
}
BEST_F1 = {"threshold": 0.3, "F1": 0.9, "precision": 0.9, "recall": 0.9}
META = {"FCOS scaled": "FCOS", "ATSS iou": "ATSS", "AutoAssign joint": "AutoAssign", "GFLv2": "GFL",
        "SDGQP": "GFL", "RepPoints minmax": "RepPoints"}  # fmt: skip


def lively(variant, levels=1, noise=0.1):
    """A tiny detector whose random weights give scattered scores and tens of detections."""
    meta = META.get(variant, variant)
    node = f"MODEL__{meta.upper()}__"
    names = [f"p{n}" for n in range(3, 3 + levels)]
    keys = {
        "MODEL__ANCHOR_GENERATOR__SIZES": [[32 * 2**n] for n in range(levels)],
        node + "IN_FEATURES": names,
        **{node + key: value for key, value in VARIANTS[variant].items()},
    }
    model = detector(meta, **keys).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=rng))
    return model


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Eight generated test images of handwritten digits, (128, 128, 3) uint8 RGB, and a file."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, DigitsSpec(num_train=1, num_test=8))
    files = sorted((folder / "test").glob("*.jpg"))
    assert len(files) == 8
    return SimpleNamespace(
        files=files,
        images=[np.asarray(Image.open(file)) for file in files],
        boxes=json.loads((folder / "test.json").read_text())["annotations"],
    )


@pytest.fixture(scope="session")
def teacher():
    """The trained RetinaNet that comes with the quickstart."""
    pytest.importorskip("timm", reason="the teacher's trunk is timm's")
    cfg = load_config(
        str(ROOT / "configs" / "quickstart" / "teacher.yaml"), ["MODEL.DEVICE", "cpu"]
    )
    model = build_model(cfg).eval()
    load_detector(model, str(TEACHER), "teacher")
    return model


@pytest.fixture(scope="session")
def teacher_onnx(teacher, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"exporting needs {package}")
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    names = [str(digit) for digit in range(10)]
    options = {"input_format": "RGB", "class_names": names, "best_f1": BEST_F1}
    export_onnx(teacher, path, size=(128, 128), **options)
    return path
