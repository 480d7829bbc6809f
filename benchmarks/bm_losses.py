"""Every loss of d2kd, forward and backward, beside the straightforward form of its formula.

Reference forms are in reference_losses.py. Value and gradients are asserted to be equal, then both
run in turn: median ms, and the median of the rounds' ratios. Shapes are those of two 800 x 1344
images, P3 to P7, 256 channels, 80 classes. PGD has bm_pgd.py, Structured KD's non-local term
bm_structured.py and CanKD's attention bm_cankd.py. On a CPU let glibc keep the memory that is
freed: page faults of fresh memory, which vary from run to run, otherwise take more time than the
sums.

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
    OMP_NUM_THREADS=1 python benchmarks/bm_losses.py --rounds 7 --output losses.json
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Callable, Dict, List, Optional

import feature_loss_cases
import response_loss_cases
import torch
from feature_loss_cases import Case
from timing import alternate, default_device, header, timed
from torch import Tensor

CASES = {**feature_loss_cases.CASES, **response_loss_cases.CASES}
LEAST_MS = 20  # a shorter function is called several times a round


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--proposals", type=int, default=512, help="an image")
    parser.add_argument("--masks", type=int, default=128, help="28 x 28 px, an image")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=[""], help="starts of names")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def run(function: Callable[[], Tensor], leaves: List[Tensor]) -> List[Optional[Tensor]]:
    """Value and gradients, None where it does not depend on a leaf."""
    value = function()
    gradients = torch.autograd.grad(value, leaves, allow_unused=True) if leaves else ()
    return [value.detach(), *gradients]


def check(name: str, case: Case) -> None:
    mine, reference = (run(f, case.leaves) for f in (case.mine, case.reference))
    for index, pair in enumerate(zip(mine, reference, strict=True)):
        a, b = (torch.zeros_like(case.leaves[index - 1]) if x is None else x for x in pair)
        torch.testing.assert_close(
            a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item(),
            msg=lambda m, i=index: f"{name}, tensor {i}: {m}",
        )  # fmt: skip


def compare(case: Case, rounds: int, device: str) -> Dict[str, float]:
    calls = {
        name: lambda f=f: run(f, case.leaves)
        for name, f in (("reference", case.reference), ("d2kd", case.mine))
    }
    count = math.ceil(LEAST_MS / timed(calls["d2kd"], device))
    functions = {name: lambda f=f: [f() for _ in range(count)] for name, f in calls.items()}
    times = alternate(functions, rounds, device)
    row = {f"{name} ms": statistics.median(values) / count for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["reference"], times["d2kd"], strict=True)]
    return {**row, "times faster": statistics.median(ratios)}


def main() -> None:
    args = parse_arguments()
    args.device = default_device()
    head = {**header(args.device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    print(f"\n{'':24}{'reference ms':>14}{'d2kd ms':>12}{'times faster':>14}")
    results = {}
    for name in (name for name in CASES if name.startswith(tuple(args.only))):
        torch.manual_seed(0)
        case = CASES[name](args)
        check(name, case)
        results[name] = row = compare(case, args.rounds, args.device)
        ms = row["reference ms"], row["d2kd ms"]
        print(f"{name:24}{ms[0]:14.2f}{ms[1]:12.2f}{row['times faster']:14.2f}", flush=True)
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
