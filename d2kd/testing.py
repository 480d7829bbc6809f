"""Tiny detectors and batches, for tests of d2kd and of your own heads and adapters."""

from typing import Dict, List, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .config.defaults import get_d2kd_cfg


class TinyBackbone(Backbone):
    """A chain of strided convolutions with outputs "p<log2 of the stride>"."""

    def __init__(self, levels: Sequence[int] = (3, 4, 5, 6, 7), channels: int = 8) -> None:
        """Set the outputs.

        Args:
            levels: consecutive log2 of the strides.
            channels: C of every output.
        """
        super().__init__()
        self._levels, self._channels = tuple(levels), channels
        self.divisibility = 32  # px
        self.stem = nn.Conv2d(3, channels, 3, stride=2 ** levels[0], padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in levels[1:]
        )

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of `divisibility`."""
        return self.divisibility

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Images (N, 3, H, W) to maps (N, C, ceil(H / s), ceil(W / s))."""
        maps = [self.stem(x).relu()]
        for down in self.downs:
            maps.append(down(maps[-1]).relu())
        return {f"p{level}": x for level, x in zip(self._levels, maps, strict=True)}

    def output_shape(self) -> Dict[str, ShapeSpec]:
        """Channels and strides."""
        return {f"p{n}": ShapeSpec(channels=self._channels, stride=2**n) for n in self._levels}


@BACKBONE_REGISTRY.register()
def build_tiny_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TinyBackbone:
    """TinyBackbone with MODEL.RESNETS.OUT_FEATURES and MODEL.FPN.OUT_CHANNELS."""
    levels = [int(name[1:]) for name in cfg.MODEL.RESNETS.OUT_FEATURES]
    return TinyBackbone(levels, cfg.MODEL.FPN.OUT_CHANNELS)


def tiny_cfg(meta_architecture: str = "RetinaNet", channels: int = 8, classes: int = 3) -> CfgNode:
    """Config of a detector that takes milliseconds on a CPU core.

    Args:
        meta_architecture: RetinaNet, FCOS, ATSS, AutoAssign, DDOD, GFL, RepPoints or
            GeneralizedRCNN.
        channels: width of all maps.
        classes: K.
    """
    cfg = get_d2kd_cfg()
    model = cfg.MODEL
    model.DEVICE, model.META_ARCHITECTURE = "cpu", meta_architecture
    model.BACKBONE.NAME, model.FPN.OUT_CHANNELS = "build_tiny_backbone", channels
    two_stage = meta_architecture == "GeneralizedRCNN"
    names = [f"p{n}" for n in (range(2, 7) if two_stage else range(3, 8))]
    model.RESNETS.OUT_FEATURES = names
    model.ROI_HEADS.NUM_CLASSES = classes
    dense = (
        model.RETINANET,
        model.FCOS,
        model.ATSS,
        model.AUTOASSIGN,
        model.DDOD,
        model.GFL,
        model.REPPOINTS,
    )
    for node in dense:
        node.NUM_CLASSES, node.NUM_CONVS, node.IN_FEATURES, node.NORM = classes, 2, names, ""
    model.ANCHOR_GENERATOR.SIZES = [
        [2 ** (n + 2)] for n in (range(2, 7) if two_stage else range(3, 8))
    ]
    single = meta_architecture in ("ATSS", "DDOD", "GFL")
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]] if single else [[0.5, 1.0]]
    if two_stage:
        _tiny_two_stage(model, names)
    return cfg


def _tiny_two_stage(model: CfgNode, names: List[str]) -> None:
    model.MASK_ON = True
    model.PROPOSAL_GENERATOR.NAME = "RPN"
    model.RPN.IN_FEATURES = names
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN = 50, 20
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = 50, 20
    model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES = "StandardROIHeads", names[:4]
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    model.ROI_BOX_HEAD.FC_DIM, model.ROI_BOX_HEAD.POOLER_RESOLUTION = 16, 3
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 1
    model.ROI_MASK_HEAD.CONV_DIM, model.ROI_MASK_HEAD.POOLER_RESOLUTION = 8, 4


def make_batch(
    sizes: Sequence = ((96, 128), (80, 64)), classes: int = 3, boxes: int = 4, seed: int = 0
) -> List[dict]:
    """A training batch of noise images with random boxes and masks.

    Args:
        sizes: (height, width) of each image, px.
        classes: K.
        boxes: boxes per image; 0 for images without objects.
        seed: of a generator of its own.
    """
    from detectron2.structures import BitMasks

    rng = torch.Generator().manual_seed(seed)
    batch = []
    for height, width in sizes:
        limits = torch.tensor([width, height], dtype=torch.float32)
        low = torch.rand(boxes, 2, generator=rng) * limits * 0.5
        high = low + 8 + torch.rand(boxes, 2, generator=rng) * (limits * 0.45 - 8)
        target = Instances((height, width))
        target.gt_boxes = Boxes(torch.cat([low, high], dim=1))
        target.gt_classes = torch.randint(classes, (boxes,), generator=rng)
        masks = torch.zeros(boxes, height, width, dtype=torch.bool)
        for mask, box in zip(masks, target.gt_boxes.tensor.long().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = True
        target.gt_masks = BitMasks(masks)
        image = torch.randint(256, (3, height, width), generator=rng).float()
        batch.append({"image": image, "instances": target, "height": height, "width": width})
    return batch
