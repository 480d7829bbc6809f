"""What a teacher adds to a plain step, in every mode: the tax (distilled - plain) / plain.

Plain and distilled steps alternate in one run; a turn is a few steps. Between turns what a teacher
has begun in advance is waited for and not timed, so that no turn pays for another one's teacher.
Modes: in this process, ahead in a process of its own with `--threads` threads, read from the cache,
bf16 with maps in NHWC order in this process and ahead. "CPU" is the processors that this process
and its children were busy with, "MiB" the resident memory of both.

    OMP_NUM_THREADS=1 python benchmarks/bm_tax.py
    OMP_NUM_THREADS=2 python benchmarks/bm_tax.py --pairs R_18:R_50 --modes own ahead
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List

import torch
from bm_step import load
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from timing import default_device, header

from d2kd import Distiller, Teacher, build_adapter
from d2kd.data.ahead import AheadLoader
from d2kd.heads import build_head
from d2kd.solver import build_optimizer
from d2kd.teachers import OutputCache, TensorStore
from d2kd.teachers.ahead import AheadTeacher
from d2kd.teachers.ahead_runner import ProcessRunner
from d2kd.testing import make_batch

STUDENTS, TEACHERS = ("mobilenetv2", "R_18", "R_50"), ("R_18", "R_50", "R_101")
PAIRS = [f"{student}:{teacher}" for student in STUDENTS for teacher in TEACHERS]
HALF = {"precision": "bf16", "channels_last": True}
MODES = {"own": {}, "ahead": {}, "cached": {}, "bf16": HALF, "bf16 ahead": HALF}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pairs", nargs="+", default=PAIRS, help="backbones of FCOS, STUDENT:TEACHER"
    )
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--method", default="PKD")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 256], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--threads", type=int, default=0, help="of the teacher's process")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


class Training:
    """Steps of a student, plain or with a teacher in one of the modes."""

    def __init__(self, pair: str, mode: str, args: argparse.Namespace, folder: str) -> None:
        device, (student, teacher) = default_device(), pair.split(":")
        self.cfg = load(f"configs/detectors/fcos_{student}_FPN.yaml", device)
        self.cfg.SOLVER.BASE_LR = 1e-6
        torch.manual_seed(0)
        self.model = build_model(self.cfg).train()
        self.runner = None
        if mode != "plain":
            other = build_model(load(f"configs/detectors/fcos_{teacher}_FPN.yaml", device))
            self._distil(Teacher(other, **MODES[mode]), mode, args, folder)
        self.optimizer = build_optimizer(self.cfg, self.model)
        batches = [make_batch([args.size] * args.batch, 80, 8, seed=i) for i in range(4)]
        stream = itertools.cycle(batches)
        self.stream = stream if self.runner is None else self._shown(stream)

    def _distil(self, teacher: Teacher, mode: str, args: argparse.Namespace, folder: str) -> None:
        head = build_head(args.method, self.cfg.DISTILL[args.method], build_adapter(self.model),
                          teacher.adapter)  # fmt: skip
        if "cached" in mode:
            store = TensorStore(Path(folder, mode), 10**10)
            teacher.cache = OutputCache(store, teacher.adapter, "")
        if "ahead" in mode:
            self.runner = ProcessRunner(teacher, teacher.adapter.device, args.threads)
            teacher = AheadTeacher(teacher, self.runner)
        heads = {args.method: (head, 1.0, 0)}
        self.model = Distiller(student=self.model, teachers=[teacher], heads=heads).train()

    def _shown(self, stream: Iterator[List[dict]]) -> Iterator[List[dict]]:
        copies = ([dict(x) for x in batch] for batch in stream)
        return iter(AheadLoader(copies, self.model.look_ahead, 1))

    def step(self) -> None:
        self.optimizer.zero_grad()
        sum(self.model(next(self.stream)).values()).backward()
        self.optimizer.step()

    def wait(self) -> None:
        """Until the teacher is done with what it has begun."""
        if self.runner is not None:
            self.runner.drain()


def of_process(pid: int) -> Dict[str, float]:
    """Processor time (s) and resident memory (MiB)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    seconds = (int(fields[11]) + int(fields[12])) / ticks
    return {"cpu": seconds, "MiB": int(fields[21]) * page / 2**20}


def turn(training: Training, steps: int) -> Dict[str, float]:
    """Milliseconds of a step, and processors that were busy."""
    pids = [os.getpid(), *([training.runner.process.pid] if training.runner else [])]
    before = sum(of_process(pid)["cpu"] for pid in pids)
    start = time.perf_counter()
    for _ in range(steps):
        training.step()
    seconds = time.perf_counter() - start
    cpu = sum(of_process(pid)["cpu"] for pid in pids) - before
    training.wait()
    return {"ms": 1000 * seconds / steps, "cpu": cpu / seconds}


def measure(pair: str, args: argparse.Namespace, folder: str) -> Dict[str, Dict[str, float]]:
    trainings = {x: Training(pair, x, args, folder) for x in ("plain", *args.modes)}
    for training in trainings.values():
        for _ in range(4):  # every batch once: the cache is filled
            training.step()
        training.wait()
    turns: Dict[str, List[Dict[str, float]]] = {name: [] for name in trainings}
    for index in range(args.turns):
        order = list(trainings) if index % 2 else list(trainings)[::-1]
        for name in order:
            turns[name].append(turn(trainings[name], args.steps))
    return {name: row(name, turns, trainings[name]) for name in trainings}


def row(name: str, turns: Dict[str, List[Dict[str, float]]], training: Training) -> Dict:
    ratios = sorted(b["ms"] / a["ms"] - 1 for a, b in zip(turns["plain"], turns[name], strict=True))
    found = {"ms": statistics.median(x["ms"] for x in turns[name]),
             "tax": statistics.median(ratios),
             "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
             "cpu": statistics.median(x["cpu"] for x in turns[name])}  # fmt: skip
    if training.runner is not None:
        found["MiB"] = of_process(training.runner.process.pid)["MiB"]
        training.runner.close()
    return found


def main() -> None:
    args = parse_arguments()
    head = {**header(default_device()), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    print(
        f"\n{'student, teacher':40}{'mode':>12}{'ms':>9}{'tax (quartiles)':>24}{'CPU':>7}{'MiB':>7}"
    )
    results = {}
    for pair in args.pairs:
        with tempfile.TemporaryDirectory() as folder, EventStorage(0):
            results[pair] = measure(pair, args, folder)
        for mode, x in results[pair].items():
            low, high = x["quartiles"]
            tax = f"{x['tax']:.2f} ({low:.2f} to {high:.2f})"
            memory = f"{x['MiB']:.0f}" if "MiB" in x else ""
            line = f"{pair:20}{mode:>12}{x['ms']:9.0f}{tax:>24}{x['cpu']:7.2f}{memory:>7}"
            print(line, flush=True)
    own = of_process(os.getpid())["MiB"]
    print(f"\nThis process, with the models of all modes: {own:.0f} MiB")
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
