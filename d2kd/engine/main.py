"""One rank of a run: set-up, training or evaluation."""

import logging
import os
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Optional

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import nn

from ..build import student_config
from ..checkpoint import SafeCheckpointer
from ..config.loading import without_pretrained
from ..config.locate import resolve_config_file
from ..config.unread import say_unread_keys
from ..config.validate import check_config
from ..data import register_custom_datasets
from ..evaluation.trained import trained_detector
from ..text import make_output_plain
from . import terminal
from .changes import begun_teachers, check_resumed
from .command_line import resolve_config
from .early_log import held_back, say
from .provenance import describe_run, write_results
from .ranks import on_first_rank
from .run_folder import check_folder, hold_folder, holds_run
from .trainer import DistillationTrainer


def setup(args: Namespace, held: ExitStack) -> CfgNode:
    """Build the config, lock OUTPUT_DIR, write it there and start logging.

    Args:
        args: see `d2kd.engine.command_line.argument_parser`.
        held: gets the lock of a training.

    Raises:
        ConfigError: see `resolve_config`, `check_config`, `check_folder` and `check_resumed`;
            nothing is written.
    """
    make_output_plain()
    with held_back() as said:
        cfg = _checked_config(args, held)
    args.live = terminal.set_up(cfg.OUTPUT_DIR, comm.get_rank(), args.console)
    say(said)
    with terminal.file_only():  # environment and config
        default_setup(cfg, args)
    return cfg


def _checked_config(args: Namespace, held: ExitStack) -> CfgNode:
    cfg = resolve_config(args, trains=not args.eval_only)
    check_config(cfg)
    args.resume |= args.resume_anyway
    if args.eval_only:
        _aim_evaluation(cfg, args.resume)
    else:
        on_first_rank(lambda: check_folder(cfg, args.resume, args.data))
    register_custom_datasets(cfg)
    if args.resume and not args.eval_only:
        cfg.DISTILL.TEACHER.WEIGHTS = on_first_rank(lambda: begun_teachers(cfg))
        on_first_rank(lambda: check_resumed(cfg, args.resume_anyway))
    if not args.eval_only:
        on_first_rank(lambda: hold_folder(cfg, args.resume, args.data, held))
    if args.config_file:
        args.config_file = resolve_config_file(args.config_file, "--config-file")
    cfg.freeze()
    return cfg


def _aim_evaluation(cfg: CfgNode, resume: bool) -> None:
    """Evaluate a run's last checkpoint where `resume`, and write beside its record, not over it."""
    last = SafeCheckpointer(nn.Module(), cfg.OUTPUT_DIR).get_checkpoint_file() if resume else ""
    cfg.MODEL.WEIGHTS = last or cfg.MODEL.WEIGHTS
    if cfg.OUTPUT_DIR and on_first_rank(lambda: holds_run(Path(cfg.OUTPUT_DIR))):
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "eval")
        logging.getLogger(__name__).warning(
            "OUTPUT_DIR holds a run, which stays as it is: results go to %s.", cfg.OUTPUT_DIR
        )


def evaluate(cfg: CfgNode) -> Dict:
    """Evaluate MODEL.WEIGHTS as a plain detector; builds no teacher."""
    say_unread_keys(cfg)
    cfg = without_pretrained(student_config(cfg))
    results = DistillationTrainer.test(cfg, trained_detector(cfg, cfg.MODEL.WEIGHTS))
    write_results(cfg, results, describe_run(cfg, [cfg.MODEL.WEIGHTS]))
    return results


def main(args: Namespace) -> Optional[Dict]:
    """Train or, with --eval-only, evaluate."""
    with ExitStack() as held:
        cfg = setup(args, held)
        return evaluate(cfg) if args.eval_only else _train(cfg, args)


def _train(cfg: CfgNode, args: Namespace) -> Optional[Dict]:
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(args.resume, changed=args.resume_anyway)
    line = terminal.LiveLine(cfg.SOLVER.MAX_ITER, cfg.DISTILL.HEADS if trainer.distiller else ())
    if args.live:
        trainer.register_hooks([PeriodicWriter([line], period=1)])
    try:
        return trainer.train()
    finally:
        line.close()
