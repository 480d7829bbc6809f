"""AP, latency and size of an exported file."""

import logging
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from ..config.defaults import get_d2kd_cfg
from ..config.loading import merge_options
from ..config.shortcuts import use_test_data
from ..data import load_dataset, register_custom_datasets
from ..data.class_names import difference, is_reordered
from ..data.folder import UNDIVIDED
from ..data.pixels import read_pixels
from ..engine.command_line import import_files
from ..engine.provenance import describe_run, write_results
from ..engine.run_folder import holds_run
from ..errors import ConfigError
from ..evaluation.build import build_evaluator
from .measure import file_size, time_runs
from .runner import Exported, fit_image, open_exported
from .size import fit

BATCHES = (1, 8)
_TIMED = 20  # images
_READ = "DATASETS.TEST", "DATASETS.CUSTOM", "TEST.KEYPOINT_OKS_SIGMAS", "OUTPUT_DIR"
logger = logging.getLogger(__name__)


class ExportedDetector(nn.Module):
    """An exported file as Detectron2's evaluation takes a detector."""

    def __init__(self, exported: Exported, masks: bool) -> None:
        """Wrap an opened file.

        Args:
            exported: with NMS.
            masks: give the masks of a file that has raw ones.
        """
        super().__init__()
        self._exported = exported
        self._masks = masks and exported.description.get("masks") == "raw"

    def forward(self, records: Sequence[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        """Detections, in px of the images, of records with "image" (h, w, 3) uint8."""
        return [{"instances": self._detect(x["image"])} for x in records]

    def _detect(self, image: np.ndarray) -> Instances:
        about, (height, width) = self._exported.description, image.shape[:2]
        padded, _ = fit_image(image, about)
        boxes, scores, classes, *masks = map(torch.from_numpy, self._exported.of_each(padded)[0])
        found = Instances(fit((height, width), about)[0])
        found.pred_boxes, found.scores, found.pred_classes = Boxes(boxes), scores, classes
        if self._masks:
            found.pred_masks = masks[0][:, None]
        return detector_postprocess(found, height, width)


def evaluate_file(path: Path, args: Namespace, folder: Path) -> Dict[str, Any]:
    """Measure a file as `d2kd eval` measures the detector that it was made of.

    Args:
        path: of a file of `export_student`, with NMS.
        args: see `d2kd.engine.command_line.argument_parser`; data are those of `data`, a folder,
            or of DATASETS among `opts`.
        folder: of results.json and the detections.

    Returns:
        COCO's measures, and "file": its size, MB, and for each batch the median and the 95th
        percentile of an image's time, ms, on one CPU thread.

    Raises:
        ConfigError: the file cannot be evaluated, or not on these data, or a word has no effect.
    """
    if holds_run(folder):
        raise ConfigError(f"{folder} holds a run, which stays as it is: give another --output.")
    _refuse_unread(args)
    if path.suffix == ".pt2":
        logger.warning("torch.export.load can run code that %s brings: open your own only.", path)
    exported = open_exported(path)
    if not exported.description["nms"]:
        raise ConfigError(f"{path} has all boxes, without NMS: export it without --no-nms.")
    cfg = _config(args, folder)
    results: Dict[str, Any] = {}
    for name in cfg.DATASETS.TEST:
        found = _evaluate(exported, path, cfg, name)
        results.update(found if len(cfg.DATASETS.TEST) == 1 else {name: found})
    results["file"] = {"MB": file_size(path), "threads": 1, "ms": _latency(exported, cfg)}
    write_results(cfg, results, describe_run(cfg, [str(path)]))
    return results


def _refuse_unread(args: Namespace) -> None:
    """Raise a ConfigError for words that change nothing."""
    unread = [key for key in args.opts[::2] if key not in _READ]
    unread += ["--num-gpus"] * (args.num_gpus > 1)
    if unread:
        raise ConfigError(
            f"{unread[0]} changes nothing of an exported file, which runs as it is on one CPU "
            f"thread: leave it out. It takes --data, or {', '.join(_READ[:-1])}."
        )


def _config(args: Namespace, folder: Path) -> CfgNode:
    import_files(args.imports)
    cfg = get_d2kd_cfg()
    if args.data:
        use_test_data(cfg, Path(args.data))
    merge_options(cfg, args.opts)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(folder), "cpu"
    cfg.DATASETS.TRAIN = ()  # of which the record would speak
    if not cfg.DATASETS.TEST:
        lacks = f"--data {args.data} has no split 'val' or 'test': {UNDIVIDED}"
        raise ConfigError(
            lacks if args.data else "A file has no data of its own: add --data FOLDER."
        )
    register_custom_datasets(cfg)
    return cfg


def _evaluate(exported: Exported, path: Path, cfg: CfgNode, name: str) -> Dict[str, Any]:
    about = exported.description
    records = load_dataset(name, "DATASETS.TEST", masks="any")
    ours = list(MetadataCatalog.get(name).thing_classes)
    if len(ours) != about["num_classes"] or is_reordered(ours, about["classes"]):
        theirs = ", ".join(about["classes"])[:500] or about["num_classes"]
        raise ConfigError(f"{path} has the classes {theirs}; {name!r} has {', '.join(ours)[:500]}.")
    if other := difference(ours, about["classes"]):
        logger.warning(
            "%d of %d classes of %r are not those of %s, in order (%s).",
            len(other), len(ours), name, path, other[0],
        )  # fmt: skip
    masks = any("segmentation" in x for record in records for x in record["annotations"])
    loader = build_detection_test_loader(
        dataset=records,
        mapper=lambda x: {**x, "image": read_pixels(x["file_name"], about["channels"])},
        num_workers=0,
    )
    detector = ExportedDetector(exported, masks)
    return inference_on_dataset(detector, loader, build_evaluator(cfg, name)) or {}


def _latency(exported: Exported, cfg: CfgNode) -> Dict[str, Dict[str, float]]:
    """Of batches of the first test image, resized and padded before."""
    about = exported.description
    record = load_dataset(cfg.DATASETS.TEST[0], "DATASETS.TEST")[0]
    image, _ = fit_image(read_pixels(record["file_name"], about["channels"]), about)
    measured = {}
    for count in BATCHES if "batch" in about.get("dynamic", ()) else BATCHES[:1]:
        batch = np.repeat(image, count, 0)
        times = time_runs([partial(exported.run, batch)], _TIMED)[0] * 1000 / count
        measured[f"batch {count}"] = {
            "median": float(np.median(times)),
            "p95": float(np.percentile(times, 95)),
        }
    return measured
