"""How well predicted quality tells the IoU of the box: correlation, calibration, plot."""

import json
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset

from ..build import student_config
from ..config import check_config, say_unread_keys, without_pretrained
from ..data import labelled_test_data, register_custom_datasets
from ..data.catalog import require_registered
from ..evaluation import QualityEvaluator, QualityProbe
from ..evaluation.trained import trained_detector


def measure_quality(cfg: CfgNode, weights: str, output: Path) -> str:
    """Measure on the objects of DATASETS.TEST[0]; writes quality.json and quality.png.

    Args:
        cfg: a plain or distilled RetinaNet, FCOS, ATSS, AutoAssign, DDOD, GFL or RepPoints.
        weights: the checkpoint.
        output: folder of the two files.

    Returns:
        str: what quality.json holds.

    Raises:
        ValueError, OSError: the config, the checkpoint or the data set does not fit.
    """
    cfg.OUTPUT_DIR = str(output)
    check_config(cfg)
    say_unread_keys(cfg)
    cfg = without_pretrained(student_config(cfg))
    register_custom_datasets(cfg)
    require_registered(cfg, "TEST")
    probe = QualityProbe(trained_detector(cfg, weights, "--weights"))
    records, mapper = labelled_test_data(cfg)
    loader = build_detection_test_loader(dataset=records, mapper=mapper)
    evaluator = QualityEvaluator()
    results = inference_on_dataset(probe, loader, evaluator)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"weights": weights, "results": results}, indent=1)
    (output / "quality.json").write_text(text, encoding="utf-8")
    evaluator.plot(results).savefig(output / "quality.png")
    return text
