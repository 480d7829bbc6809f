"""Every method on every detector, a training step on a device that is not the CPU.

Losses and gradients are the CPU's; no tensor is made on the wrong device; how often the host waits
is counted, and the table below is what it may be.
"""

from collections import Counter

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from d2kd.adapters.class_map import ClassMap
from d2kd.quantize import quantize_student, set_rounding
from d2kd.testing import make_batch
from tests.device.simulated import missing, set_up, simulated, waits
from tests.heads.test_no_sync import PAIRS, distiller
from tests.helpers import clone
from tests.quantize.conftest import config
from tests.ranks import in_process

# Of a step without heads: d2kd's own detectors, and below them Detectron2's, which are as they are.
STEPS = {
    "ATSS": 1, "AutoAssign": 1, "DDOD": 2, "GFL": 1, "RepPoints": 2,
    "FCOS": 23, "RetinaNet": 23, "GeneralizedRCNN": 80,
}  # fmt: skip
HEADS = {"LD": 2}  # all others: none
SETS = {"RetinaNet": 19, "FCOS": 9, "DDOD": 4, "GeneralizedRCNN": 25}  # teacher's boxes; else 5
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
FAR = {"rtol": 1e-3, "atol": 1e-4}  # the CPU has a deformable operator of its own
MERGED = ClassMap(3, (0, 1, 2), ((0, 1), (2,), (1,)))
DETECTORS = sorted({meta for _, meta in PAIRS})

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def step(model):
    torch.manual_seed(0)
    losses = model(make_batch())
    sum(losses.values()).backward()
    return losses


def gradients(model):
    return {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


def compare(model, close):
    """Both steps; how often the host waited, by operator and line."""
    for name, x in model.named_parameters():
        if ".offset." in name:  # at 0 a bilinear kernel has two gradients, each operator its own
            torch.nn.init.normal_(x, std=0.1)
    here = clone(model)
    expected = step(here)
    with simulated() as device:
        model.to(device)
        waits.clear()
        losses = step(model)
        found = Counter(waits)
        assert_close({k: x.cpu() for k, x in losses.items()}, expected, rtol=1e-6, atol=1e-6)
        grads = {k: x.cpu() for k, x in gradients(model).items()}
    assert_close(grads, gradients(here), **close)
    return found


def anchors(found):
    """Copies of Detectron2's grids of anchors to the device, two a level of student or teacher."""
    return found.pop("copy to the device: return src.to(dst.device)", 0)


def compare_all(meta):
    torch.set_num_threads(1)
    set_up()
    close = FAR if meta == "DDOD" else CLOSE
    with EventStorage(0), torch.jit.optimized_execution(False):
        heads = [head for head, where in PAIRS if where == meta]
        models = {head: distiller(head, meta) for head in heads}
        models["SetKD"].class_maps = {0: MERGED}
        return {head: compare(model, close) for head, model in models.items()}


def compare_rounding(meta):
    torch.set_num_threads(1)
    set_up()
    model = distiller("PKD", meta)
    quantize_student(model.student, config())
    set_rounding(model.student, True)
    with EventStorage(0), torch.jit.optimized_execution(False):
        return compare(model, CLOSE)


@pytest.mark.parametrize("meta", DETECTORS)
def test_steps(meta):
    for head, found in in_process(compare_all, meta).items():
        more = SETS.get(meta, 5) if head == "SetKD" else HEADS.get(head, 0)
        assert anchors(found) in (10, 20) and found.total() == STEPS[meta] + more, (head, found)


def test_a_step_of_a_student_that_rounds():
    """Its ranges and steps are on the device, and it waits as often as one that does not."""
    found = in_process(compare_rounding, "GFL")
    assert anchors(found) in (10, 20) and found.total() == STEPS["GFL"], found
