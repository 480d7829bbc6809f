"""The adapter that computes a detector's `DetectorOutput`, and how it is found."""

from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Tuple

import torch
from detectron2.structures import ImageList, Instances
from fvcore.common.registry import Registry
from torch import Tensor, nn

from .output import DetectorOutput, DetectorSpec

DETECTOR_ADAPTER_REGISTRY = Registry("DETECTOR_ADAPTER")
DETECTOR_ADAPTER_REGISTRY.__doc__ = "Adapters, named <DetectorClass>Adapter."


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
        refuse_overrides(detector, self.replays, type(self).__name__)
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


def refuse_overrides(owner: object, replays: Tuple[Callable, ...], adapter: str) -> None:
    """Check that what an adapter repeats is what the owner would do.

    Raises:
        TypeError: the owner's class overrides one of the functions.
    """
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
