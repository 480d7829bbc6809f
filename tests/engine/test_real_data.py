"""A COCO recipe on real COCO images: RetinaNet learns from Mask R-CNN's features, stock evaluates.

Weights are random, the resolution is low and only the first validation images are used; what is
shown is that the whole path works on real annotations with Detectron2's built-in data set names.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from tests.conftest import ROOT

RECIPE = "configs/distill/retinanet_R_50_FPN_pkd_from_mask_rcnn_X_101_FPN_2x.yaml"
TEACHER = "configs/detectors/mask_rcnn_R_50_FPN.yaml"
STUDENT = "configs/detectors/retinanet_R_50_FPN.yaml"

STOCK_EVALUATION = """
import sys, json, logging
from detectron2.config import get_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0,
                     "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
                     "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20, "MODEL.RESNETS.NORM", "BN"])
model = build_model(cfg)
DetectionCheckpointer(model).load(sys.argv[2])
found = inference_on_dataset(model, build_detection_test_loader(cfg, "coco_2017_val"),
                             COCOEvaluator("coco_2017_val", tasks=("bbox",), use_fast_impl=False))
assert not [m for m in sys.modules if m.startswith("d2kd")]
json.dump(found["bbox"], open(sys.argv[3], "w"))
"""


def run(*args, data_root):
    env = {**os.environ, "DETECTRON2_DATASETS": str(data_root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=540, check=False
    )


@pytest.fixture
def few(tmp_path, data_root):
    """The real data, with 24 images to validate on."""
    source, coco = data_root / "coco", tmp_path / "data" / "coco"
    (coco / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017", "annotations/instances_train2017.json"):
        (coco / name).symlink_to(source / name)
    file = "annotations/instances_val2017.json"
    data = json.loads((source / file).read_text())
    data["images"] = data["images"][:24]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [x for x in data["annotations"] if x["image_id"] in kept]
    (coco / file).write_text(json.dumps(data))
    return coco.parent


@pytest.fixture
def teacher_weights(tmp_path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(ROOT / TEACHER), "")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def test_coco_recipe(tmp_path, few, teacher_weights):
    quick = f"""SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.001 SOLVER.STEPS ()
        SOLVER.WARMUP_ITERS 0 SOLVER.CHECKPOINT_PERIOD 99 SEED 3 MODEL.BACKBONE.FREEZE_AT 0
        MODEL.RESNETS.NORM BN MODEL.RETINANET.SCORE_THRESH_TEST 0.0
        MODEL.RETINANET.TOPK_CANDIDATES_TEST 20
        INPUT.MIN_SIZE_TRAIN (96,) INPUT.MIN_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0
        DISTILL.PKD.WEIGHT 1.0 DISTILL.TEACHER.CONFIG_FILES ('{TEACHER}',)
        DISTILL.TEACHER.WEIGHTS ('{teacher_weights}',) OUTPUT_DIR {tmp_path}/out""".split()
    quick += ["MODEL.WEIGHTS", ""]
    done = run("train_net.py", "--config-file", RECIPE, *quick, data_root=few)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Evaluation results for coco_2017_val" in done.stdout
    rows = [json.loads(x) for x in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    row = {k: v for part in rows for k, v in part.items()}
    assert np.isfinite(row["loss_PKD_feat"]) and 0 < row["loss_PKD_feat"] < 4

    stock = run("-c", STOCK_EVALUATION, STUDENT, tmp_path / "out" / "model_final.pth",
                tmp_path / "ap.json", data_root=few)  # fmt: skip
    assert stock.returncode == 0, stock.stderr[-3000:]
    by_stock = json.loads((tmp_path / "ap.json").read_text())
    for name in ("AP", "AP50", "AP75"):
        assert np.isfinite(by_stock[name])
        assert by_stock[name] == pytest.approx(row[f"bbox/{name}"], rel=1e-12), name
