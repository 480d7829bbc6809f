"""log1p and softplus by log and exp, against torch's in double precision."""

import torch
from torch.testing import assert_close

from d2kd.losses.stable import log1p, softplus


def test_log1p_is_accurate_to_rounding():
    tiny = torch.logspace(-30, -1, 200)
    x = torch.cat([-tiny, tiny, torch.tensor([0.0, -0.5, -(1 - 2.0**-24), 1.0])])
    assert_close(log1p(x).double(), x.double().log1p(), rtol=3e-7, atol=0)


def test_softplus_is_accurate_anywhere():
    x = torch.cat([torch.linspace(-80, 80, 1001), torch.tensor([-1e4, 0.0, 1e4])])
    expected = torch.logaddexp(x.double(), torch.zeros(()).double())
    assert_close(softplus(x).double(), expected, rtol=3e-7, atol=1e-37)


def test_gradient_of_softplus():
    x = torch.linspace(-5, 5, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softplus, x)
