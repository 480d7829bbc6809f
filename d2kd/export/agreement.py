"""How many detections of an ONNX model another one has too."""

from typing import TYPE_CHECKING, Callable, List, Sequence, Tuple

import numpy as np

from .check import pair_detections

if TYPE_CHECKING:
    from onnx import ModelProto

_NEAR = 4.0, 0.1  # px and score
_SHOWN = 0.3  # score from which detections count
_MOST = 100  # that count where none has such a score, or without NMS
Found = Tuple[np.ndarray, ...]


def agreement_with(
    model: "ModelProto", images: Sequence[np.ndarray]
) -> Callable[["ModelProto"], float]:
    """A measure of other models, see `d2kd.export.int8.Agreement`.

    Same detections have the class, boxes within 4 px and scores within 0.1. Those of the model
    count whose score is 0.3 or more, or where there are none, all; without NMS, the best 100 boxes.

    Args:
        model: with outputs boxes, scores and, with NMS, classes.
        images: what it takes.
    """
    wanted = _run(model, images)

    def measure(other: "ModelProto") -> float:
        shares = [_same(a, b) for a, b in zip(wanted, _run(other, images), strict=True)]
        total = sum(count for _, count in shares)
        return sum(same for same, _ in shares) / total if total else float("nan")

    return measure


def _run(model: "ModelProto", images: Sequence[np.ndarray]) -> List[Found]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return [tuple(session.run(None, {name: image})) for image in images]


def _same(wanted: Found, found: Found) -> Tuple[int, int]:
    """How many of the detections that count are there, and how many count."""
    if len(wanted) == 2:
        wanted, found = (
            tuple(x.reshape(-1, x.shape[-1]) for x in both) for both in (wanted, found)
        )
        best = np.argsort(-wanted[1].max(1), kind="stable")[:_MOST]
        box, score = (np.abs(x[best] - y[best]).max(1) for x, y in zip(wanted, found, strict=True))
        return int(((box <= _NEAR[0]) & (score <= _NEAR[1])).sum()), len(best)
    chosen = wanted[1] >= _SHOWN if (wanted[1] >= _SHOWN).any() else np.ones(len(wanted[1]), bool)
    counted = tuple(x[chosen] for x in wanted[:3])
    rows, _ = pair_detections(counted, found[:3], *_NEAR)
    return len(rows), len(counted[0])
