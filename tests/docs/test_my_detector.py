"""docs/my_detector.py, the detector of the documentation: its adapter, distillation, training."""

import copy
import json
import runpy

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from d2kd import DETECTOR_ADAPTER_REGISTRY, build_adapter
from d2kd.engine.command_line import argument_parser
from d2kd.engine.main import main
from d2kd.testing import make_batch
from tests.conftest import ROOT
from tests.helpers import detector, distill, write_config

FILE = ROOT / "docs" / "my_detector.py"
KEYS = {"MODEL__ROI_HEADS__IN_FEATURES": ["p3"]}
TEACHER = {"MODEL__FCOS__IN_FEATURES": ["p3"], "MODEL__ANCHOR_GENERATOR__SIZES": [[32]],
           "MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[1.0]]}  # fmt: skip


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What the file registers is there for one test only."""
    for registry in (META_ARCH_REGISTRY, DETECTOR_ADAPTER_REGISTRY):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))


@pytest.mark.parametrize("boxes", [4, 0])
def test_the_adapter_computes_what_the_detector_does(boxes):
    runpy.run_path(str(FILE))
    stock = detector("OneLevel", **KEYS).train()
    mine, batch = copy.deepcopy(stock), make_batch(boxes=boxes)
    expected = stock(batch)
    adapter = build_adapter(mine)
    images = adapter.preprocess(batch, mine.backbone.size_divisibility)
    assert torch.equal(images.tensor, stock.preprocess_image(batch).tensor)
    out = adapter(images, [x["instances"] for x in batch], adapter.provides)
    assert list(out.losses) == list(expected)
    sum(expected.values()).backward()
    sum(out.losses.values()).backward()
    for name, value in expected.items():
        assert torch.equal(out.losses[name], value), name
    for a, b in zip(stock.parameters(), mine.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    filled = {name for name in adapter.provides if getattr(out, name) not in (None, {}, [])}
    assert filled == adapter.provides


def test_it_is_distilled_from_another_family_and_tells_what_it_lacks():
    runpy.run_path(str(FILE))
    student, teacher = detector("OneLevel", **KEYS), detector("FCOS", 12, seed=1, **TEACHER)
    heads = ("PKD", "CWD", "CanKD", "MGD", "FGD", "DetKDS", "FitNets", "StructuredKD", "VFM",
             "BCKD")  # fmt: skip
    losses = distill(student, [teacher], heads).train()(make_batch())
    terms = {k: v for k, v in losses.items() if k.split("_")[1] in heads}
    assert len(losses) == len(terms) + 2 and {k.split("_")[1] for k in terms} == set(heads)
    assert all(value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in student.predictor.parameters())
    for head in ("PGD", "CrossKD"):
        with pytest.raises(ValueError, match=f"{head} needs cls_taps, reg_taps; student OneLevel"):
            distill(student, [teacher], (head,))


def run(path, *opts, eval_only=False):
    META_ARCH_REGISTRY._obj_map.pop("OneLevel", None)  # each command is a process of its own
    DETECTOR_ADAPTER_REGISTRY._obj_map.pop("OneLevelAdapter", None)
    flags = ["--config-file", path, "--import", FILE, *["--eval-only"] * eval_only, *opts]
    return main(argument_parser().parse_args([str(x) for x in flags]))


def test_it_trains_and_distils_from_yaml(tmp_path, squares):
    teacher = write_config(tmp_path / "teacher", squares, "FCOS", SOLVER__MAX_ITER=2, **TEACHER)
    run(teacher)
    path = write_config(tmp_path / "student", squares, "OneLevel", SOLVER__MAX_ITER=160, **KEYS)
    run(path)
    lines = (tmp_path / "student" / "out" / "metrics.json").read_text().splitlines()
    losses = [row["total_loss"] for row in map(json.loads, lines) if "total_loss" in row]
    assert losses[-1] < 0.8 * losses[1]
    final = tmp_path / "student" / "out" / "model_final.pth"
    assert run(path, "MODEL.WEIGHTS", final, eval_only=True)["bbox"]["AP50"] > 0
    weights, out = tmp_path / "teacher" / "out" / "model_final.pth", tmp_path / "distilled"
    run(path, "--teacher", teacher, "--teacher-weights", weights, "--distill", "PKD,BCKD",
        "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", out)  # fmt: skip
    saved = [torch.load(x, weights_only=True)["model"] for x in (final, out / "model_final.pth")]
    assert set(saved[0]) == set(saved[1])
