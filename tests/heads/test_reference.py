"""Twenty steps of every method, whose losses are in the repository: a change of numbers is seen.

Within 1e-3 over the first five steps, which other processors and versions of PyTorch keep; the
later ones are there to be read. After a change that is meant,

    python -m tests.heads.test_reference

writes reference.json again, and the commit says why.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from d2kd.testing import make_batch
from tests.heads.test_no_sync import OPTIONS, PAIRS
from tests.helpers import pair

FILE = Path(__file__).with_name("reference.json")
STEPS, COMPARED = 20, 5
METHODS = {head: meta for head, meta in reversed(PAIRS)}  # each on its first detector
KEYS = {"MaskKD": {"MODEL__MASK_ON": True}, "Parallel": {"MODEL__GFL__QUALITY": "SDGQP"}}


def run(head):
    """Loss by name at every step, five significant digits."""
    _, model = pair(METHODS[head], (head,), 8, OPTIONS, **KEYS.get(head, {}))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    rows = []
    for step in range(STEPS):
        torch.manual_seed(step)
        losses = model(make_batch(seed=step % 4))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rows.append({name: float(f"{value.item():.5g}") for name, value in losses.items()})
    return rows


@pytest.mark.parametrize("head", sorted(METHODS))
def test_losses(head):
    expected, found = json.loads(FILE.read_text())[head], run(head)
    assert len(found) == len(expected) == STEPS
    for step in range(COMPARED):
        assert found[step] == pytest.approx(expected[step], rel=1e-3, abs=1e-6), step


def test_every_method_has_a_reference():
    assert sorted(json.loads(FILE.read_text())) == sorted(METHODS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with EventStorage(0), torch.jit.optimized_execution(False):
        found = {head: run(head) for head in sorted(METHODS)}
    rows = (f'"{head}": [\n' + ",\n".join(map(json.dumps, x)) + "\n]" for head, x in found.items())
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    sys.exit(0)
