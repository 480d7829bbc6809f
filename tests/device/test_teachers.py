"""Teachers of every source, files and guards on a device that is not the CPU."""

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import ImageList
from torch.testing import assert_close

from d2kd import DetectorOutput, DistillationTrainer, Teacher, build_adapter
from d2kd.adapters.own_size import OwnSizeAdapter
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.naming import construct
from d2kd.data import register_custom_datasets
from d2kd.detectors.transformers_backbone import _predicted
from d2kd.export import check_export, export_pt2
from d2kd.testing import make_batch
from tests.device.simulated import missing, set_up, simulated, waits
from tests.engine.hooks.test_exact_resume import config, result
from tests.helpers import clone, detector
from tests.ranks import in_process

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ALL = frozenset({"features", "sets"})
SOURCES = {
    "torchvision:retinanet_resnet50_fpn": ALL, "torchvision:fasterrcnn_resnet50_fpn": ALL,
    "timm:resnet18": frozenset({"features"}), "timm:vit_tiny_patch16_224": frozenset({"features"}),
    "hf:RTDetr": ALL, "hf:DeformableDetr": ALL, "hf:Yolos": ALL,
}  # fmt: skip


def built(name, folder):
    source, family = name.split(":")
    if source == "hf":
        from tests.tiny_transformers import save

        save(family, folder)
        name = f"hf:{folder}"
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, name, "--teacher")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(0)
    return construct(cfg).eval()


def values(output, need):
    found = {f"stride {k}": x for k, x in output.features.items()}
    if "sets" in need:
        found |= {"boxes": output.sets.boxes, "probabilities": output.sets.probabilities}
    return {k: x.cpu() for k, x in found.items()}


def count_waits(device):
    """Of boxes on their way to px, and from the teacher's size to the student's: none."""
    boxes, logits = torch.rand(2, 4, 4).to(device), torch.rand(2, 4, 4).to(device)
    images = ImageList(torch.zeros(2, 3, 64, 96).to(device), [(64, 80), (48, 96)])
    model = SimpleNamespace(config=SimpleNamespace(model_type="detr", num_labels=3))
    adapter = OwnSizeAdapter(build_adapter(detector().to(device)), (64, 96), 0)
    waits.clear()
    found = _predicted(model, SimpleNamespace(pred_boxes=boxes, logits=logits), images)
    output = DetectorOutput(images, None, {}, sets=found)
    adapter.fit(output, [(32, 40), (24, 48)], (32, 64))
    return waits.total()


def compare(name, folder):
    torch.set_num_threads(1)
    set_up()
    here, need, batch = built(name, folder), SOURCES[name], make_batch()
    expected = values(Teacher(clone(here))(batch, 32, "RGB", need), need)
    with simulated() as device:
        teacher = Teacher(here.to(device))
        assert teacher.adapter.device.type == "sim"
        found = values(teacher(batch, 32, "RGB", need), need)
        assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert count_waits(device) == 0


@pytest.mark.parametrize("name", SOURCES)
def test_sources(tmp_path, name):
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    in_process(compare, name, str(tmp_path / "model"))


def export(folder):
    """A file of a detector on the device is that of the same on the CPU."""
    torch.set_num_threads(1)
    set_up()
    here = detector("GFL").eval()
    with simulated() as device:
        export_pt2(clone(here).to(device), f"{folder}/model.pt2", size=(64, 96), input_format="BGR",
                   nms=False)  # fmt: skip
    images = [x["image"].byte().permute(1, 2, 0).numpy() for x in make_batch()]
    assert check_export(f"{folder}/model.pt2", here, images).detections > 0


def test_export(tmp_path):
    in_process(export, str(tmp_path))


def guard(folder, squares):
    """A gradient of NaN in the second step, which is skipped, on the CPU and on the device."""
    torch.set_num_threads(1)
    set_up()
    keys = {"SOLVER__GUARD__NON_FINITE": "skip", "SOLVER__MAX_ITER": 4}
    with torch.jit.optimized_execution(False), simulated():
        for name in ("cpu", "sim:0"):
            cfg = config("RetinaNet", folder, squares, name[:3], MODEL__DEVICE=name, **keys)
            register_custom_datasets(cfg)
            torch.manual_seed(1)  # of the first weights
            trainer, calls = DistillationTrainer(cfg), iter([1.0, math.nan, 1.0, 1.0])
            trainer.resume_or_load(resume=False)
            one = next(trainer.model.parameters())
            one.register_hook(lambda grad, calls=calls: grad * next(calls))
            trainer.train()


def test_guard(tmp_path, squares):
    in_process(guard, tmp_path, squares)
    (model, _, _, metrics), (other, _, _, same) = (result(tmp_path / x) for x in ("cpu", "sim"))
    assert metrics["skipped_steps"] == same["skipped_steps"] == 1
    assert_close(other, model, rtol=1e-4, atol=1e-6)
