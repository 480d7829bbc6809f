"""What a detector computes, by name, and the adapter that computes it.

Shapes in this package: N images, C channels, H x W cells of a level, A anchors a cell, K classes,
R = sum of H*W*A over the levels. Maps are keyed by FPN stride in image px. Boxes are XYXY in px of
the padded input image.
"""

from dataclasses import dataclass, field
from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Tuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.common.registry import Registry
from torch import Tensor, nn

DETECTOR_ADAPTER_REGISTRY = Registry("DETECTOR_ADAPTER")
DETECTOR_ADAPTER_REGISTRY.__doc__ = "Adapters, named <DetectorClass>Adapter."

STUDENT_ONLY = frozenset({"labels", "matched_boxes", "proposals", "gt"})
"""Fields of `DetectorOutput` that a teacher never has."""


@dataclass(frozen=True)
class DetectorSpec:
    """What is known of a detector without an image.

    `features` maps stride (px) to `ShapeSpec`; tower_width and num_convs are 0 without a dense
    head; reg_max is 0 unless boxes are distributions; box_coding is "anchor_delta", "distance",
    "distribution" or ""; quality is what a quality logit predicts, "centerness", "iou" or the name
    of a predictor such as "DGQP", "" without one.
    """

    name: str
    features: Dict[int, ShapeSpec]
    num_classes: int
    tower_width: int = 0
    num_convs: int = 0
    num_anchors: int = 0
    reg_max: int = 0
    box_coding: str = ""
    quality: str = ""


@dataclass
class DenseMaps:
    """RPN maps by stride: objectness `logits` (N, HWA, 1), `deltas` (N, HWA, 4), `labels` (N, R).

    Labels are 1 object, 0 background, -1 not sampled; None for a teacher.
    """

    logits: Dict[int, Tensor]
    deltas: Dict[int, Tensor]
    labels: Optional[Tensor] = None


@dataclass
class RoIOutput:
    """One stage of a RoI head on P proposals of the whole batch, image after image.

    `logits` (P, K+1) with background last, `deltas` (P, 4K) or (P, 4); `proposals`, the N
    `Instances` of this stage with proposal_boxes (XYXY px) and, a student's, gt_classes.
    """

    logits: Tensor
    deltas: Tensor
    proposals: List[Instances]


@dataclass
class MaskOutput:
    """Masks of F foreground proposals of the whole batch, image after image.

    `logits` (F, K, M, M), or (F, 1, M, M) for masks without class; `proposals` as for `RoIOutput`.
    """

    logits: Tensor
    proposals: List[Instances]


@dataclass
class DetectorOutput:
    """Everything a distillation head may read; fields nobody asked for stay empty.

    Attributes:
        images: normalized, padded batch.
        adapter: the adapter that made this output, for `decode` and `head_from`.
        features: (N, C, H, W) FPN maps.
        cls_taps, reg_taps: (N, C', H, W) pre-activation of each tower block, in order.
        logits: (N, HWA, K) raw class logits.
        scores: (N, HWA, K) in [0, 1], float32, detached: sigmoid of the logits, times that of the
            quality logit for GFLv2.
        deltas: (N, HWA, D) raw box predictions in the detector's own coding, D = 4 or, for
            distributions, 4 * (reg_max + 1).
        distributions: (N, HWA, 4, reg_max + 1) view of `deltas`, logits of the sides l, t, r, b.
        quality: (N, HWA, 1) logit of centerness, IoU or quality.
        valid: (N, HWA) bool, False in the batch padding.
        anchors: HWA boxes, XYXY px.
        labels: (N, R) long, K background, -1 ignored.
        matched_boxes: (N, R, 4) XYXY px, undefined where labels are not foreground.
        gt: N `Instances` with gt_boxes (XYXY px) and gt_classes.
        num_pos: scalar >= 1, mean over ranks of sum over images of max(positives, 1).
        proposals: N `Instances`, the sampled RoIs of a two-stage student.
        rpn, roi, masks: see `DenseMaps`, `RoIOutput` (one per stage), `MaskOutput`. A teacher's
            are on the student's proposals.
        losses: supervised losses, {} for a teacher.
    """

    images: ImageList
    adapter: "DetectorAdapter"
    features: Dict[int, Tensor]
    cls_taps: Dict[int, List[Tensor]] = field(default_factory=dict)
    reg_taps: Dict[int, List[Tensor]] = field(default_factory=dict)
    logits: Dict[int, Tensor] = field(default_factory=dict)
    scores: Dict[int, Tensor] = field(default_factory=dict)
    deltas: Dict[int, Tensor] = field(default_factory=dict)
    distributions: Dict[int, Tensor] = field(default_factory=dict)
    quality: Dict[int, Tensor] = field(default_factory=dict)
    valid: Dict[int, Tensor] = field(default_factory=dict)
    anchors: Dict[int, Boxes] = field(default_factory=dict)
    labels: Optional[Tensor] = None
    matched_boxes: Optional[Tensor] = None
    gt: List[Instances] = field(default_factory=list)
    num_pos: Optional[Tensor] = None
    proposals: Optional[List[Instances]] = None
    rpn: Optional[DenseMaps] = None
    roi: List[RoIOutput] = field(default_factory=list)
    masks: Optional[MaskOutput] = None
    losses: Dict[str, Tensor] = field(default_factory=dict)

    def labels_by_stride(self) -> Dict[int, Tensor]:
        """`labels` cut into levels: stride -> (N, HWA)."""
        sizes = [len(boxes) for boxes in self.anchors.values()]
        return dict(zip(self.anchors, self.labels.split(sizes, dim=1), strict=True))


class DetectorAdapter:
    """Replays a detector's training step from its public parts. Holds no state, changes nothing.

    Class attributes: `replays`, the stock functions whose steps are repeated here (a detector that
    overrides one is refused), and `provides`, the fields of `DetectorOutput` that are filled.
    """

    replays: ClassVar[Tuple[Callable, ...]] = ()
    provides: FrozenSet[str] = frozenset({"features", "gt"})

    def __init__(self, detector: nn.Module) -> None:
        """Check that the detector overrides nothing that is replayed.

        Raises:
            TypeError: it does.
        """
        _refuse_overrides(detector, self.replays, type(self).__name__)
        self.detector = detector

    def spec(self) -> DetectorSpec:
        """What heads are built and checked against."""
        raise NotImplementedError

    def compilable(self) -> List[nn.Module]:
        """Submodules that `torch.compile` may replace in place: tensors in, tensors out."""
        return [self.detector.backbone]

    def preprocess(
        self, batched_inputs: List[dict], divisor: int, flip_channels: bool = False
    ) -> ImageList:
        """Normalize and pad a batch as the stock `preprocess_image` does.

        Args:
            batched_inputs: dicts with "image", a (3, H, W) tensor in 0..255.
            divisor: the padded height and width are multiples of it (px).
            flip_channels: reverse RGB <-> BGR, before normalization.
        """
        detector = self.detector
        images = [x["image"].to(detector.pixel_mean.device) for x in batched_inputs]
        if flip_channels:
            images = [x.flip(0) for x in images]
        images = [(x - detector.pixel_mean) / detector.pixel_std for x in images]
        constraints = detector.backbone.padding_constraints
        return ImageList.from_tensors(images, divisor, padding_constraints=constraints)

    def forward(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """Run the detector.

        Args:
            images: result of `preprocess`.
            gt: targets of a student; None for a teacher, which then gets no losses.
            need: field names to fill. A teacher runs no more than these take.
        """
        raise NotImplementedError

    def derive(self, output: DetectorOutput, need: FrozenSet[str]) -> None:
        """Fill the fields of `output` that follow from its raw predictions."""

    def decode(self, output: DetectorOutput) -> Dict[int, Tensor]:
        """Decoded boxes by stride: (N, HWA, 4) XYXY px, float32, differentiable."""
        raise NotImplementedError

    def __call__(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """Same as `forward`."""
        return self.forward(images, gt, need)


def build_adapter(detector: nn.Module) -> DetectorAdapter:
    """Build the adapter registered for the detector's class or its nearest base class.

    Raises:
        TypeError: there is none, or the detector overrides a function that it replays.
    """
    for cls in type(detector).__mro__:
        name = f"{cls.__name__}Adapter"
        if name in DETECTOR_ADAPTER_REGISTRY:
            return DETECTOR_ADAPTER_REGISTRY.get(name)(detector)
    known = ", ".join(sorted(name for name, _ in DETECTOR_ADAPTER_REGISTRY))
    raise TypeError(
        f"No adapter for {type(detector).__name__} or its bases. Register a class "
        f"{type(detector).__name__}Adapter in DETECTOR_ADAPTER_REGISTRY. Known: {known}."
    )


def _refuse_overrides(owner: object, replays: Tuple[Callable, ...], adapter: str) -> None:
    for name in {function.__name__ for function in replays}:
        allowed = [function for function in replays if function.__name__ == name]
        if getattr(type(owner), name, None) not in allowed:
            mine = type(owner).__name__
            raise TypeError(
                f"{mine} overrides {allowed[0].__qualname__}(), which {adapter} would bypass. "
                f"Register {mine}Adapter in DETECTOR_ADAPTER_REGISTRY."
            )


def valid_cells(
    images: ImageList, maps: Dict[int, Tensor], divisor: int, num_anchors: int
) -> Dict[int, Tensor]:
    """Mark the anchors that lie on an image rather than on batch padding.

    A cell (y, x) of stride s is valid when y < ceil(h / s) and x < ceil(w / s), with the image's
    own height h and width w rounded up to the detector's size divisibility.

    Args:
        images: the padded batch.
        maps: stride -> (N, C, H, W).
        divisor: size divisibility of the detector in px; 0 or 1 for none.
        num_anchors: A.

    Returns:
        Dict[int, Tensor]: stride -> (N, HWA) bool.
    """
    step = max(divisor, 1)
    sizes = torch.tensor([[-(-s // step) * step for s in size] for size in images.image_sizes])
    sizes = sizes.to(images.device, non_blocking=True)
    valid = {}
    for stride, x in maps.items():
        rows = torch.arange(x.shape[2], device=x.device) * stride < sizes[:, :1]
        columns = torch.arange(x.shape[3], device=x.device) * stride < sizes[:, 1:]
        cells = (rows[:, :, None] & columns[:, None, :]).flatten(1)
        valid[stride] = cells.repeat_interleave(num_anchors, dim=1)
    return valid
