"""Ranges beside the weights of a checkpoint."""

import copy

import pytest
import torch

from d2kd.errors import ConfigError
from d2kd.quantize import Ranges, beside, load_quantized, load_with_ranges, rounds, with_ranges
from d2kd.testing import make_batch
from tests.helpers import detector

LAST = "last convolutions"


@pytest.fixture
def seen(quantized):
    """A quantized FCOS that has seen a batch, in eval mode."""
    model = quantized(detector("FCOS"), LAST).train()
    model(make_batch())
    return model.eval()


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_ranges_make_a_plain_checkpoint_the_quantized_model(seen, quantized, tmp_path):
    torch.save({"model": seen.state_dict(), "quantization": Ranges(seen).state_dict()},
               tmp_path / "x.pth")  # fmt: skip
    again = quantized(detector("FCOS", seed=3), LAST, rounds=False)
    load_quantized(again, str(tmp_path / "x.pth"), "--weights")
    assert rounds(again)
    assert_same(with_ranges(seen), with_ranges(again))
    plain = detector("FCOS", seed=3)
    load_quantized(plain, str(tmp_path / "x.pth"), "--weights")
    assert not beside(plain)


def test_weights_without_ranges_stay_float(quantized, tmp_path, caplog):
    model = quantized(detector("FCOS"), LAST, rounds=False)
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    load_quantized(model, str(tmp_path / "x.pth"), "--weights")
    assert not rounds(model) and "x.pth has no ranges of quantization" in caplog.text


@pytest.mark.parametrize("what", ["other parts", "damaged"])
def test_ranges_of_another_model_are_refused(seen, quantized, what, tmp_path):
    state = Ranges(seen).state_dict()
    other = quantized(detector("FCOS"), *((LAST, "heads") if what == "other parts" else (LAST,)))
    if what == "damaged":
        state[next(iter(state))] = torch.zeros(2)
    torch.save({"model": other.state_dict(), "quantization": state}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="ranges of quantization are not those of this detector"):
        load_quantized(other, str(tmp_path / "x.pth"), "--weights")


def test_an_average_has_ranges_of_its_own(seen):
    average = copy.deepcopy(seen)
    state = {name: x.clone() for name, x in with_ranges(seen).items()}
    seen.train()(make_batch(seed=1))
    assert any(not torch.equal(x, state[name]) for name, x in with_ranges(seen).items())
    load_with_ranges(seen, state)
    assert_same(with_ranges(seen), with_ranges(average))
