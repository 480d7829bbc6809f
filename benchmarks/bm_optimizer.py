"""One step of SGD as Detectron2 builds it and as d2kd does, on the parameters of a detector.

OMP_NUM_THREADS=1 python benchmarks/bm_optimizer.py
"""

import argparse
import copy
import statistics

import torch
from bm_step import load
from detectron2.modeling import build_model
from detectron2.solver.build import build_optimizer as build_stock_optimizer
from timing import alternate, default_device, header

from d2kd.solver import build_optimizer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", default="configs/detectors/retinanet_R_50_FPN.yaml")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def main() -> None:
    args, device = parse_arguments(), default_device()
    print("\n".join(f"{key}: {value}" for key, value in {**header(device), **vars(args)}.items()))
    cfg = load(args.detector, device)
    torch.manual_seed(0)
    models = [build_model(cfg)]
    for parameter in models[0].parameters():
        parameter.grad = torch.randn_like(parameter)
    models.append(copy.deepcopy(models[0]))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        b.grad = a.grad.clone()
    builders = {"Detectron2": build_stock_optimizer, "d2kd": build_optimizer}
    functions = {
        name: builder(cfg, model).step
        for (name, builder), model in zip(builders.items(), models, strict=True)
    }
    times = alternate(functions, args.rounds, device)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    pairs = zip(times["Detectron2"], times["d2kd"], strict=True)
    for name, values in times.items():
        print(f"{name:12}{statistics.median(values):10.1f} ms")
    print(f"times faster: {statistics.median(a / b for a, b in pairs):.2f}; same parameters after")


if __name__ == "__main__":
    main()
