"""A hundred faults, each in one step of a training, and the capsule that it leaves."""

import contextlib
import itertools
from pathlib import Path

import torch
from detectron2.modeling import BACKBONE_REGISTRY

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, DistillationHead
from d2kd.testing import TinyBackbone
from tests.engine.hooks.test_exact_resume import CASES, config

NAN, INF = float("nan"), float("inf")
MARK = 60_000.0  # a pixel that no image has, and that springs a trap
DISTILLED = [case for case, (_, heads) in CASES.items() if heads]


class Trap(DistillationHead):
    """Fails, in one of several ways, on a batch with the mark in it."""

    def __init__(self, student, teacher, *, kind="loss"):
        super().__init__()
        self.kind = kind

    def forward(self, student, teacher):
        x = student.features[max(student.features)]
        loss = (x**2).mean()
        return {"feat": TRAPS[self.kind](loss) if student.images.tensor.max() > MARK / 2 else loss}


def raising(error):
    def fail(loss):
        raise error

    return fail


TRAPS = {
    "nan loss": lambda loss: loss * NAN,
    "infinite loss": lambda loss: loss / 0.0,
    "nan gradient": lambda loss: loss + (loss - loss).sqrt(),
    "infinite gradient": lambda loss: loss + (loss * 1e-30 - loss * 1e-30 + 1e-45).sqrt(),
    "spike": lambda loss: loss * 1e12,
    "assertion": raising(AssertionError("a map has another size")),
    "type": raising(TypeError("'NoneType' object is not iterable")),
    "value": raising(ValueError("no teacher saw this batch")),
    "runtime": raising(RuntimeError("The size of tensor a (3) must match b (4)")),
}


class TrapBackbone(TinyBackbone):
    """A teacher's, whose finest map is broken on a batch with the mark in it."""

    def forward(self, x):
        maps = super().forward(x)
        name = min(maps)
        return {**maps, name: maps[name] * NAN} if x.max() > MARK / 2 else maps


def build_trap_backbone(cfg, input_shape):
    levels = [int(name[1:]) for name in cfg.MODEL.RESNETS.OUT_FEATURES]
    return TrapBackbone(levels, cfg.MODEL.FPN.OUT_CHANNELS)


def set_traps(monkeypatch):
    """Register both, for one test."""
    for registry, trap in ((DISTILLATION_HEAD_REGISTRY, Trap),
                           (BACKBONE_REGISTRY, build_trap_backbone)):  # fmt: skip
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
        registry.register(trap)


def mark(batch, value=MARK):
    """One pixel of the last image has another value."""
    image = batch[-1]["image"].float()
    image[1, 7, 9] = value
    batch[-1]["image"] = image


def mislabel(batch, label):
    target = next(x["instances"] for x in batch if len(x["instances"]))
    target.gt_classes[0] = label


def spoil_weight(trainer, part):
    model = trainer.distiller or trainer.model
    parameters = [x for x in model.parameters() if x.requires_grad]
    with torch.no_grad():
        values = parameters[int(part * len(parameters))].view(-1)
        values[min(4, len(values) - 1)] = NAN  # of a 3 x 3 kernel the centre: no padding hides it


class SpoiltTrainer(DistillationTrainer):
    """A trainer with a fault in one step: in the batch, or in the weights."""

    at, batch_fault, model_fault = 0, None, None

    @classmethod
    def build_train_loader(cls, cfg):
        return Spoilt(super().build_train_loader(cfg), cls.at, vars(cls)["batch_fault"])

    def before_step(self):
        super().before_step()
        if self.iter == self.at and self.model_fault is not None:
            self.model_fault()


@contextlib.contextmanager
def spoilt(fault, at):
    """What trainers that are made here get."""
    SpoiltTrainer.batch_fault, SpoiltTrainer.at = fault, at
    yield
    SpoiltTrainer.batch_fault = None


class Spoilt:
    def __init__(self, loader, at, fault):
        self.loader, self.at, self.fault, self.dataset = loader, at, fault, loader.dataset

    def __iter__(self):
        for i, batch in enumerate(self.loader):
            if i == self.at and self.fault is not None:
                self.fault(batch)
            yield batch


def faults():
    """Name -> what is wrong (kind, case, detail) and in which step."""
    cases, found = list(CASES), {}
    details = {
        "input": itertools.product((NAN, INF, -INF), cases[:5]),
        "weights": itertools.product((0.0, 0.4, 0.8), cases[:5]),
        "teacher": itertools.product(("",), 3 * DISTILLED[:4]),
        "loss": itertools.product(("nan loss", "infinite loss"), (*DISTILLED, DISTILLED[0])),
        "gradient": itertools.product(("nan gradient",) * 2, (*DISTILLED, DISTILLED[0])),
        "exception": itertools.product(("assertion", "type", "value", "runtime"), DISTILLED[:3]),
        "spike": itertools.product(("spike",), 2 * DISTILLED),
        "label": itertools.product((99, 1000), cases[1:]),
    }
    for kind, each in details.items():
        for number, (detail, case) in enumerate(each):
            found[f"{kind} {number}, {detail}, {case}"] = kind, case, detail, number % 4
    return found


def stop(cfg, kind, detail, at, look=lambda trainer: None):
    """Train until the fault ends the run; what it raised, and the capsule."""
    fault = {"input": lambda x: mark(x, detail), "label": lambda x: mislabel(x, detail),
             "weights": lambda x: None}.get(kind, mark)  # fmt: skip
    register_custom_datasets(cfg)
    torch.manual_seed(1)
    with spoilt(fault, at):
        trainer = SpoiltTrainer(cfg)
    trainer.resume_or_load(resume=False)
    if kind == "weights":
        trainer.model_fault = lambda: spoil_weight(trainer, detail)
    if kind == "spike":
        trainer.guard.load_state_dict({"skipped": 0, "in_a_row": 0, "norms": [10.0] * 100})
    look(trainer)
    error = None
    try:
        trainer.train()
    except Exception as raised:  # noqa: BLE001 - whatever the fault leads to
        error = raised
    return error, Path(cfg.OUTPUT_DIR, "replay", str(at))


def spoilt_config(folder, squares, kind, case, detail):
    """A run in which the fault can happen."""
    cfg = config(case, folder, squares, "out", SOLVER__GUARD__SPIKE=1e4,
                 SOLVER__GUARD__ON_SPIKE="stop")  # fmt: skip
    if detail in TRAPS:
        cfg.DISTILL.HEADS = (*cfg.DISTILL.HEADS, "Trap")
        cfg.DISTILL.Trap.KIND = detail
    if kind == "teacher":
        path = folder / "t" / "plain.yaml"
        path.write_text(path.read_text().replace("build_tiny_backbone", "build_trap_backbone"))
    return cfg
