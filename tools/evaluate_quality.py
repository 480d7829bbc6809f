#!/usr/bin/env python
"""How well predicted quality tells the IoU of the box: correlation, calibration, plot.

For plain or distilled RetinaNet, FCOS, ATSS and GFL, on the objects of DATASETS.TEST[0].
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model

from d2kd.build import student_config
from d2kd.checkpoint.checkpointer import SafeCheckpointer
from d2kd.config.loading import load_config, without_pretrained
from d2kd.data import labelled_test_data, register_custom_datasets
from d2kd.data.catalog import require_registered
from d2kd.evaluation import QualityEvaluator, QualityProbe


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of quality.json and png")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_arguments()
    cfg = load_config(args.config_file, args.opts)
    cfg = without_pretrained(student_config(cfg))
    register_custom_datasets(cfg)
    require_registered(cfg, "TEST")
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint to measure.")
    detector = build_model(cfg).eval()
    probe = QualityProbe(detector)
    SafeCheckpointer(detector).load(cfg.MODEL.WEIGHTS)
    records, mapper = labelled_test_data(cfg)
    loader = build_detection_test_loader(dataset=records, mapper=mapper)
    evaluator = QualityEvaluator()
    results = inference_on_dataset(probe, loader, evaluator)
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"weights": cfg.MODEL.WEIGHTS, "results": results}, indent=1)
    (args.output / "quality.json").write_text(text)
    evaluator.plot(results).savefig(args.output / "quality.png")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
