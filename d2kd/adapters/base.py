"""The adapter that computes a detector's `DetectorOutput`, and where adapters are registered."""

from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Sequence, Tuple

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from fvcore.common.registry import Registry
from torch import Tensor, nn

from .output import DetectorOutput, DetectorSpec, RoIOutput
from .padding import Size, backbone_divisor, crop, pad
from .padding import valid_cells as valid_cells
from .replay import refuse_overrides

DETECTOR_ADAPTER_REGISTRY = Registry("DETECTOR_ADAPTER")
DETECTOR_ADAPTER_REGISTRY.__doc__ = "Adapters, named <DetectorClass>Adapter."


class DetectorAdapter:
    """Replays a detector's training step from its public parts. Holds no state, changes nothing.

    Class attributes: `replays`, the stock functions whose steps are repeated here (a detector that
    overrides one is refused), `provides`, the fields of `DetectorOutput` that are filled, and
    `conditions`, what fields depend on, such as a config key, for the errors of those that are not.
    """

    replays: ClassVar[Tuple[Callable, ...]] = ()
    provides: FrozenSet[str] = frozenset({"features", "gt"})
    conditions: ClassVar[Dict[str, str]] = {}
    has_supervise_by: ClassVar[bool] = False  # whether a teacher can assign its objects
    least_score: float = 0.05  # from which on boxes of a teacher's set count

    def __init__(self, detector: nn.Module) -> None:
        """Check that the detector overrides nothing that is replayed.

        Raises:
            TypeError: it does.
        """
        refuse_overrides(detector, self.replays, type(self).__name__)
        self.detector = detector

    @property
    def backbone(self) -> Backbone:
        """The detector's backbone."""
        return self.detector.backbone

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return self.detector.get_buffer("pixel_mean").device

    @property
    def divisor(self) -> int:
        """What the sides of its padded images are multiples of, px; 1 for any."""
        return backbone_divisor(self.backbone)

    def spec(self) -> DetectorSpec:
        """What heads are built and checked against."""
        raise NotImplementedError

    def compilable(self) -> List[nn.Module]:
        """Submodules that `torch.compile` may replace in place: tensors in, tensors out."""
        return [self.backbone]

    def preprocess(
        self, batched_inputs: List[dict], divisor: int, flip_channels: bool = False
    ) -> ImageList:
        """Normalize and pad a batch as the stock `preprocess_image` does; see `padding.pad`.

        Args:
            batched_inputs: dicts with "image", a (3, H, W) tensor in 0..255.
            divisor: the padded height and width are multiples of it (px).
            flip_channels: reverse RGB <-> BGR, before normalization.
        """
        mean, std = (self.detector.get_buffer(name) for name in ("pixel_mean", "pixel_std"))
        images = [x["image"].to(mean.device, non_blocking=True) for x in batched_inputs]
        if flip_channels:
            images = [x.flip(0) for x in images]
        return pad([(x - mean) / std for x in images], divisor, self.backbone)

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

    def losses_on(
        self, output: DetectorOutput, features: Dict[int, Tensor], gt: List[Instances]
    ) -> Dict[str, Tensor]:
        """The detector's training losses on other FPN maps than its own; it is in training mode.

        Args:
            output: of `forward` on the same images.
            features: maps by stride, of the shapes of `output.features`.
            gt: targets.
        """
        raise NotImplementedError

    def supervise_by(
        self, output: DetectorOutput, gt: List[Instances], predicted: DetectorOutput
    ) -> None:
        """Fill a student's losses, labels and boxes, with its objects assigned by a teacher.

        Args:
            output: of `forward` on the same images, without targets.
            gt: targets.
            predicted: what the teacher, a detector of the same kind, predicts at the same cells.
        """
        raise NotImplementedError

    def fit(self, output: DetectorOutput, sizes: Sequence[Size], padded: Size) -> DetectorOutput:
        """A teacher's output on the cells that the student has.

        Args:
            output: of a batch that this adapter preprocessed.
            sizes: height and width (px) of the student's images.
            padded: of their batch.
        """
        return crop(output, padded)

    def derive(self, output: DetectorOutput, need: FrozenSet[str]) -> None:
        """Fill the fields of `output` that follow from its raw predictions."""

    def add_regions(
        self, output: DetectorOutput, student: DetectorOutput, need: FrozenSet[str]
    ) -> None:
        """Fill a teacher's `roi` and `masks`, as far as needed, on the student's proposals.

        Args:
            output: result of `forward` on the same images.
            student: its `roi` and `masks` have the proposals.
            need: "roi", "masks" or both.
        """
        raise NotImplementedError

    def label(self, output: DetectorOutput, gt: List[Instances]) -> Tuple[Tensor, Tensor]:
        """The detector's own assignment: labels (N, R) and matched boxes (N, R, 4), XYXY px.

        Args:
            output: with what the detector predicts.
            gt: N `Instances` with gt_boxes (XYXY px), gt_classes and the image's size.
        """
        raise NotImplementedError

    def decode(self, output: DetectorOutput) -> Dict[int, Tensor]:
        """Decoded boxes by stride: (N, HWA, 4) XYXY px, float32, differentiable."""
        raise NotImplementedError

    def class_scores(self, logits: Tensor, quality: Optional[Tensor]) -> Tensor:
        """The detector's class scores, detached.

        Args:
            logits: (..., K) class logits.
            quality: (..., 1) quality logits, None where the detector has none.

        Returns:
            Tensor: (..., K) in [0, 1], float32, what detections are selected by.
        """
        raise NotImplementedError

    def head_from(
        self, stride: int, block: int, cls_x: Tensor, reg_x: Tensor
    ) -> Tuple[Tensor, ...]:
        """Resume both towers of one level after block `block` and predict.

        Args:
            stride: of the level, px.
            block: number of tower blocks already applied; 0 for FPN features.
            cls_x: (N, C', H, W) pre-activation of that block in the class tower.
            reg_x: the same of the box tower.

        Returns:
            Tuple: logits (N, HWA, K), deltas (N, HWA, D) and, with quality, (N, HWA, 1).
        """
        raise NotImplementedError

    def assign(self, output: DetectorOutput, boxes: Tensor, classes: Tensor) -> List[Tensor]:
        """Assign a student's anchors, cells or proposals to boxes as its own assigner would.

        Args:
            boxes, classes: (N, Q, 4) XYXY px and (N, Q), the likeliest of each.

        Returns:
            List[Tensor]: (N, R) of dense predictions, or (P,) of each stage of regions: the place
            of the box in its image, -1 for background, -2 for what takes no part.
        """
        raise NotImplementedError

    def decode_regions(self, stage: RoIOutput, index: int) -> Tensor:
        """Boxes of stage `index`: (P, K, 4) or, without classes, (P, 1, 4) XYXY px, float32."""
        raise NotImplementedError

    def regions_at(self, output: DetectorOutput, boxes: Tensor) -> RoIOutput:
        """What a student's first stage predicts on boxes (N, Q, 4) XYXY px."""
        raise NotImplementedError

    def __call__(
        self, images: ImageList, gt: Optional[List[Instances]], need: FrozenSet[str]
    ) -> DetectorOutput:
        """Same as `forward`."""
        return self.forward(images, gt, need)
