"""Weights of an ONNX model in half precision."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

_WEIGHTED = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul")


def halve_weights(model: "ModelProto") -> None:
    """Store the weights of convolutions and linear layers as float16, in place.

    A Cast turns each into float32, which onnxruntime and OpenVINO do once, when they open the file:
    what is computed, coordinates above all, keeps its precision, and the file half its size.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    weights = {x.input[1] for x in graph.node if x.op_type in _WEIGHTED}
    for tensor in graph.initializer:
        if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT:
            continue
        name, half = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
