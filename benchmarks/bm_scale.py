"""How the cost of distillation grows: with image size, boxes, levels, batch, and ranks.

One axis varies at a time, the others stay at their defaults. A row has the plain step, the
teacher's forward, the distilled step, and what the method adds to both, per image; steps alternate,
medians. "ranks" trains in that many processes (gloo without a GPU, one thread each; NCCL with) and
shows the efficiency: images per second over those of one process times the ranks.

    OMP_NUM_THREADS=1 python benchmarks/bm_scale.py --method PGD
"""

import argparse
import json
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from bm_step import load
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from timing import alternate, default_device, header, training_step
from torch.nn.parallel import DistributedDataParallel

from d2kd import Distiller, Teacher, build_adapter
from d2kd.adapters import STUDENT_ONLY
from d2kd.heads import build_head
from d2kd.testing import make_batch

AXES = {
    "size": (128, 192, 256, 384),
    "boxes": (1, 10, 50, 200),
    "levels": (3, 4, 5),
    "batch": (1, 2, 4),
    "ranks": (1, 2),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="PGD")
    parser.add_argument("--student", default="retinanet_R_18_FPN")
    parser.add_argument("--teacher", default="retinanet_R_50_FPN")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--size", type=int, default=256, help="px, of square images")
    parser.add_argument("--boxes", type=int, default=10, help="an image")
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2, help="images of a rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def config(name: str, args: argparse.Namespace, device: str) -> CfgNode:
    """The finest levels of a RetinaNet."""
    cfg = load(f"configs/detectors/{name}.yaml", device)
    cfg.MODEL.RETINANET.IN_FEATURES = cfg.MODEL.RETINANET.IN_FEATURES[: args.levels]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = cfg.MODEL.ANCHOR_GENERATOR.SIZES[: args.levels]
    cfg.SOLVER.BASE_LR = 1e-6
    return cfg


def build(args: argparse.Namespace, device: str) -> Distiller:
    torch.manual_seed(0)
    cfg = config(args.student, args, device)
    student = build_model(cfg)
    teacher = Teacher(build_model(config(args.teacher, args, device)))
    node = cfg.DISTILL[args.method]
    head = build_head(args.method, node, build_adapter(student), teacher.adapter).to(device)
    heads = {args.method: (head, node.WEIGHT, 0)}
    return Distiller(student=student, teachers=[teacher], heads=heads).train()


def pieces(args: argparse.Namespace, device: str) -> Dict[str, Callable]:
    cfg, model = config(args.student, args, device), build(args, device)
    plain, teacher = build_model(cfg), model.teachers[0]
    batch = make_batch([(args.size, args.size)] * args.batch, classes=80, boxes=args.boxes)
    need = model.need - STUDENT_ONLY
    return {
        "plain": training_step(plain, cfg, batch),
        "teacher": lambda: teacher(batch, model.divisor, "BGR", need),
        "distilled": training_step(model, cfg, batch),
    }


def point(args: argparse.Namespace, device: str) -> Dict[str, float]:
    with EventStorage(0):
        times = alternate(pieces(args, device), args.rounds, device)
    row = {name: statistics.median(values) / args.batch for name, values in times.items()}
    added = zip(times["distilled"], times["plain"], times["teacher"], strict=True)
    row["added"] = statistics.median(d - p - t for d, p, t in added) / args.batch
    return row


def rank(index: int, ranks: int, port: int, args: argparse.Namespace, folder: str) -> None:
    """Train in one of several processes; the first writes images per second of all."""
    torch.set_num_threads(1)
    device = f"cuda:{index}" if torch.cuda.is_available() else "cpu"
    address = f"tcp://127.0.0.1:{port}"
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=address, rank=index, world_size=ranks)
    comm.create_local_process_group(ranks)
    wrapped = DistributedDataParallel(build(args, device), broadcast_buffers=False)
    batch = make_batch([(args.size, args.size)] * args.batch, classes=80, boxes=args.boxes)
    step, times = training_step(wrapped, config(args.student, args, device), batch), []
    with EventStorage(0):
        for _ in range(args.rounds + 2):
            dist.barrier()
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    if index == 0:
        speed = ranks * args.batch / statistics.median(times[2:])
        Path(folder, f"bm_scale_{ranks}.json").write_text(json.dumps(speed))
    dist.destroy_process_group()


def images_per_second(ranks: int, args: argparse.Namespace, folder: str) -> float:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.spawn(rank, (ranks, port, args, folder), nprocs=ranks)
    path = Path(folder, f"bm_scale_{ranks}.json")
    speed = json.loads(path.read_text())
    path.unlink()
    return speed


def compare_ranks(args: argparse.Namespace) -> Dict[int, dict]:
    folder = os.environ.get("TMPDIR", "/tmp")
    speeds = {ranks: images_per_second(ranks, args, folder) for ranks in AXES["ranks"]}
    print(f"\n{'ranks':>8}{'images/s':>12}{'efficiency':>12}")
    rows = {n: {"images/s": x, "efficiency": x / n / speeds[1]} for n, x in speeds.items()}
    for n, row in rows.items():
        print(f"{n:8}{row['images/s']:12.2f}{row['efficiency']:12.2f}", flush=True)
    return rows


def compare(axis: str, args: argparse.Namespace, device: str) -> Dict[int, dict]:
    print(f"\n{axis:>8}{'plain':>10}{'teacher':>10}{'distilled':>11}{'added':>9}  ms an image")
    rows = {}
    for value in AXES[axis]:
        rows[value] = row = point(argparse.Namespace(**{**vars(args), axis: value}), device)
        numbers: List[float] = [row[k] for k in ("plain", "teacher", "distilled", "added")]
        print("{:8}{:10.1f}{:10.1f}{:11.1f}{:9.1f}".format(value, *numbers), flush=True)
    return rows


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    results = {}
    for axis in args.axes:
        found = compare_ranks(args) if axis == "ranks" else compare(axis, args, device)
        results[axis] = found
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
