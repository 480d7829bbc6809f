"""What a distilled step costs above its parts, as a ratio inside one run.

The bound of a method is the stock student's training step plus the no_grad forward of just those
teacher parts that the method reads, on the same batch. Student step, teacher forward and distilled
step alternate; the table shows medians and the median of the rounds' ratios.

    python benchmarks/bm_step.py --rounds 15 --size 256 320 --batch 2
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Callable, Dict, List

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from timing import alternate, default_device, header, training_step

from d2kd import Distiller, Teacher, build_adapter
from d2kd.adapters import STUDENT_ONLY
from d2kd.config import get_d2kd_cfg, merge_config_file
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, build_head
from d2kd.testing import make_batch

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="configs/detectors/retinanet_R_18_FPN.yaml")
    parser.add_argument("--teacher", default="configs/detectors/retinanet_R_50_FPN.yaml")
    parser.add_argument("--heads", nargs="+", default=["PKD", "BCKD"])
    parser.add_argument("--size", nargs=2, type=int, default=[256, 320], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def load(path: str, device: str):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(ROOT / path), "--student or --teacher")
    cfg.MODEL.DEVICE = device
    return cfg


def pieces(args: argparse.Namespace, names: List[str], device: str) -> Dict[str, Callable]:
    """The three things to time for one combination of heads."""
    cfg = load(args.student, device)
    cfg.SOLVER.BASE_LR = 1e-6
    student = build_model(cfg)
    teacher = Teacher(build_model(load(args.teacher, device)))
    adapter = build_adapter(student)
    heads = {n: (build_head(n, cfg.DISTILL[n], adapter, teacher.adapter).to(device), 1.0, 0)
             for n in names}  # fmt: skip
    plain = copy.deepcopy(student)
    model = Distiller(student=student, teachers=[teacher], heads=heads, input_format="BGR")
    batch = make_batch([args.size] * args.batch, classes=80, boxes=8)
    need = model.need - STUDENT_ONLY
    assert set(names) <= {name for name, _ in DISTILLATION_HEAD_REGISTRY}
    return {
        "student": training_step(plain, cfg, batch),
        "teacher": lambda: teacher(batch, model.divisor, "BGR", need),
        "distilled": training_step(model, cfg, batch),
    }


def measure(functions: Dict[str, Callable], rounds: int, device: str) -> Dict[str, float]:
    times = alternate(functions, rounds, device)
    row = {f"{name} ms": statistics.median(values) for name, values in times.items()}
    rows = zip(times["student"], times["teacher"], times["distilled"], strict=True)
    ratios = sorted(d / (s + t) for s, t, d in rows)
    row["ratio"] = statistics.median(ratios)
    row["ratio quartiles"] = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
    return row


def main() -> None:
    args = parse_arguments()
    device = default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    print(f"\n{'heads':12}{'student':>10}{'teacher':>10}{'distilled':>11}{'ratio':>8}  (ms)")
    results = {}
    combinations = [[head] for head in args.heads]
    combinations += [list(args.heads)] if len(args.heads) > 1 else []
    for names in combinations:
        with EventStorage(0):
            row = measure(pieces(args, names, device), args.rounds, device)
        results["+".join(names)] = row
        cells = "".join(
            f"{row[f'{part} ms']:10.1f}" for part in ("student", "teacher", "distilled")
        )
        low, high = row["ratio quartiles"]
        spread = f"(quartiles {low:.3f} to {high:.3f})"
        print(f"{'+'.join(names):12}{cells}{row['ratio']:9.3f}  {spread}", flush=True)
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
