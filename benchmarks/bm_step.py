"""What a distilled step costs above its parts, as a ratio inside one run.

The bound of a method is the stock student's training step, plus the no_grad forward of just those
teacher parts that the method reads, plus the method's own layers alone (MGD's generator, non-local
modules, CrossKD's pass through the teacher's head), forward and backward, on the same batch. They
and the distilled step alternate; the table shows medians and the median of the rounds' ratios.

With --memory, the peak of what a step allocates above all weights and optimizer states, of the
distilled over the plain step. On a GPU also how often a step makes the host wait for the device.

    OMP_NUM_THREADS=1 python benchmarks/bm_step.py
"""

import argparse
import copy
import json
import statistics
import warnings
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from layers import own_calls, replay
from memory import peak_bytes
from timing import alternate, default_device, header, training_step

from d2kd import Distiller, Teacher, build_adapter
from d2kd.adapters import STUDENT_ONLY
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file, without_pretrained
from d2kd.heads import build_head
from d2kd.testing import make_batch

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {"LD": "gfl", "Parallel": "gfl", "RoIKD": "faster_rcnn", "MaskKD": "mask_rcnn"}
METHODS = ("PKD", "BCKD", "StructuredKD", "CWD", "FitNets", "MGD", "RoIKD", "PGD", "LD", "CrossKD",
           "Parallel", "FGD", "CanKD", "DetKDS", "MasKD", "SetKD", "VFM")  # fmt: skip
OPTIONS = {"Parallel": ["MODEL.GFL.QUALITY", "SDGQP"]}
PARTS = ("student", "teacher", "layers", "distilled")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="R_18", help="backbone of the student")
    parser.add_argument("--teacher", default="R_50", help="backbone of the teacher")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--size", nargs=2, type=int, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def load(path: str, device: str, options: List[str] | None = None) -> CfgNode:
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(ROOT / path), "--student or --teacher")
    cfg.merge_from_list(options or [])
    cfg.MODEL.DEVICE = device
    return without_pretrained(cfg)


def build(
    name: str, args: argparse.Namespace, device: str
) -> Tuple[CfgNode, torch.nn.Module, Distiller]:
    """Config, plain student and distiller of one method."""
    family = f"configs/detectors/{FAMILIES.get(name, 'retinanet')}"
    options = OPTIONS.get(name, [])
    cfg = load(f"{family}_{args.student}_FPN.yaml", device, options)
    cfg.SOLVER.BASE_LR = 1e-6
    torch.manual_seed(0)
    student = build_model(cfg)
    teacher = Teacher(build_model(load(f"{family}_{args.teacher}_FPN.yaml", device, options)))
    head = build_head(name, cfg.DISTILL[name], build_adapter(student), teacher.adapter)
    heads = {name: (head.to(device), 1.0, 0)}
    plain = copy.deepcopy(student)
    return cfg, plain, Distiller(student=student, teachers=[teacher], heads=heads).train()


def pieces(name: str, args: argparse.Namespace, device: str) -> Dict[str, Callable]:
    """The four things to time for one method."""
    cfg, plain, model = build(name, args, device)
    batch = make_batch([args.size] * args.batch, classes=80, boxes=8)
    with torch.no_grad():
        proposals = model.run_student(batch)
    teacher, need = model.teachers[0], model.need - STUDENT_ONLY

    def run_teacher() -> None:
        output = teacher(batch, model.divisor, "BGR", need)
        if need & {"roi", "masks"}:
            teacher.add_regions(output, proposals, need)

    return {
        "student": training_step(plain.train(), cfg, batch),
        "teacher": run_teacher,
        "layers": replay(own_calls(model, name, batch)),
        "distilled": training_step(model, cfg, batch),
    }


def measure(functions: Dict[str, Callable], rounds: int, device: str) -> Dict[str, float]:
    times = alternate(functions, rounds, device)
    row = {f"{name} ms": statistics.median(values) for name, values in times.items()}
    rows = zip(*(times[name] for name in PARTS), strict=True)
    ratios = sorted(d / (s + t + own) for s, t, own, d in rows)
    row["ratio"] = statistics.median(ratios)
    row["quartiles"] = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
    return row


def waits(function: Callable[[], None]) -> int:
    """How often a call makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(x.message) for x in caught)


def measure_method(name: str, args: argparse.Namespace, device: str) -> Dict[str, float]:
    functions = pieces(name, args, device)
    row = measure(functions, args.rounds, device)
    if device == "cuda":
        row["waits"] = {part: waits(functions[part]) for part in ("student", "distilled")}
    if args.memory:
        peaks = {part: peak_bytes(functions[part], device) for part in ("student", "distilled")}
        row["MiB"] = {part: peak / 2**20 for part, peak in peaks.items()}
        row["memory"] = peaks["distilled"] / peaks["student"]
    return row


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    print("\nmethod      " + "".join(f"{part:>11}" for part in PARTS) + "   ratio (quartiles)")
    results = {}
    for name in args.methods:
        with EventStorage(0):
            results[name] = row = measure_method(name, args, device)
        cells = "".join(f"{row[f'{part} ms']:11.1f}" for part in PARTS)
        low, high = row["quartiles"]
        more = f"   memory {row['memory']:.2f}" if args.memory else ""
        more += f"   waits {row['waits']}" if "waits" in row else ""
        print(f"{name:12}{cells}   {row['ratio']:.3f} ({low:.3f} to {high:.3f}){more}", flush=True)
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
