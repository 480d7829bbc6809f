"""The non-local module: values by hand, the reassociated product, small maps."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from d2kd.heads.non_local import NORMS, NonLocal, non_local_product
from d2kd.losses import masked_distance
from tests.helpers import make_identity
from tests.losses.test_attention import STUDENT, TEACHER, near


def naive_product(theta, phi, g):
    return g @ (theta.transpose(1, 2) @ phi / phi.shape[2]).transpose(1, 2)


def identity_module(pool, norm):
    module = make_identity(NonLocal(2, 2, pool)).double()
    if norm is None:
        module.norm = nn.Identity()
    return module


@pytest.mark.parametrize(("pool", "teacher", "student", "distance"), [
    (1, [3.75, 0, 0, 1.5, 10.5, 0, 0, 0.75], [-0.25, 1.5, 0, 1.75, 1.5, -0.25, 0, -1.75],
     10.277402),
    (2, [11, 0, 0, 2, 33, 0, 0, 3], [1, 2, 0, 1, 2, 1, 0, -1], 32.908965),
])  # fmt: skip
def test_values(pool, teacher, student, distance):
    """Identity layers, no norm; for the teacher and p = 2 the one key is (1, 3): its cells x are
    (1, 3), 0, 0, (1, 0) and x + (x . key) key = (11, 33), 0, 0, (2, 3)."""
    module = identity_module(pool, None)
    t, s = module(TEACHER), module(STUDENT)
    near(t, teacher)
    near(s, student)
    near(masked_distance(s, t), distance)


def test_it_starts_as_the_identity():
    module = NonLocal(2, 2, 2).double()
    assert torch.equal(module(TEACHER), TEACHER)
    near(masked_distance(module(STUDENT), module(TEACHER)), 2.645751)


@pytest.mark.parametrize("queries", [35, 4])
def test_product_equals_the_naive_one(queries):
    """(35 + 8) 6 is less than 2 * 35 * 8, and (4 + 8) 6 is more than 2 * 4 * 8."""
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 6, queries), (2, 6, 8), (2, 6, 8))
    args = [torch.randn(x, dtype=torch.float64, generator=g, requires_grad=True) for x in shapes]
    mine, naive = non_local_product(*args), naive_product(*args)
    assert_close(mine, naive)
    grads = [torch.autograd.grad(y.square().sum(), args) for y in (mine, naive)]
    assert_close(*grads)


def test_no_matrix_over_pairs_of_cells():
    """At P2 of 800 x 1216 it would have 60800 x 950 values; the largest tensor made has 60800 d."""
    sizes = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)))
            return out

    shapes = ((1, 4, 60800), (1, 4, 950), (1, 4, 950))
    args = [torch.ones(x, requires_grad=True) for x in shapes]
    with Record():
        non_local_product(*args).sum().backward()
    assert max(sizes) == 4 * 60800


def test_product_in_half_precision():
    """The sum over 4096 keys of 8 * 8 is 262144, more than float16 holds."""
    theta, keys = torch.ones(1, 2, 5).half(), torch.full((1, 2, 4096), 8.0).half()
    with torch.autocast("cpu", torch.bfloat16):
        y = non_local_product(theta, keys, keys)
    assert y.dtype == torch.float32
    assert_close(y, torch.full((1, 2, 5), 128.0))


def test_gradient():
    g = torch.Generator().manual_seed(0)
    module = NonLocal(4, 2, 2).double()
    nn.init.uniform_(module.norm.weight)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 8, 1, 2), (2, 8, 1, 1), (1, 8, 3, 5)])
def test_small_maps_and_one_image(norm, shape):
    torch.manual_seed(0)
    module = NonLocal(8, 4, 8, norm)
    nn.init.ones_(module.norm.weight)
    nn.init.constant_(module.norm.bias, 0.5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = module(x)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert bool(x.grad.isfinite().all())
    if shape == (1, 8, 1, 1):
        assert_close(y, x + 0.5, atol=1e-3, rtol=0)


def test_values_that_float16_does_not_hold():
    """The products of maps of 150 are 3 million and more; behind the norm they are small."""
    module = NonLocal(8, 4, 2)
    nn.init.ones_(module.norm.weight)
    x = torch.randint(-150, 151, (2, 8, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    exact, half = module(x), x.half().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        found = module(half)
    assert found.dtype == torch.float32
    assert_close(found, exact, atol=0.5, rtol=0.05)
    found.sum().backward()
    assert bool(half.grad.isfinite().all())


def test_half_precision_module_is_finite():
    module = NonLocal(8, 4, 2)
    nn.init.ones_(module.norm.weight)
    x = 100 * torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(module(x), exact, atol=0.5, rtol=0.05)
