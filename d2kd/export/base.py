"""What the graphs of all kinds of detectors have in common."""

from typing import Any, ClassVar, Dict, List, Tuple

from torch import Tensor, nn

from .options import Options


class Graph(nn.Module):
    """A detector as a function of tensors: an image in, boxes, scores and more out.

    Attributes:
        names: of the outputs.
        limits: options of `LIMITS` that this kind has, and the attributes that hold them.
        traced: written by torch.jit's tracing, as ONNX alone, and not by torch.export.
    """

    names: Tuple[str, ...] = ("boxes", "scores", "classes")
    limits: ClassVar[Dict[str, str]]
    traced: ClassVar[bool] = False
    detector: Any  # a detector's attributes are not typed

    def __init__(self, detector: nn.Module, options: Options) -> None:
        """Wrap a detector that `prepare` returned."""
        super().__init__()
        self.detector, self.options = detector, options

    @classmethod
    def limited(cls, detector: Any) -> List[nn.Module]:
        """The modules whose attributes `limits` names."""
        return [detector]

    @classmethod
    def check(cls, detector: nn.Module, options: Options) -> None:
        """Raise a ConfigError if this detector has no such graph."""

    def reference(self, image: Tensor) -> Tuple[Tensor, ...]:
        """What the graph must give: the detector's own inference on an image (1, 3, H, W)."""
        found = self.detector([{"image": image[0]}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes
