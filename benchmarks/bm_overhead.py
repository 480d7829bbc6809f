"""What the watch over a training adds to a distilled step in which nothing fails.

Steps of one trainer take turns: bare (Detectron2's own), with the guard of gradients, and whole, as
`d2kd train` makes them: with the guard, the recorder of capsules, the check of labels and what
explains failures. "again" is the bare step once more: what it differs by is noise. "alone" is what
whole adds, timed without a step. Locks of folders are held by a run, not by its steps. Batches are
read before, so that steps are at their shortest.

    OMP_NUM_THREADS=1 python benchmarks/bm_overhead.py --rounds 40
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import torch
from bm_step import ROOT, load
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from timing import alternate, default_device, header, timed

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from d2kd.engine.capsule import LastBatch

KINDS = ("guard", "whole", "again")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="fcos_R_18", help="of configs/detectors")
    parser.add_argument("--teacher", default="fcos_R_50")
    parser.add_argument("--methods", nargs="+", default=["PKD"])
    parser.add_argument("--size", nargs=2, type=int, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def write_data(folder: Path, size: Tuple[int, int], count: int, classes: int) -> List[List[str]]:
    """Images with eight objects each, as an entry of DATASETS.CUSTOM."""
    height, width = size
    images = [{"id": i, "file_name": f"{i}.png", "height": height, "width": width}
              for i in range(count)]  # fmt: skip
    boxes = [[8 + 16 * i, 8 + 8 * i, width // 3, height // 4] for i in range(8)]
    objects = [{"image_id": i, "category_id": j % classes, "bbox": box, "iscrowd": 0,
                "area": box[2] * box[3]}
               for i in range(count) for j, box in enumerate(boxes)]  # fmt: skip
    objects = [{"id": i, **x} for i, x in enumerate(objects)]
    for image in images:
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / image["file_name"])
    names = [{"id": i, "name": f"class {i}"} for i in range(classes)]
    data = {"images": images, "annotations": objects, "categories": names}
    (folder / "data.json").write_text(json.dumps(data))
    return [["overhead", str(folder / "data.json"), str(folder)]]


def config_of(args: argparse.Namespace, folder: Path) -> CfgNode:
    """Of a distilled training, with a teacher of random weights."""
    device, teacher = default_device(), f"configs/detectors/{args.teacher}_FPN.yaml"
    torch.save({"model": build_model(load(teacher, device)).state_dict()}, folder / "teacher.pth")
    cfg = load(f"configs/detectors/{args.student}_FPN.yaml", device)
    cfg.DISTILL.STUDENT, cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.META_ARCHITECTURE, "Distiller"
    cfg.DISTILL.HEADS = tuple(args.methods)
    cfg.DISTILL.TEACHER.CONFIG_FILES = (str(ROOT / teacher),)
    cfg.DISTILL.TEACHER.WEIGHTS = (str(folder / "teacher.pth"),)
    cfg.DATASETS.CUSTOM = write_data(folder, args.size, 2 * args.batch, 80)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("overhead",), ()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (min(args.size),), max(args.size)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 0, args.batch, 1e-6
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.SEED = "", str(folder / "out"), 1
    register_custom_datasets(cfg)
    return cfg


class Turns:
    """Steps of one trainer, with and without what watches over them."""

    def __init__(self, cfg: CfgNode) -> None:
        self.trainer = trainer = DistillationTrainer(cfg)
        trainer.storage = EventStorage()
        self.inner, wrapped = trainer._trainer, trainer.batches
        batches = list(itertools.islice(iter(wrapped), 4))
        trainer.batches = LastBatch(itertools.cycle(batches), wrapped._classes, wrapped._key)
        self.streams: Dict[bool, Iterator] = {
            True: iter(trainer.batches), False: itertools.cycle(batches),
        }  # fmt: skip

    def functions(self) -> Dict[str, Callable[[], None]]:
        return {"bare": lambda: self.step(False, False), "guard": lambda: self.step(True, False),
                "whole": lambda: self.step(True, True),
                "again": lambda: self.step(False, False)}  # fmt: skip

    def step(self, guarded: bool, whole: bool) -> None:
        self.inner._hooks[:] = [self.trainer.guard] if guarded else []
        self.inner._data_loader_iter_obj = self.streams[whole]
        self.inner.iter = self.trainer.iter
        (self.trainer if whole else self.inner).run_step()
        self.trainer.iter += 1

    def watch(self) -> None:
        """What is done around a step, without the step: on the gradients of the last one."""
        trainer = self.trainer
        with trainer._recorder.step(trainer):
            next(self.streams[True])
            trainer.guard.after_backward()
            trainer.guard.check()


def added(times: Dict[str, List[float]], kind: str) -> Dict[str, float]:
    """What a kind of step takes more than the bare one of its round, as a share of it."""
    pairs = zip(times["bare"], times[kind], strict=True)
    shares = sorted(x / bare - 1 for bare, x in pairs)
    return {"ms": statistics.median(times[kind]), "added": statistics.median(shares),
            "quartiles": [shares[len(shares) // 4], shares[-1 - len(shares) // 4]],
            "error": statistics.stdev(shares) / len(shares) ** 0.5}  # fmt: skip


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    with tempfile.TemporaryDirectory() as name:
        turns = Turns(config_of(args, Path(name)))
        with turns.trainer.storage, torch.jit.optimized_execution(device == "cuda"):
            times = alternate(turns.functions(), args.rounds, device)
            alone = statistics.median(timed(turns.watch, device) for _ in range(100))
    bare = statistics.median(times["bare"])
    results = {kind: added(times, kind) for kind in KINDS}
    results["alone"] = {"ms": alone, "added": alone / bare}
    print(f"\nbare {bare:.1f} ms")
    for kind in KINDS:
        x = results[kind]
        low, high = x["quartiles"]
        print(f"{kind:6} {x['ms']:8.1f} ms   added {100 * x['added']:+.2f} % (quartiles "
              f"{100 * low:+.2f} to {100 * high:+.2f}, standard error of the mean "
              f"{100 * x['error']:.2f})")  # fmt: skip
    print(f"alone  {alone:8.2f} ms   {100 * alone / bare:.3f} % of the bare step")
    if args.output:
        Path(args.output).write_text(json.dumps({"header": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
