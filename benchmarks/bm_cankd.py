"""What CanKD's attention to the teacher's cells costs, against the matrix over pairs of cells.

The product at P3 of an 800 x 1344 image, 256 channels and windows of 2 x 2: queries of 100 x 168
cells, keys and values of 50 x 84. Forward and backward, with queries, keys and values given; runs
alternate, and the table shows medians, the median of the rounds' ratios, and the peak of what one
run allocates.

    OMP_NUM_THREADS=1 python benchmarks/bm_cankd.py --json cankd.json
"""

import argparse
import json
from pathlib import Path
from typing import Dict

import torch
from bm_structured import cells, compare, naive_product, step
from memory import peak_bytes
from timing import default_device, header

from d2kd.heads.non_local import non_local_product


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--levels", nargs="+", type=int, default=[3], help="log2 of the strides")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="JSON file to write")
    return parser.parse_args()


def product(args: argparse.Namespace, level: int, device: str) -> Dict[str, float]:
    h, w = cells(args.size, level)
    keys = (h // args.pool) * (w // args.pool)
    shapes = [(args.batch, args.channels // 2, n) for n in (h * w, keys, keys)]
    inputs = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    both = {"naive": naive_product, "reassociated": non_local_product}
    results = [function(*inputs).detach() for function in both.values()]
    largest = (results[0] - results[1]).abs().max() / results[0].abs().max()
    steps = {name: step(function, inputs) for name, function in both.items()}
    row = compare(steps, args.rounds, device)
    for name, function in steps.items():
        for x in inputs:
            x.grad = None  # else freed in the step, below what there was before it
        row[f"{name} MiB"] = peak_bytes(function, device) / 2**20
    row["times less memory"] = row["naive MiB"] / row["reassociated MiB"]
    return {**row, "relative difference": largest.item()}


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    results = {f"P{level}": product(args, level, device) for level in args.levels}
    for name, row in results.items():
        print(f"\n{name}")
        print("\n".join(f"{key:22}{value:12.4g}" for key, value in row.items()))
    if args.json:
        Path(args.json).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
