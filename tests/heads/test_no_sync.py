"""No head makes the host wait for the device in its forward or backward pass; LD does so twice.

SetKD asks the student's own assigner, whose operators are not ours and are not counted: those of
RetinaNet and of two-stage detectors wait.

Operators whose result's size or whose value the host needs stop a GPU's queue. They are counted as
they are dispatched, which needs no GPU; where there is one, CUDA itself checks.
"""

import traceback
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d2kd.heads import DISTILLATION_HEAD_REGISTRY
from d2kd.testing import make_batch
from tests.helpers import pair, under_way

WAITING = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "histc", "is_nonzero", "lift_fresh",
    "linalg_inv", "masked_select", "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip
ON_TWO_STAGES = ("RoIKD", "MaskKD")
ON_GFL = ("LD", "Parallel")
ON_ALL = ("SetKD",)
ASSIGNERS = ("detector.label_anchors(", "= matcher(pairwise_iou")
SENT = ("limits = torch.tensor(", "sizes = torch.tensor(")  # without blocking, see tests/device
OPTIONS = {
    "CrossKD": {"BLOCK": 1}, "LD": {"CLS_WEIGHT": 1.0}, "PGD": {"TOP_K": 9},
    "SetKD": {"SCORE": 0.1, "SCORE_LOW": 0.01, "POINTS": "general"},
}  # fmt: skip
HEADS = sorted(name for name, head in DISTILLATION_HEAD_REGISTRY if "d2kd" in head.__module__)
PAIRS = [
    (head, meta)
    for head in HEADS
    for meta in (
        ("GeneralizedRCNN",) if head in ON_TWO_STAGES
        else ("GFL",) if head in ON_GFL
        else ("RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints",
              "GeneralizedRCNN")
        if head in ON_ALL
        else ("RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints")
    )
]  # fmt: skip


class CountWaiting(TorchDispatchMode):
    """Counts operators that make the host wait, with the line of d2kd that called them."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        masked = name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple))
        if name in WAITING or masked and any(x is not None and x.dtype == torch.bool
                                             for x in args[1]):  # fmt: skip
            lines = [x for x in traceback.extract_stack() if "/d2kd/" in x.filename]
            self.found[f"{name}: {lines[-1].line if lines else 'backward'}"] += 1
        return function(*args, **(kwargs or {}))


def distiller(head, meta):
    """Of a pair, in training mode, on FCOS at its first step, on all others later."""
    keys = {"MaskKD": {"MODEL__MASK_ON": True}, "Parallel": {"MODEL__GFL__QUALITY": "SDGQP"}}
    labels = {"MODEL__AUTOASSIGN__HARD_LABELS": True}
    model = pair(meta, (head,), 8, OPTIONS, **labels, **keys.get(head, {}))[1]
    if meta != "FCOS":
        under_way(model.heads)
    return model


def outputs(head, meta):
    model = distiller(head, meta)
    if torch.cuda.is_available():
        model.cuda()
    batch = make_batch()
    student = model.run_student(batch)
    return model.heads[head], student, model.run_teachers(batch, student)[0]


def step(head, student, teacher):
    sum(head(student, teacher).values()).backward(retain_graph=True)


@pytest.mark.parametrize(("head", "meta"), PAIRS)
def test_operators(head, meta):
    module, student, teacher = outputs(head, meta)
    step(module, student, teacher)
    with CountWaiting() as count:
        step(module, student, teacher)
    others = SENT
    if head == "SetKD":
        assert teacher.sets.boxes.shape[1] > 0
        others += ASSIGNERS
    found = {k: n for k, n in count.found.items() if not any(x in k for x in others)}
    assert sum(found.values()) == (2 if head == "LD" else 0), found


def test_the_counter_sees():
    with CountWaiting() as count:
        x = torch.arange(3.0)
        x[x > 1]
        x.sum().item()
        x.new_tensor(1.0)
    assert sum(count.found.values()) >= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    for head, meta in PAIRS:
        if head == "LD" or (head, meta) in [("SetKD", "RetinaNet"), ("SetKD", "GeneralizedRCNN")]:
            continue
        module, student, teacher = outputs(head, meta)
        step(module, student, teacher)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(module, student, teacher)
        finally:
            torch.cuda.set_sync_debug_mode("default")
