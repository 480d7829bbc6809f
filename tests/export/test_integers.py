"""Files of quantized students: the trained model in integers."""

import numpy as np
import pytest
import torch
from torch import nn

from d2kd.errors import ConfigError
from d2kd.export import (
    Exported,
    export_int8,
    export_onnx,
    export_openvino,
    export_pt2,
    measure,
    measure_export,
    open_exported,
)
from d2kd.export.description import describe
from d2kd.export.kinds import build_graph, prepare
from d2kd.export.options import Options
from d2kd.export.write import to_onnx
from d2kd.quantize import quantize_student, quantized_convolutions, rounds, set_rounding
from d2kd.quantize.layers import QuantizedConv, Range
from tests.export.test_int8 import quantized_layers
from tests.export.test_regions import lively as two_stage
from tests.helpers import detector
from tests.quantize.conftest import config, quantized  # noqa: F401

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OPTIONS = {"size": (64, 64), "input_format": "RGB", "nms": False}


class Normed(nn.Sequential):
    """A convolution with batch norm whose factors are powers of two, some negative."""

    def __init__(self, conv):
        norm = nn.BatchNorm2d(conv.out_channels)
        with torch.no_grad():
            norm.running_var.fill_(1 - norm.eps)
            norm.running_mean.copy_(torch.arange(conv.out_channels) - 4.0)
            norm.weight.copy_(torch.tensor([1.0, -0.5] * (conv.out_channels // 2)))
            norm.bias.copy_(torch.arange(conv.out_channels) * 2.0)
        super().__init__(conv, norm)


LEVELS = ["p3", "p4"]


def exact(meta):
    """A detector whose sums of integers are exact in float32, once `fix_steps` is called."""
    keys = {f"MODEL__{meta}__IN_FEATURES": LEVELS, "MODEL__RESNETS__OUT_FEATURES": LEVELS,
            "MODEL__ANCHOR_GENERATOR__SIZES": [[32], [64]]}  # fmt: skip
    model = detector(meta, MODEL__PIXEL_MEAN=[128.0] * 3, MODEL__PIXEL_STD=[1.0] * 3, **keys)
    model.backbone.downs[0] = Normed(model.backbone.downs[0])
    return model.eval()


@torch.no_grad()
def fix_steps(model):
    rng = torch.Generator().manual_seed(0)
    for x in model.modules():
        if isinstance(x, Range):
            x.low.fill_(-128.0), x.high.fill_(127.0), x.seen.fill_(1.0)
        if isinstance(x, QuantizedConv):
            weight = x._parameters["weight"]
            weight.copy_(torch.randint(-127, 128, weight.shape, generator=rng) / 1024)
            weight[:, 0, 0, 0] = 127 / 1024
            x.bias.copy_(torch.randint(-20, 20, x.bias.shape, generator=rng) / 8)
    return model


def run(model, image, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = level, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": image.numpy()})


def in_torch(model, image, on=True):
    options = Options(**OPTIONS)
    made = prepare(model, options)
    set_rounding(made, on)
    with torch.no_grad():
        return [x.numpy() for x in build_graph(made, options)(image)]


@pytest.fixture(scope="module")
def exported():
    """A quantized FCOS, and what it is as ONNX."""
    model = exact("FCOS")
    quantize_student(model, config("last convolutions"))
    set_rounding(fix_steps(model), True)
    return model, to_onnx(model, **OPTIONS)[0]


def test_a_file_is_the_trained_model(exported):
    model, made = exported
    image = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    wanted, plain = in_torch(model, image), in_torch(model, image, on=False)
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):  # float and integer kernels
        for found, right in zip(run(made, image, level), wanted, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    assert [np.abs(x - y).max() > 1e-3 for x, y in zip(wanted, plain, strict=True)] == [True] * 2


def test_weights_and_biases_are_integers_and_batch_norm_is_gone(exported, tmp_path):
    model, made = exported
    onnx.save(made, tmp_path / "x.onnx")
    found, layers = quantized_layers(tmp_path / "x.onnx")
    levels, names = len(LEVELS), quantized_convolutions(model)
    towers = [x for x in names if x.startswith("head.")]
    assert len(found) == len(names) + (levels - 1) * len(towers)
    assert len(layers) - len(found) == levels * 3  # the last ones
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert "BatchNormalization" not in {x.op_type for x in graph.node}
    stored = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    kinds = [[stored[made[y].input[0]].dtype for y in x.input[1:]] for x in found]
    assert kinds == [[np.int8, np.int32]] * len(found)
    assert not [x for x in stored.values() if x.dtype == np.float32 and x.ndim == 4
                and x.shape[0] == 8]  # fmt: skip


def test_openvino_computes_the_same_integers(exported, tmp_path):
    pytest.importorskip("openvino")
    export_openvino(exported[0], tmp_path / "x.xml", **OPTIONS)
    image = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    results = open_exported(tmp_path / "x.xml").run(image.numpy())
    for found, right in zip(results, in_torch(exported[0], image), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_two_stages_are_quantized_up_to_the_rpn(quantized, tmp_path):  # noqa: F811
    model = fix_steps(quantized(two_stage("Faster"), "last convolutions"))
    export_onnx(model, tmp_path / "x.onnx", size=(64, 64), input_format="RGB")
    found, _ = quantized_layers(tmp_path / "x.onnx")
    assert len(found) == len(quantized_convolutions(model)) + 4  # the RPN's, on five levels


def test_a_quantized_run_is_not_quantized_again(quantized, tmp_path):  # noqa: F811
    model = fix_steps(quantized(exact("GFL"), "last convolutions"))
    with pytest.raises(ConfigError, match="--int8: this run is quantized already"):
        export_int8(model, tmp_path / "x.onnx", [np.zeros((64, 64, 3), np.uint8)], **OPTIONS)
    with pytest.raises(ConfigError, match="--fp16.* is not for a quantized run"):
        export_onnx(model, tmp_path / "x.onnx", fp16=True, **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_pytorch_is_timed_without_rounding(exported, tmp_path, monkeypatch):
    """Rounding in float takes time that the file does not."""
    options, seen = Options(**OPTIONS), []
    about = describe(build_graph(prepare(exported[0], options), options))
    file = Exported(lambda image: (), about)
    monkeypatch.setattr(measure, "open_exported", lambda path: file)
    monkeypatch.setattr(measure, "run_reference", lambda graph, _: seen.append(graph.detector))
    (tmp_path / "x.onnx").touch()
    image = np.zeros((64, 64, 3), np.uint8)
    measure_export(tmp_path / "x.onnx", exported[0], image, repeats=1)
    assert len(seen) == 3 and not any(map(rounds, seen)) and rounds(exported[0])


def test_a_program_rounds_as_well(quantized, tmp_path):  # noqa: F811
    model = fix_steps(quantized(exact("GFL"), "last convolutions"))
    export_pt2(model, tmp_path / "x.pt2", **OPTIONS)
    program = torch.export.load(tmp_path / "x.pt2")
    kinds = [str(x.target) for x in program.graph.nodes]
    assert sum("fake_quantize_per_channel" in x for x in kinds) > len(quantized_convolutions(model))
    image = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        for found, right in zip(program.module()(image), in_torch(model, image), strict=True):
            np.testing.assert_allclose(found.numpy(), right, rtol=1e-5, atol=1e-5)
