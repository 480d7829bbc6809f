"""Tiny students, teachers and distillers for the contract tests."""

import copy
import multiprocessing
import warnings
from pathlib import Path
from typing import Sequence

import torch
from click.testing import CliRunner
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from d2kd import (
    DetectorOutput,
    DetectorSpec,
    Distiller,
    Teacher,
    build_adapter,
)
from d2kd.cli import main
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, build_head
from d2kd.heads.base import head_defaults
from d2kd.testing import tiny_cfg


def detector(meta: str = "RetinaNet", channels: int = 8, seed: int = 0, **keys):
    cfg = tiny_cfg(meta, channels)
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(seed)
    return build_model(cfg)


def distill(student, teachers, heads: Sequence = ("PKD", "BCKD"), input_format="BGR", options=None):
    """A distiller of registered heads, all reading teacher 0; `options` override defaults."""
    teachers = [t if isinstance(t, Teacher) else Teacher(t) for t in teachers]
    adapter, built = build_adapter(student), {}
    for name in heads:
        cls = DISTILLATION_HEAD_REGISTRY.get(name)
        node = {k.upper(): v for k, v in head_defaults(cls).items()}
        node.update((options or {}).get(name, {}))
        built[name] = (build_head(name, node, adapter, teachers[0].adapter), 1.0, 0)
    return Distiller(student=student, teachers=teachers, heads=built, input_format=input_format)


def pair(
    meta: str = "RetinaNet",
    heads: Sequence = ("PKD", "BCKD"),
    teacher_channels: int = 12,
    options=None,
    **keys,
):
    """Student and distiller in training mode; the teacher is wider and has other weights."""
    student = detector(meta, **keys)
    teacher = detector(meta, teacher_channels, seed=1, **keys)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return student, distill(student, [teacher], heads, options=options).train()


def under_way(heads):
    """As later in a training: what starts as the identity has moved, and MasKD's tokens count."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, x in heads.named_parameters():
            if name.endswith(("norm.weight", "restore.weight", "scale")):
                x.fill_(1)
        for name, x in heads.named_buffers():
            if ".tokens." in f".{name}":
                x.normal_(std=0.2, generator=generator)
            elif name.endswith("steps"):
                x.fill_(10**6)


def feature_spec(widths, name="X", **keys):
    """A detector of which only FPN widths by stride are known."""
    features = {s: ShapeSpec(channels=c, stride=s) for s, c in widths.items()}
    return DetectorSpec(name=name, features=features, num_classes=3, **keys)


def feature_output(widths, seed):
    """Random FPN maps of two images of 256 px."""
    g = torch.Generator().manual_seed(seed)
    maps = {s: torch.randn(2, c, 256 // s, 256 // s, generator=g) for s, c in widths.items()}
    return output_of(maps)


def output_of(features, boxes=None, size=(256, 256)):
    """A DetectorOutput of nothing but FPN maps by stride and, of each image, boxes (XYXY px)."""
    gt = [_objects(x, size) for x in boxes or ()]
    return DetectorOutput(images=None, adapter=None, features=features, gt=gt)


def _objects(boxes, size):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.zeros(len(boxes)).long())


@torch.no_grad()
def make_identity(head):
    """Every adapter of a head passes its input on; for equal widths."""
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.dirac_(module.weight)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.eye_(module.weight)
            module.bias.zero_()
    return head


def d2kd(*arguments):
    """The command line in this process: a result with exit_code and output.

    Data sets that it registers are forgotten, as at the end of a process.
    """
    catalogs = DatasetCatalog, MetadataCatalog
    before = [set(catalog) for catalog in catalogs]
    try:
        with warnings.catch_warnings():
            return CliRunner().invoke(main, [str(x) for x in arguments], prog_name="d2kd")
    finally:
        for catalog, names in zip(catalogs, before, strict=True):
            for name in set(catalog) - names:
                catalog.remove(name)


def clone(module):
    return copy.deepcopy(module)


def write_config(folder: Path, data: Path, meta: str = "RetinaNet", **keys) -> Path:
    """A plain tiny detector on the squares, as a yaml file."""
    cfg = tiny_cfg(meta, classes=2)
    cfg.DATASETS.CUSTOM = [[f"squares_{data.name}", str(data / "squares.json"), str(data)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"squares_{data.name}",)
    cfg.MODEL.WEIGHTS, cfg.SEED, cfg.OUTPUT_DIR = "", 1, str(folder / "out")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = 4, 0.02, 6
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = 2, (), 3
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    path = folder / "plain.yaml"
    folder.mkdir(exist_ok=True)
    path.write_text(cfg.dump())
    return path


def worker_processes():
    """Processes of data loaders, without the tests' own servers."""
    servers = "ForkServerProcess", "SpawnProcess"
    return [x for x in multiprocessing.active_children() if not x.name.startswith(servers)]
