"""What the words of a command mean: arguments, files to import, the config."""

import logging
import os
import runpy
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Dict, Iterable, List

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from .. import registration  # noqa: F401 - what a config may name
from ..config.defaults import get_d2kd_cfg
from ..config.keys import flatten
from ..config.lazy import trust
from ..config.loading import merge_config_file, merge_options
from ..config.pairs import choose_distillation
from ..config.run_length import LENGTH, OF_LENGTH, TESTED, fit_run
from ..config.shortcuts import distil, learn_tokens, use_data, use_test_data
from ..data.detections import KEY as OFFLINE
from ..errors import ConfigError, MissingFileError
from ..file_io import expect, read_yaml
from .changes import read_record
from .early_log import held_back
from .options import OPTIONS, RESUME_ANYWAY, TOKENS
from .ranks import on_first_rank

_TEACHERS = {"TransformersDetector": "detector of transformers", "FeatureExtractor": "backbone"}


def argument_parser() -> ArgumentParser:
    """Detectron2's own arguments, and d2kd's."""
    parser = default_argument_parser()
    for name, (metavar, help) in OPTIONS.items():
        one = {"default": ""} if name == "data" else {"action": "append", "default": []}
        dest = "imports" if name == "import" else name.replace("-", "_")
        parser.add_argument(f"--{name}", dest=dest, metavar=metavar, help=help, **one)
    parser.add_argument("--resume-anyway", action="store_true", help=RESUME_ANYWAY)
    parser.add_argument("--tokens", action="store_true", help=TOKENS)
    # a free port, so that two runs do not meet; all that is logged is shown
    parser.set_defaults(dist_url="auto", console="")
    return parser


def import_files(paths: Iterable[str]) -> None:
    """Run Python files that register heads, detectors or data sets."""
    for path in paths:
        expect(path, "--import", "python")
        if not os.path.isfile(path):
            raise MissingFileError(f"--import {path} does not exist, or is no file.")
        runpy.run_path(path, run_name="__d2kd_import__")


def resolve_config(args: Namespace, trains: bool = False) -> CfgNode:
    """The config of the command line, on the CPU where there is no GPU; not checked yet.

    Args:
        args: see `argument_parser`.
        trains: whether it is for a training, whose length and batch it is then fitted to.

    Raises:
        ConfigError: a file, a key, a value or a combination of them is wrong.
    """
    import_files(args.imports)
    for path in args.trust_config:
        trust(path)
    cfg = get_d2kd_cfg()
    said = merge_config_file(cfg, args.config_file, "--config-file") if args.config_file else set()
    if args.data:
        (use_test_data if args.eval_only else use_data)(cfg, Path(args.data))
    cfg.DATASETS.UNLABELLED = tuple(args.unlabelled) or cfg.DATASETS.UNLABELLED
    if args.tokens:
        learn_tokens(cfg, args.config_file, args.teacher_weights, args.teacher + args.distill)
    shortcut = args.teacher or args.distill or (args.teacher_weights and not args.tokens)
    begins = shortcut and (cfg.MODEL.META_ARCHITECTURE != "Distiller" or not cfg.DISTILL.HEADS)
    if shortcut:
        offline = bool(cfg.DISTILL.SetKD.OFFLINE) or OFFLINE in args.opts[::2]
        distil(cfg, args.teacher, args.teacher_weights, args.distill, said, offline)
    own = cfg.clone()
    merge_options(cfg, args.opts)
    if trains and cfg.MODEL.META_ARCHITECTURE != "TokenLearner":
        _refuse_teachers(cfg)
    begun = _begun(args, cfg, own) if begins or trains else {}
    if begins:
        choose_distillation(cfg, said | {*args.opts[::2]}, begun)
    if trains:
        tests = bool(args.data and cfg.DATASETS.TEST) and TESTED not in said
        fit_run(cfg, own, args.opts[::2], tests, begun)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        logging.getLogger(__name__).warning("No GPU found: MODEL.DEVICE is set to cpu.")
    return cfg


def config_of(words: List[str], distils: bool = True) -> CfgNode:
    """The config that the words of a training give.

    Args:
        words: what follows `d2kd train`; the files behind `--import` have been executed.
        distils: whether `--teacher` counts, which must have been trained then.
    """
    args = argument_parser().parse_args(["--config-file", *words])
    args.imports = []
    if not distils:
        args.teacher, args.distill = [], []
    with held_back():  # what there is to say, the run says
        return resolve_config(args, trains=True)


def _begun(args: Namespace, cfg: CfgNode, own: CfgNode) -> Dict[str, Any]:
    """The keys that a run which goes on or is repeated began with; none of a new one."""
    folder = Path(cfg.OUTPUT_DIR)
    if args.resume or args.resume_anyway:
        written = folder / "config.yaml", folder / "last_checkpoint"
        if on_first_rank(lambda: all(path.is_file() for path in written)):
            keys = on_first_rank(lambda: read_yaml(written[0]))
            segments = on_first_rank(lambda: read_record(folder).get("segments", []))
            lengths = [x["changes"][LENGTH][0] for x in segments if LENGTH in x.get("changes", {})]
            begun = dict(flatten(keys)) if isinstance(keys, dict) else {}
            return {**begun, LENGTH: lengths[0]} if lengths else begun
    repeats = os.path.isdir(args.config_file) and LENGTH not in args.opts[::2]
    keys = dict(flatten(own))
    return {key: keys[key] for key in OF_LENGTH} if repeats else {}


def _refuse_teachers(cfg: CfgNode) -> None:
    """Raise for a detector that cannot be trained here."""
    detector = cfg.DISTILL.STUDENT or cfg.MODEL.META_ARCHITECTURE
    kind = "LazyConfig" if cfg.MODEL.LAZY_CONFIG else _TEACHERS.get(detector)
    if kind:
        name = cfg.MODEL.LAZY_CONFIG or cfg.MODEL.TRANSFORMERS.FOLDER or cfg.MODEL.TIMM.NAME
        raise ConfigError(f"{name} is a {kind}, which is no student: name it with --teacher.")
