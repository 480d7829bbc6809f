"""What a detector computes, by name.

Shapes in this package: N images, C channels, H x W cells of a level, A anchors a cell, K classes,
R = sum of H*W*A over the levels. Maps are keyed by FPN stride in image px. Boxes are XYXY in px of
the padded input image.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Protocol, Tuple

from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ..detectors import Predicted
from .computed import Computed

STUDENT_ONLY = frozenset({"labels", "matched_boxes", "proposals", "gt"})
"""Fields of `DetectorOutput` that a teacher never has."""
BY_CLASS = frozenset({"logits", "scores", "roi", "masks"})
"""Fields in which class k has a place of its own: they are compared between equal classes only."""


class Decoder(Protocol):
    """What heads ask of the adapter that made an output; see `DetectorAdapter`."""

    def decode(self, output: "DetectorOutput") -> Dict[int, Tensor]:
        """Decoded boxes by stride."""

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """Class scores of logits."""

    def head_from(
        self, stride: int, block: int, cls_x: Tensor, reg_x: Tensor
    ) -> Tuple[Tensor, ...]:
        """Predictions from what passes between two blocks of the towers."""

    def assign(self, output: "DetectorOutput", boxes: Tensor, classes: Tensor) -> List[Tensor]:
        """Which box is whose, by the student's own assigner."""

    def decode_regions(self, stage: "RoIOutput", index: int) -> Tensor:
        """Decoded boxes of regions."""

    def regions_at(self, output: "DetectorOutput", boxes: Tensor) -> "RoIOutput":
        """Predictions of the box head on given boxes."""


@dataclass(frozen=True)
class DetectorSpec:
    """What is known of a detector without an image.

    `features` maps stride (px) to `ShapeSpec`; tower_width and num_convs are 0 without a dense
    head; reg_max is 0 unless boxes are distributions; box_coding is "anchor_delta", "distance",
    "distribution", "points" or ""; quality is what a quality logit predicts, "centerness", "iou"
    or the name of a predictor such as "DGQP", "" without one; points is what places the cells of
    dense predictions, the anchor generator and its offset; num_stages is that of box stages on
    regions.
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
    points: str = ""
    num_stages: int = 0


@dataclass(eq=False, repr=False)
class DenseMaps:
    """RPN maps by stride: objectness `logits` (N, HWA, 1), `deltas` (N, HWA, 4), `labels` (N, R).

    Labels are 1 object, 0 background, -1 not sampled; a teacher has none.
    """

    logits: Dict[int, Tensor]
    deltas: Dict[int, Tensor]
    labels: Computed[Tensor] = Computed("rpn")


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


@dataclass(eq=False, repr=False)
class DetectorOutput:
    """Everything a distillation head may read; fields nobody asked for stay empty.

    A tensor, list or part that was not computed raises an AttributeError when it is read; `hasattr`
    asks whether it is there. For an output with other maps, set them on a `copy.copy` of it.

    Attributes:
        images: normalized, padded batch.
        adapter: the adapter that made this output, for `decode` and `head_from`.
        features: (N, C, H, W) FPN maps.
        cls_taps, reg_taps: (N, C', H, W) pre-activation of each tower block, in order.
        logits: (N, HWA, K) raw class logits.
        scores: (N, HWA, K) in [0, 1], float32, detached: sigmoid of the logits, times that of the
            quality logit for GFLv2.
        deltas: (N, HWA, D) raw box predictions in the detector's own coding, D = 4 or, for
            distributions, 4 * (reg_max + 1), or, for n points, 2n.
        first_deltas: the first of two box predictions, of detectors that refine one; {} otherwise.
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
        whole: `features` of all cells, where a teacher pads more than the student and its maps are
            cut to the student's; {} otherwise.
        sets: a teacher's boxes with class probabilities, after its own suppression.
    """

    images: ImageList
    adapter: Decoder
    features: Dict[int, Tensor]
    cls_taps: Dict[int, List[Tensor]] = field(default_factory=dict)
    reg_taps: Dict[int, List[Tensor]] = field(default_factory=dict)
    logits: Dict[int, Tensor] = field(default_factory=dict)
    scores: Dict[int, Tensor] = field(default_factory=dict)
    deltas: Dict[int, Tensor] = field(default_factory=dict)
    first_deltas: Dict[int, Tensor] = field(default_factory=dict)
    distributions: Dict[int, Tensor] = field(default_factory=dict)
    quality: Dict[int, Tensor] = field(default_factory=dict)
    valid: Dict[int, Tensor] = field(default_factory=dict)
    anchors: Dict[int, Boxes] = field(default_factory=dict)
    labels: Computed[Tensor] = Computed()
    matched_boxes: Computed[Tensor] = Computed()
    gt: List[Instances] = field(default_factory=list)
    num_pos: Computed[Tensor] = Computed("labels")
    proposals: Computed[List[Instances]] = Computed()
    rpn: Computed[DenseMaps] = Computed()
    roi: List[RoIOutput] = field(default_factory=list)
    masks: Computed[MaskOutput] = Computed()
    losses: Dict[str, Tensor] = field(default_factory=dict)
    whole: Dict[int, Tensor] = field(default_factory=dict)
    sets: Computed[Predicted] = Computed()

    def labels_by_stride(self) -> Dict[int, Tensor]:
        """`labels` cut into levels: stride -> (N, HWA)."""
        sizes = [len(boxes) for boxes in self.anchors.values()]
        return dict(zip(self.anchors, self.labels.split(sizes, dim=1), strict=True))
