#!/usr/bin/env python
"""Train, distil, evaluate and resume detectors from yaml configs.

The same command trains a teacher, a plain student and a distilled student; the config decides.
"""

import argparse
import logging
import os
import runpy
import sys
from typing import Dict, Optional

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import build_model
from detectron2.utils import comm

from d2kd import DistillationTrainer
from d2kd.build import student_config
from d2kd.checkpoint import StrictCheckpointer
from d2kd.checks import RunError
from d2kd.config import get_d2kd_cfg, merge_config_file, merge_options, without_pretrained
from d2kd.data import register_custom_datasets
from d2kd.engine import check_classes
from d2kd.launch import TRACEBACK_HINT, launch
from d2kd.provenance import describe_run, write_results
from d2kd.validate import check_config


def parse_arguments() -> argparse.Namespace:
    """Detectron2's own arguments and `--import`."""
    parser = default_argument_parser()
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file of yours that registers heads, adapters, detectors or data sets",
    )
    parser.set_defaults(dist_url="auto")  # a free port, so that two runs do not meet
    return parser.parse_args()


def setup(args: argparse.Namespace) -> CfgNode:
    """Build the config and start logging; falls back to the CPU where there is no GPU."""
    for path in args.imports:
        runpy.run_path(path, run_name="__d2kd_import__")
    cfg = get_d2kd_cfg()
    if args.config_file:
        merge_config_file(cfg, args.config_file, "--config-file")
    merge_options(cfg, args.opts)
    on_cpu = cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available()
    if on_cpu:
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    if on_cpu:
        logging.getLogger("d2kd").warning("No GPU found: MODEL.DEVICE is set to cpu.")
    register_custom_datasets(cfg)
    return cfg


def evaluate(cfg: CfgNode, resume: bool) -> Dict:
    """Evaluate MODEL.WEIGHTS, or the last checkpoint, as a plain detector; builds no teacher."""
    check_config(cfg)
    cfg = without_pretrained(student_config(cfg))
    model = build_model(cfg)
    check_classes(cfg, model, train=False)
    checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR)
    last = checkpointer.get_checkpoint_file() if resume else ""
    weights = last or cfg.MODEL.WEIGHTS
    checkpointer.load(weights, checkpointables=[])
    results = DistillationTrainer.test(cfg, model)
    write_results(cfg, results, describe_run(cfg, [weights]))
    return results


def main(args: argparse.Namespace) -> Optional[Dict]:
    """Run one rank."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = parse_arguments()
    try:
        launch(main, arguments)
    except (ValueError, OSError, FloatingPointError, RunError) as error:
        if os.environ.get("D2KD_TRACEBACK") or comm.get_world_size() > 1:
            raise
        sys.exit(f"{type(error).__name__}: {error}\n{TRACEBACK_HINT}")
