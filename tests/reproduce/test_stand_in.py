"""Teachers with random weights: written, then read as a distillation reads them."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.reproduce import stand_in
from d2kd.reproduce.stand_in import write_stand_in
from d2kd.teachers import build_teacher
from tests.tiny_transformers import options_of


def written(name, folder):
    """A teacher, filled from its stand-in."""
    cfg = get_d2kd_cfg()
    cfg.DISTILL.TEACHER.CONFIG_FILES = (name,)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(write_stand_in(SimpleNamespace(teacher_config=name, cfg=cfg), folder))
    return build_teacher(cfg)


def test_of_timm(tmp_path):
    """Its file has timm's names, and fills the teacher; one that is there is taken again."""
    pytest.importorskip("timm")
    one, other = (written("timm:test_vit.r160_in1k", tmp_path).detector for _ in range(2))
    (file,) = tmp_path.rglob("*.pth")
    found = torch.load(file, weights_only=True)["model"]["patch_embed.proj.weight"]
    for detector in (one, other):
        assert torch.equal(detector.backbone.body.patch_embed.proj.weight, found)


def test_of_transformers(tmp_path, monkeypatch):
    """Its folder has what a source needs, with COCO's classes."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(stand_in._DETECTORS, "hf:tiny", "RTDetr")
    small = partial(transformers.RTDetrConfig, **options_of("RTDetr"))
    monkeypatch.setattr(transformers, "RTDetrConfig", small)
    teacher = written("hf:tiny", tmp_path)
    assert sum(x.numel() for x in teacher.detector.parameters()) < 1e6
    assert teacher.adapter.spec().num_classes == len(teacher.classes) == 80
    assert teacher.classes[0] == "person"
