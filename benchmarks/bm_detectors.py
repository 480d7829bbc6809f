"""Training steps of dense detectors beside the first one's, and what assignment costs by boxes.

All detectors have the same ResNet-FPN, one anchor per cell and towers of four convolutions with
GroupNorm; `RetinaNet (no norm)` is Detectron2's default tower. Steps alternate; the table shows
medians and the median of the rounds' ratios to the first detector. Of assignment it shows the
fastest of 15 runs.

    python benchmarks/bm_detectors.py --rounds 11 --size 256 320 --batch 2 --plot assignment.png
    python benchmarks/bm_detectors.py --only steps --detectors ATSS "DDOD (plain)" DDOD
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Callable, Dict, List

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, build_model
from detectron2.utils.events import EventStorage
from timing import alternate, default_device, header, timed, training_step

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.detectors.assigner import atss_assign
from d2kd.testing import make_batch

ROOT = Path(__file__).resolve().parents[1]
NORMS = {"RetinaNet": "GN", "RetinaNet (no norm)": "", "FCOS": "GN", "ATSS": "GN", "GFL": "GN",
         "GFLv2": "GN", "AutoAssign": "GN", "DDOD": "GN", "DDOD (plain)": "GN",
         "DDOD (topk)": "GN", "RepPoints": "GN"}  # fmt: skip
BOXES = (1, 5, 10, 25, 50, 100, 200, 300, 400, 500)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 320], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--assign-size", nargs=2, type=int, default=[800, 1333])
    parser.add_argument("--detectors", nargs="+", choices=NORMS, default=list(NORMS)[:6])
    parser.add_argument("--only", choices=["steps", "assignment"])
    parser.add_argument("--plot", help="PNG file of the assignment curve")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def config(name: str, depth: int, norm: str, device: str):
    cfg, (meta, _, variant) = get_d2kd_cfg(), name.partition(" ")
    merge_config_file(cfg, str(ROOT / "configs/detectors/gfl_R_50_FPN.yaml"), "benchmark")
    cfg.MODEL.META_ARCHITECTURE = meta.removesuffix("v2")
    cfg.MODEL.GFL.QUALITY = "DGQP" if meta == "GFLv2" else "none"
    cfg.MODEL.DDOD.DEFORM = variant != "(plain)"
    cfg.MODEL.DDOD.ASSIGNER = "topk" if variant == "(topk)" else "atss"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RETINANET.NORM = norm
    cfg.MODEL.DEVICE, cfg.SOLVER.BASE_LR = device, 1e-6
    return cfg


def steps(args: argparse.Namespace, device: str) -> Dict[str, Callable]:
    batch = make_batch([args.size] * args.batch, classes=80, boxes=8)
    functions = {}
    for name in args.detectors:
        cfg = config(name, args.depth, NORMS[name], device)
        functions[name] = training_step(build_model(cfg), cfg, batch)
    return functions


def compare_steps(args: argparse.Namespace, device: str) -> Dict[str, dict]:
    with EventStorage(0):
        times = alternate(steps(args, device), args.rounds, device)
    results = {}
    print(f"\n{'detector':22}{'ms':>10}{'ratio':>8}  (quartiles)")
    for name, values in times.items():
        ratios = sorted(a / b for a, b in zip(values, times[args.detectors[0]], strict=True))
        low, middle, high = (ratios[len(ratios) * k // 4] for k in (1, 2, 3))
        results[name] = {"ms": statistics.median(values), "ratio": middle, "quartiles": [low, high]}
        print(f"{name:22}{results[name]['ms']:10.1f}{middle:8.3f}  ({low:.3f} to {high:.3f})")
    return results


def anchors_of(size: List[int], device: str) -> List[torch.Tensor]:
    cfg = config("GFL", 18, "GN", "cpu")
    strides = (8, 16, 32, 64, 128)
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=s) for s in strides]).to(device)
    maps = [torch.zeros(1, 1, -(-size[0] // s), -(-size[1] // s), device=device) for s in strides]
    return [boxes.tensor for boxes in generator(maps)]


def assignment_curve(args: argparse.Namespace, device: str) -> Dict[int, float]:
    levels, batch = anchors_of(args.assign_size, device), args.batch
    valid = torch.ones(batch, sum(map(len, levels)), dtype=torch.bool, device=device)
    curve = {}
    print(f"\n{'boxes an image':>16}{'ms a batch':>12}{'us a box':>10}")
    for count in BOXES:
        data = make_batch([args.assign_size] * batch, classes=80, boxes=count)
        boxes = [x["instances"].gt_boxes.tensor.to(device) for x in data]
        atss_assign(levels, valid, boxes)
        runs = [timed(lambda b=boxes: atss_assign(levels, valid, b), device) for _ in range(15)]
        curve[count] = min(runs)
        print(f"{count:16}{curve[count]:12.2f}{1000 * curve[count] / count / batch:10.1f}")
    return curve


def plot(curve: Dict[int, float], batch: int, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    axes.plot(list(curve), list(curve.values()), marker="o")
    axes.set(xlabel="boxes an image", ylabel=f"ms for {batch} images", xlim=0, ylim=0)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    results = {} if args.only == "assignment" else compare_steps(args, device)
    curve = {} if args.only == "steps" else assignment_curve(args, device)
    if args.plot and curve:
        plot(curve, args.batch, args.plot)
    if args.output:
        data = {"header": head, "steps": results, "assignment": curve}
        Path(args.output).write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
