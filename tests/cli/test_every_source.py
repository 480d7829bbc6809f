"""A teacher of every source, by one string, distils a RetinaNet on photographs of COCO.

With random weights; ViTDet-B takes a minute, and runs in `make test-faults` alone.
"""

import json

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.naming import construct
from d2kd.file_io import CONFIGS
from tests.config.test_torchvision import original
from tests.faults.conftest import FULL
from tests.helpers import d2kd

STUDENT = "detectors/retinanet_R_18_FPN.yaml"
NORM = ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"]
QUICK = """SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 1 SOLVER.BASE_LR 0.001 SOLVER.WARMUP_ITERS 0
    SOLVER.STEPS () INPUT.MIN_SIZE_TRAIN (96,) INPUT.MAX_SIZE_TRAIN 128 DATALOADER.NUM_WORKERS 0
    DATASETS.TEST () MODEL.DEVICE cpu DISTILL.TEACHER.CHECK_IMAGES 0 SEED 1""".split()


@pytest.fixture
def photographs(data_root, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for split in ("train", "val"):
        (folder / split).symlink_to(data_root / "coco" / f"{split}2017")
        names = f"instances_{split}2017.json"
        (folder / f"{split}.json").symlink_to(data_root / "coco" / "annotations" / names)
    return folder


def torchvision(folder):
    name = "retinanet_resnet50_fpn_v2"
    torch.save(original(name).state_dict(), folder / "teacher.pth")
    return f"torchvision:{name}"


def detectron2(name):
    def save(folder):
        cfg = get_d2kd_cfg()
        merge_config_file(cfg, name, "--teacher")
        cfg.MODEL.DEVICE = "cpu"
        torch.save({"model": construct(cfg).state_dict()}, folder / "teacher.pth")
        return name

    return save


def timm(folder):
    library = pytest.importorskip("timm")
    torch.save(library.create_model("resnet18").state_dict(), folder / "teacher.pth")
    return "timm:resnet18"


def transformers(folder):
    pytest.importorskip("transformers")
    from tests.tiny_transformers import save

    save("RTDetr", folder / "rtdetr")
    return f"hf:{folder / 'rtdetr'}"


CC = "on COCO as published, licence of the weights: CC BY-SA 3.0"
SOURCES = [
    (detectron2("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"), f"box AP 44.6 {CC}"),
    (torchvision, "box AP 41.5 on COCO as published, licence of the weights: none stated"),
    (transformers, "TransformersDetector from hf:"),
    (timm, "Licence of timm's weights of resnet18: apache-2.0"),
    pytest.param(detectron2("vitdet:mask_rcnn_vitdet_b"), f"box AP 51.6 {CC}",
                 marks=pytest.mark.skipif(not FULL, reason="takes long: make test-faults")),
]  # fmt: skip


def distilled(name, said, photographs, folder, *more):
    """The folder of a run with that teacher, which says so."""
    words, out = ["--teacher", name, *more], folder / "out"
    if (folder / "teacher.pth").exists():
        words += ["--teacher-weights", folder / "teacher.pth"]
    done = d2kd("train", STUDENT, "--data", photographs, *words, "--output", out, *NORM, *QUICK)
    assert done.exit_code == 0, done.output
    assert said in (out / "log.txt").read_text()
    rows = [json.loads(x) for x in (out / "metrics.json").read_text().splitlines()]
    assert any(row.get("loss_PKD_feat", 0) > 0 for row in rows)
    assert all(np.isfinite(row["total_loss"]) for row in rows if "total_loss" in row)
    return out


NAMES = ["zoo", "torchvision", "hf", "timm", "vitdet"]


@pytest.mark.parametrize(("source", "said"), SOURCES, ids=NAMES)
def test_it_distils_and_stock_detectron2_loads_the_student(source, said, photographs, tmp_path):
    torch.manual_seed(0)
    out = distilled(source(tmp_path), said, photographs, tmp_path)
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / STUDENT))
    cfg.merge_from_list([*NORM, "MODEL.DEVICE", "cpu"])
    stock = build_model(cfg).eval()
    DetectionCheckpointer(stock).load(str(out / "model_final.pth"))
    saved = torch.load(out / "model_final.pth", weights_only=True)["model"]
    state = stock.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(x, saved[key]) for key, x in state.items())
    found = stock([{"image": torch.rand(3, 64, 96) * 255}])[0]["instances"]
    assert found.scores.isfinite().all()


def test_at_its_own_size(photographs, tmp_path):
    """640 px beside a student of 96 px: its strides 8, 16 and 32 are 2, 4 and 8 px there."""
    words = "DISTILL.TEACHER.SIZE own INPUT.MIN_SIZE_TEST 96 INPUT.MAX_SIZE_TEST 128".split()
    said = "shorter side of 640 px, the longer at most 640 px"
    distilled(transformers(tmp_path), said, photographs, tmp_path, *words)
