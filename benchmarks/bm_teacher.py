"""What each way of running a teacher gains, and what it changes.

The no_grad forward of features and dense predictions in fp32, bf16 and fp16 (autocast), channels
last, compiled, and read from the cache; runs alternate. "features" and "scores" are the largest
differences to fp32, of features relative to the largest magnitude of their level. With --images,
the box AP of each precision on that many images of DATASETS.TEST[0].

    OMP_NUM_THREADS=1 python benchmarks/bm_teacher.py
    python benchmarks/bm_teacher.py --teacher configs/quickstart/teacher.yaml \
        --weights d2kd/quickstart/teacher.safetensors --size 256 256 --images 200
"""

import argparse
import copy
import json
import statistics
import tempfile
from pathlib import Path
from typing import Callable, Dict, Tuple

import torch
from bm_step import load
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from timing import alternate, default_device, header

from d2kd import DetectorOutput, Teacher
from d2kd.build import compile_in_place
from d2kd.checkpoint import load_detector
from d2kd.data import register_custom_datasets
from d2kd.engine.hooks.first_images import FirstImages
from d2kd.teachers import OutputCache, TensorStore
from d2kd.testing import make_batch

NEED = frozenset({"features", "logits", "deltas", "scores"})
WAYS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "channels last": {"channels_last": True},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
    "compiled": {},
    "cached": {},
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", default="configs/detectors/retinanet_R_50_FPN.yaml")
    parser.add_argument("--weights", default="", help="of the teacher; random without")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--size", nargs=2, type=int, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def build(args: argparse.Namespace, device: str) -> Tuple[CfgNode, torch.nn.Module]:
    cfg = load(args.teacher, device)
    torch.manual_seed(0)
    detector = build_model(cfg)
    if args.weights:
        load_detector(detector, args.weights, "--weights")
    return cfg, detector


def teachers(args: argparse.Namespace, device: str, folder: str) -> Dict[str, Teacher]:
    cfg, detector = build(args, device)
    found = {}
    for name in args.ways:
        keys = {"input_format": cfg.INPUT.FORMAT, **WAYS[name]}
        found[name] = Teacher(copy.deepcopy(detector), **keys)
    if "compiled" in found:
        compile_in_place([found["compiled"].adapter])
    if "cached" in found:
        store = TensorStore(Path(folder), 10**10)
        found["cached"].cache = OutputCache(store, found["cached"].adapter, "")
    return found


def difference(fp32: DetectorOutput, other: DetectorOutput) -> Dict[str, float]:
    features = [
        ((x - other.features[s].float()).abs().max() / x.abs().max()).item()
        for s, x in fp32.features.items()
    ]
    scores = [(x - other.scores[s]).abs().max().item() for s, x in fp32.scores.items()]
    return {"features": max(features), "scores": max(scores)}


def measure(args: argparse.Namespace, device: str, folder: str) -> Dict[str, dict]:
    ways = teachers(args, device, folder)
    batch = make_batch([args.size] * args.batch, classes=80, boxes=8)
    run: Dict[str, Callable] = {
        name: lambda t=t: t(batch, 32, t.input_format, NEED) for name, t in ways.items()
    }
    exact, rows = run["fp32"](), {}
    times = alternate(run, args.rounds, device)
    for name, values in times.items():
        pairs = zip(times["fp32"], values, strict=True)
        rows[name] = {
            "ms": statistics.median(values),
            "times faster": statistics.median(a / b for a, b in pairs),
            **difference(exact, run[name]()),
        }
    return rows


def precisions(args: argparse.Namespace, device: str) -> Dict[str, float]:
    cfg, detector = build(args, device)
    register_custom_datasets(cfg)
    images, found = FirstImages(cfg, args.images), {}
    for name in (x for x in ("fp32", "bf16", "fp16") if x in args.ways):
        context = Teacher(detector, input_format=cfg.INPUT.FORMAT, **WAYS[name]).autocast()
        found[name] = images.evaluate(detector, cfg.INPUT.FORMAT, context=context).ap
    return found


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    with tempfile.TemporaryDirectory() as folder, EventStorage(0):
        rows = measure(args, device, folder)
    print(f"\n{'':22}{'ms':>10}{'times faster':>14}{'features':>12}{'scores':>12}")
    for name, row in rows.items():
        print(f"{name:22}{row['ms']:10.1f}{row['times faster']:14.2f}"
              f"{row['features']:12.2e}{row['scores']:12.2e}")  # fmt: skip
    results = {"header": head, "results": rows}
    if args.images:
        results["AP"] = precisions(args, device)
        print("box AP:", ", ".join(f"{k} {v:.3f}" for k, v in results["AP"].items()))
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
