"""Ranges beside the weights of a checkpoint."""

import copy
from types import SimpleNamespace

import pytest
import torch

from d2kd.engine.hooks import WeightAverage
from d2kd.engine.hooks.best_checkpoint import BestStudent
from d2kd.errors import ConfigError
from d2kd.quantize import Ranges, beside, load_quantized, load_with_ranges, rounds, with_ranges
from d2kd.quantize.layers import Range
from d2kd.testing import make_batch
from tests.helpers import detector, pair

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


def test_weights_with_some_ranges_alone_are_refused(seen, quantized, tmp_path):
    state = Ranges(seen).state_dict()
    state["head.bbox_subnet.2.input_range"][:] = 0
    torch.save({"model": seen.state_dict(), "quantization": state}, tmp_path / "x.pth")
    model = quantized(detector("FCOS"), LAST, rounds=False)
    said = f"x.pth: 1 of its {len(state)} ranges .* nothing, head.bbox_subnet.2.input_range first"
    with pytest.raises(ConfigError, match=said):
        load_quantized(model, str(tmp_path / "x.pth"), "--weights")


@pytest.mark.parametrize("what", ["other parts", "damaged"])
def test_ranges_of_another_model_are_refused(seen, quantized, what, tmp_path):
    state = Ranges(seen).state_dict()
    other = quantized(detector("FCOS"), *((LAST, "heads") if what == "other parts" else (LAST,)))
    if what == "damaged":
        state[next(iter(state))] = torch.zeros(2)
    torch.save({"model": other.state_dict(), "quantization": state}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="ranges of quantization are not those of this detector"):
        load_quantized(other, str(tmp_path / "x.pth"), "--weights")


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_best_model_of_a_distilled_run_can_be_loaded(quantized, tmp_path, wrapped):
    student, model = pair("FCOS", ("PKD",))
    quantized(student, LAST)(make_batch())
    model = torch.nn.DataParallel(model) if wrapped else model
    BestStudent(1, "m", model, str(tmp_path))._checkpointer.save("model_best")
    again = quantized(detector("FCOS", seed=3), LAST, rounds=False)
    load_quantized(again, str(tmp_path / "model_best.pth"), "--weights")
    assert rounds(again)
    assert_same(with_ranges(student), with_ranges(again))


def test_the_average_of_weights_has_the_ranges_as_they_are(seen):
    hook = WeightAverage(seen, 0.9)
    hook.trainer = SimpleNamespace(iter=0, max_iter=99, start_iter=0)
    for module in seen.modules():
        if isinstance(module, Range):
            module.seen.zero_(), module.low.zero_(), module.high.zero_()
    hook.before_train()
    hook.after_step()
    seen.train()(make_batch())  # the first step that rounds
    hook.after_step()
    assert_same(Ranges(hook.detector).state_dict(), Ranges(seen).state_dict())
    assert all(x[2] > 0 for x in Ranges(hook.detector).state_dict().values())


def test_an_average_has_ranges_of_its_own(seen):
    average = copy.deepcopy(seen)
    state = {name: x.clone() for name, x in with_ranges(seen).items()}
    seen.train()(make_batch(seed=1))
    assert any(not torch.equal(x, state[name]) for name, x in with_ranges(seen).items())
    load_with_ranges(seen, state)
    assert_same(with_ranges(seen), with_ranges(average))
