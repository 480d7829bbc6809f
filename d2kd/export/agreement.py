"""How many detections of an ONNX model another one has too."""

from typing import TYPE_CHECKING, Callable, List, Sequence, Tuple

import numpy as np

from ..errors import ConfigError
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

    Same detections have the class, boxes within 4 px and scores within 0.1; masks count by their
    overlap. Those count whose score is 0.3 or more, or where the model has none in an image, all;
    without NMS, the best 100 boxes. What the other model has more lowers its share.

    Args:
        model: with outputs boxes, scores and, with NMS, classes.
        images: what it takes.

    Raises:
        ConfigError: the model finds nothing in them.
    """
    wanted = _run(model, images)
    if not sum(_counted(x).sum() for x in wanted):
        raise ConfigError(
            "--int8: the detector finds nothing in the images to calibrate on: give --calibrate "
            "FOLDER with images that have objects."
        )

    def measure(other: "ModelProto") -> float:
        shares = [_same(a, b) for a, b in zip(wanted, _run(other, images), strict=True)]
        return float(sum(same for same, _ in shares) / sum(count for _, count in shares))

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


def _counted(found: Found) -> np.ndarray:
    """Which detections, or boxes, count."""
    if len(found) == 2:
        scores = found[1].reshape(-1, found[1].shape[-1]).max(1)
        return scores >= np.sort(scores)[-min(_MOST, len(scores))]
    shown = found[1] >= _SHOWN
    return shown if shown.any() else np.ones(len(found[1]), bool)


def _same(wanted: Found, found: Found) -> Tuple[float, int]:
    """How many detections that count are in both, and how many there are in the larger set.

    A mask counts as far as it overlaps the other one (IoU at 0.5).
    """
    chosen = _counted(wanted)
    if len(wanted) == 2:
        pairs = zip(wanted, found, strict=True)
        flat = [(x.reshape(-1, x.shape[-1])[chosen], y.reshape(-1, y.shape[-1])[chosen])
                for x, y in pairs]  # fmt: skip
        box, score = (np.abs(x - y).max(1) for x, y in flat)
        return float(((box <= _NEAR[0]) & (score <= _NEAR[1])).sum()), int(chosen.sum())
    rows, columns = pair_detections(
        tuple(x[chosen] for x in wanted[:3]), tuple(x for x in found[:3]), *_NEAR
    )
    same = np.ones(len(rows))
    if len(wanted) > 3 and wanted[3].ndim > 1 and len(rows):
        masks = [x > 0.5 for x in (wanted[3][chosen][rows], found[3][columns])]
        axes = tuple(range(1, masks[0].ndim))
        both, either = (masks[0] & masks[1]).sum(axes), (masks[0] | masks[1]).sum(axes)
        same = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float(same.sum()), max(int(chosen.sum()), int((found[1] >= _SHOWN).sum()))
