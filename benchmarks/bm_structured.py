"""What Structured KD's non-local modules and the memory of feature methods cost.

Three tables. "product": the non-local product at P3 with window 4, forward and backward, against
the naive one that forms the (H W) x K matrix, kept here as the reference. "module": the whole
module at every level, for two-stage (P2 to P6) and one-stage (P3 to P7) students. Runs alternate;
the tables show medians and the median of the rounds' ratios. "memory": the peak of what a training
step allocates above all weights and optimizer states, of a distilled step over the plain student's,
on the CPU from the allocator's events in torch's profiler, on a GPU from its own counter.

    OMP_NUM_THREADS=1 python benchmarks/bm_structured.py --json structured.json
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from bm_step import load
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from memory import peak_bytes
from timing import alternate, default_device, header, training_step

from d2kd import Distiller, Teacher, build_adapter
from d2kd.heads import build_head
from d2kd.heads.non_local import NonLocal, build_non_local, non_local_product
from d2kd.testing import make_batch

PARTS = ("product", "module", "memory")
PAIRS = {
    "retinanet": ("retinanet_R_50_FPN", "retinanet_R_101_FPN"),
    "faster_rcnn": ("faster_rcnn_R_50_FPN", "faster_rcnn_R_101_FPN"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1216], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images, of product and module")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=["retinanet"])
    parser.add_argument("--heads", nargs="+", default=["StructuredKD", "PKD", "CWD", "MGD",
                                                       "FitNets"])  # fmt: skip
    parser.add_argument("--memory-size", nargs=2, type=int, default=[512, 640])
    parser.add_argument("--memory-batch", type=int, default=2)
    parser.add_argument("--json", help="JSON file to write")
    return parser.parse_args()


def naive_product(theta: torch.Tensor, phi: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The same as `non_local_product`, by way of the (H W) x K matrix."""
    pairwise = theta.transpose(1, 2) @ phi / phi.shape[2]
    return g @ pairwise.transpose(1, 2)


class NaiveNonLocal(NonLocal):
    product = staticmethod(naive_product)


def cells(size: List[int], level: int) -> Tuple[int, int]:
    return tuple(-(-side // 2**level) for side in size)


def step(function: Callable, inputs: List[torch.Tensor]) -> Callable[[], None]:
    """Forward and backward with a gradient of ones."""

    def run() -> None:
        for x in inputs:
            x.grad = None
        function(*inputs).sum().backward()

    return run


def compare(functions: Dict[str, Callable], rounds: int, device: str) -> Dict[str, float]:
    times = alternate(functions, rounds, device)
    row = {f"{name} ms": statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["naive"], times["reassociated"], strict=True)]
    row["times faster"] = statistics.median(ratios)
    return row


def print_row(name: str, row: Dict[str, float]) -> None:
    numbers = "".join(f"{row[k]:15.2f}" for k in ("naive ms", "reassociated ms", "times faster"))
    print(f"{name:22}{numbers}", flush=True)


def product(args: argparse.Namespace, device: str) -> Dict[str, dict]:
    h, w = cells(args.size, 3)
    shapes = [(args.batch, 64, n) for n in (h * w, (h // 4) * (w // 4), (h // 4) * (w // 4))]
    inputs = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    torch.testing.assert_close(
        non_local_product(*inputs), naive_product(*inputs), atol=1e-3, rtol=0
    )
    functions = {"naive": step(naive_product, inputs),
                 "reassociated": step(non_local_product, inputs)}  # fmt: skip
    row = compare(functions, args.rounds, device)
    print_row(f"product {h}x{w}, window 4", row)
    return {"P3": row}


def module(args: argparse.Namespace, device: str) -> Dict[str, dict]:
    results = {}
    for kind, finest in (("two-stage", 2), ("one-stage", 3)):
        for index in range(5):
            mine = build_non_local(index, 256, "BN").to(device)
            torch.nn.init.ones_(mine.norm.weight)
            naive = copy.deepcopy(mine)
            naive.__class__ = NaiveNonLocal
            h, w = cells(args.size, finest + index)
            x = torch.randn(args.batch, 256, h, w, device=device, requires_grad=True)
            functions = {"naive": step(naive, [x]), "reassociated": step(mine, [x])}
            name = f"{kind} P{finest + index} {h}x{w}"
            results[name] = compare(functions, args.rounds, device)
            print_row(name, results[name])
    return results


def peak_of_step(pair: str, head: str, args: argparse.Namespace, device: str) -> int:
    """Peak of the fourth training step; `head` "" for the plain student."""
    student_path, teacher_path = (f"configs/detectors/{name}.yaml" for name in PAIRS[pair])
    cfg = load(student_path, device)
    cfg.SOLVER.BASE_LR = 1e-6
    torch.manual_seed(0)
    model = build_model(cfg)
    if head:
        teacher = Teacher(build_model(load(teacher_path, device)))
        built = build_head(head, cfg.DISTILL[head], build_adapter(model), teacher.adapter)
        heads = {head: (built.to(device), cfg.DISTILL[head].WEIGHT, 0)}
        model = Distiller(student=model, teachers=[teacher], heads=heads)
    batch = make_batch([args.memory_size] * args.memory_batch, classes=80)
    for record in batch if not cfg.MODEL.MASK_ON else []:
        record["instances"].remove("gt_masks")  # one bitmap a proposal would be most of the peak
    run = training_step(model, cfg, batch)
    for _ in range(3):  # TorchScript optimizes the stock losses in the first ones
        run()
    model.zero_grad()
    torch.manual_seed(0)  # the same proposals are sampled: their pooling takes most of the memory
    return peak_bytes(run, device)


def memory(args: argparse.Namespace, device: str) -> Dict[str, dict]:
    results = {}
    for pair in args.pairs:
        plain = peak_of_step(pair, "", args, device)
        results[pair] = {"plain MiB": plain / 2**20}
        print(f"{pair + ' plain':30}{plain / 2**20:12.0f} MiB", flush=True)
        for head in args.heads:
            peak = peak_of_step(pair, head, args, device)
            results[pair][head] = {"MiB": peak / 2**20, "ratio": peak / plain}
            print(f"{f'{pair} {head}':30}{peak / 2**20:12.0f} MiB{peak / plain:8.3f}", flush=True)
    return results


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    print(f"\n{'':22}{'naive ms':>15}{'reassociated':>15}{'times faster':>15}")
    functions = {"product": product, "module": module, "memory": memory}
    with EventStorage(0):
        results = {name: functions[name](args, device) for name in PARTS if name in args.only}
    if args.json:
        Path(args.json).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
