"""CanKD: values by hand, which parameters there are, norms, small maps.

STUDENT and TEACHER are those of tests/losses/test_attention.py, one image of 2 channels and 2 x 2
cells; OTHER_STUDENT and OTHER_TEACHER a second one.
"""

import pytest
import torch
from torch.testing import assert_close

from d2kd.heads import CanKD
from d2kd.heads.cankd import CrossNonLocal
from d2kd.losses import instance_norm_loss
from tests.helpers import feature_output, feature_spec, output_of, pair
from tests.losses.test_attention import STUDENT, TEACHER, near

SPEC = feature_spec({8: 2})
OTHER_STUDENT = torch.tensor([[[[1.0, 0], [2, 0]], [[0, 1], [1, 0]]]], dtype=torch.float64)
OTHER_TEACHER = torch.tensor([[[[0.0, 0], [2, 1]], [[1, 1], [0, 0]]]], dtype=torch.float64)
NORMS = ["BN", "SyncBN", "GN", "none"]


def toy(out, scale=(1.0, 1.0), **options):
    """The head of one level with theta = (1 0) + 0.5, phi = (1 1), g = (0 1) + 1 and W = `out`."""
    head = CanKD(SPEC, SPEC, **options).double()
    module = head.attend["8"]
    values = {"theta.weight": (1.0, 0.0), "theta.bias": (0.5,), "phi.weight": (1.0, 1.0),
              "phi.bias": (0.0,), "g.weight": (0.0, 1.0), "g.bias": (1.0,), "out.weight": out,
              "scale": scale}  # fmt: skip
    for name, parameter in module.named_parameters():
        parameter.data = torch.tensor(values[name], dtype=torch.float64).view_as(parameter)
    return head, module


def weighted(head, student, teacher):
    """The loss at the published weight, and the student's map with its gradient."""
    s = student.clone().requires_grad_()
    loss = 10 * head(output_of({8: s}), output_of({8: teacher}))["feat"]
    loss.backward()
    return loss, s


def test_it_starts_at_the_distance_of_the_maps():
    head = CanKD(SPEC, SPEC).double()
    loss, s = weighted(head, STUDENT, TEACHER)
    near(loss, 5.917305)
    near(s.grad, [-2.5, 2.5, 2.4998, -2.4998, -1.020598, 1.020607, 1.020607, -1.020617], 1e-4)
    assert torch.equal(head.attend["8"](STUDENT, TEACHER), STUDENT)
    for name, parameter in head.named_parameters():
        assert bool(parameter.grad.any()) == name.endswith("scale"), name


def test_range():
    near(weighted(CanKD(SPEC, SPEC).double(), 3 * TEACHER + 7, TEACHER)[0], 8.07e-10, 1e-12)
    near(weighted(CanKD(SPEC, SPEC).double(), -TEACHER, TEACHER)[0], 19.999541)


@pytest.mark.parametrize(("pool", "loss", "z", "gradient", "weights"), [
    (2, 6.603062, [4.25, 13.25, 4.25, 13.25, -1, -6, -2, -7],
     [-0.670896, 2.412853, 0.322500, -2.064457, -0.457264, 0.021774, 0.544362, -0.108873],
     {"theta.weight": [0.348396, 1.393562], "phi.weight": [0.087099, 0.261297],
      "phi.bias": 0.087099, "g.weight": [0.087099, 0.261297], "g.bias": 0.087099,
      "out.weight": [0.000004, -1.393574]}),
    (1, 6.142929, [1.3125, 4.4375, 1.3125, 4.4375, 0.46875, -1.59375, -0.53125, -2.59375],
     [-1.687139, 2.245266, 1.416506, -1.974634, -0.765004, 0.239707, 1.019697, -0.494401],
     {"theta.weight": [0.270626, 0.287502], "phi.weight": [0.079596, 0.191030],
      "phi.bias": 0.111434, "g.weight": [0.079596, 0.191030], "g.bias": 0.079596}),
])  # fmt: skip
def test_without_a_norm(pool, loss, z, gradient, weights):
    """z is that of theta's bias 0.5 and W's bias (0.25 0), which take no part in the loss; the one
    key is 4 and its value 4, the keys without pooling are 4, 0, 0, 1 and the values 4, 1, 1, 1."""
    head, module = toy((0.5, -0.25), norm="none", pool=pool)
    value, s = weighted(head, STUDENT, TEACHER)
    near(value, loss)
    near(s.grad, gradient)
    found = module(STUDENT, TEACHER).flatten(2)
    expected = torch.tensor(z, dtype=torch.float64).view(1, 2, 4)
    assert_close(*(x - x.mean(2, keepdim=True) for x in (found, expected)))
    for name, expected in weights.items():
        near(module.get_parameter(name).grad, expected)


def test_batch_norm_over_two_images():
    head, module = toy((1.0, -1.0), (1.0, 0.5), pool=1)
    both = torch.cat([STUDENT, OTHER_STUDENT]), torch.cat([TEACHER, OTHER_TEACHER])
    loss, s = weighted(head, *both)
    near(loss, 5.967282)
    near(s.grad[0], [-0.890481, 1.215829, 0.694216, -0.896026,
                     -0.386054, 0.126640, 0.514730, -0.255316])  # fmt: skip
    near(s.grad[1], [1.447055, 0.563765, -0.901594, -1.160095,
                     -1.500894, -0.823988, 1.201395, 1.123487])  # fmt: skip
    for name, expected in {
        "theta.weight": [-0.036335, -0.242292], "theta.bias": 0.072669,
        "phi.weight": [-0.051304, 0.051303], "phi.bias": -0.169943,
        "g.weight": [-0.160323, 0.160323], "g.bias": -0.160323, "scale": [0.000009, -0.493180],
    }.items():  # fmt: skip
        near(module.get_parameter(name).grad, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_can_learn(norm):
    """36 channels are groups of 9 for GN."""
    torch.manual_seed(0)
    head = CanKD(*[feature_spec({8: 36})] * 2, norm=norm)
    torch.nn.init.ones_(head.attend["8"].scale)
    head(feature_output({8: 36}, 0), feature_output({8: 36}, 1))["feat"].backward()
    assert all(p.grad.abs().max() > 1e-7 for p in head.parameters())
    assert not list(head.buffers())


def test_the_statistics_of_the_batch_in_evaluation_too():
    head, _ = toy((1.0, -1.0))
    args = output_of({8: STUDENT}), output_of({8: TEACHER})
    training = head(*args)["feat"]
    assert torch.equal(training, head.eval()(*args)["feat"])


def test_gradient():
    torch.manual_seed(0)
    module = CrossNonLocal(4, "BN", 2).double()
    torch.nn.init.uniform_(module.scale)
    s, t = (torch.randn(2, 4, 3, 5, dtype=torch.float64) for _ in range(2))
    s.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: instance_norm_loss(module(x, t), t), (s,))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 8, 1, 1), (1, 8, 1, 2), (1, 8, 3, 5)])
def test_small_maps_and_one_image(norm, shape):
    """The window of 8 x 8 cells is cut to the map; one cell is standardized to 0."""
    torch.manual_seed(0)
    head = CanKD(*[feature_spec({8: 8})] * 2, norm=norm, pool=8)
    torch.nn.init.ones_(head.attend["8"].scale)
    s, t = torch.randn(shape, requires_grad=True), torch.randn(shape)
    loss = head(output_of({8: s}), output_of({8: t}))["feat"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert bool(s.grad.isfinite().all()) and (loss.item() == 0) == (shape[2] * shape[3] == 1)


def test_teachers_of_another_width_and_size():
    head = CanKD(feature_spec({8: 4}), feature_spec({8: 6}))
    assert head.project["8"].weight.shape == (6, 4, 1, 1)
    assert head.attend["8"].theta.weight.shape == (3, 6, 1, 1)
    s, t = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 6, 10)
    assert head.attend["8"](s, t).shape == s.shape


def test_products_of_large_features_stay_finite():
    """Three of 200 make 8 million, more than float16 holds."""
    torch.manual_seed(0)
    head = CanKD(*[feature_spec({8: 8})] * 2)
    torch.nn.init.ones_(head.attend["8"].scale)
    s, t = 200 * torch.randn(2, 8, 6, 6), 200 * torch.randn(2, 8, 6, 6)
    args = output_of({8: s}), output_of({8: t})
    exact = head(*args)["feat"]
    with torch.autocast("cpu", torch.float16):
        loss = head(*args)["feat"]
    loss.backward()
    assert_close(loss, exact, rtol=0.05, atol=0)
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_maps_are_of_what_is_compared():
    head, _ = toy((0.5, -0.25), norm="none")
    args = output_of({8: STUDENT}), output_of({8: TEACHER})
    found = head.maps(*args)
    assert list(found) == ["difference", "normalized difference"]
    loss = found["normalized difference"][8].square().mean() / 2
    assert_close(loss, head(*args)["feat"].detach())


@pytest.mark.parametrize(("option", "message"), [
    ({"norm": "LN"}, "DISTILL.CanKD.NORM: unknown 'LN'.*BN"),
    ({"pool": 0}, "DISTILL.CanKD.POOL must be above 0, not 0"),
    ({"num_levels": 0}, "DISTILL.CanKD.NUM_LEVELS must be above 0"),
])  # fmt: skip
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        CanKD(SPEC, SPEC, **option)


@pytest.mark.parametrize("norm", NORMS)
def test_three_steps_of_a_training(norm):
    _, model = pair(heads=("CanKD",), options={"CanKD": {"NORM": norm}})
    head = model.heads["CanKD"]
    assert head.strides == [8, 16, 32, 64] and CanKD.default_weight == 10
    start = {name: p.detach().clone() for name, p in head.attend.named_parameters()}
    optimizer = torch.optim.SGD(head.parameters(), 1.0)
    maps = [feature_output(dict.fromkeys(head.strides, c), i) for i, c in enumerate((8, 12))]
    for _ in range(3):
        optimizer.zero_grad()
        head(*maps)["feat"].backward()
        optimizer.step()
    assert not [n for n, p in head.attend.named_parameters() if torch.equal(p, start[n])]
