"""Every method on every detector under autocast, beside the same step in float32.

All losses are float32 and finite, and so are gradients. How far they are from those of float32 is
stated: losses by their value, the gradient of all parameters together by its norm.
"""

import pytest
import torch
from torch.testing import assert_close

from d2kd.testing import make_batch
from tests.device.test_steps import DETECTORS, gradients, step
from tests.heads.test_no_sync import PAIRS, distiller
from tests.helpers import clone

LOSSES = {torch.bfloat16: 0.01, torch.float16: 0.002}
GRADIENTS = {torch.bfloat16: 0.03, torch.float16: 0.02}
FAR_LOSSES = {("CrossKD", torch.bfloat16): 0.04}  # the teacher's tower is behind the student's
FAR = {  # absolute values and unit vectors turn on the last bits of a map
    ("DetKDS", torch.bfloat16): 0.4, ("BCKD", torch.bfloat16): 0.2,
    ("CrossKD", torch.bfloat16): 0.12, ("PKD", torch.bfloat16): 0.08,
    ("SetKD", torch.bfloat16): 0.08, ("CanKD", torch.bfloat16): 0.1,
    ("BCKD", torch.float16): 0.07, ("SetKD", torch.float16): 0.07,
}  # fmt: skip
SCALE = 16.0  # of the loss; the weights of FGD, MasKD and PGD make gradients of thousands


def together(model):
    return torch.cat([x.flatten() for x in gradients(model).values()])


def mixed_step(model, dtype):
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype):
        losses = model(make_batch())
    (SCALE * sum(losses.values())).backward()
    return losses


@pytest.mark.parametrize("dtype", LOSSES)
@pytest.mark.parametrize("meta", DETECTORS)
def test_steps(meta, dtype):
    for head in (head for head, where in PAIRS if where == meta):
        model = distiller(head, meta)
        mixed = clone(model)
        expected, losses = step(model), mixed_step(mixed, dtype)
        rtol = FAR_LOSSES.get((head, dtype), LOSSES[dtype])
        assert_close(losses, expected, rtol=rtol, atol=1e-4)
        exact, found = together(model), together(mixed) / SCALE
        assert (found - exact).norm() <= FAR.get((head, dtype), GRADIENTS[dtype]) * exact.norm()
