"""Any timm model with ``features_only`` support as the trunk of Detectron2's FPN."""

import difflib
import math
from types import ModuleType
from typing import Dict, List, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

TOP_BLOCKS = ("none", "maxpool", "p6p7")


def add_timm_config(cfg: CfgNode) -> None:
    """Add the keys of `build_timm_fpn_backbone`.

    Args:
        cfg: node to extend, in place.
    """
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "resnet18"  # any name of timm.list_models()
    cfg.MODEL.TIMM.PRETRAINED = False  # download timm's weights
    cfg.MODEL.TIMM.TOP_BLOCK = "none"  # levels above the last: "none", "maxpool" (1) or "p6p7" (2)


def _import_timm() -> ModuleType:
    """timm, or an error that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME build_timm_fpn_backbone needs timm: pip install d2kd[timm]"
        ) from error
    return timm


def _check_name(timm: ModuleType, name: str) -> None:
    """Raise for a model that timm does not have, with the nearest names that it has."""
    if timm.is_model(name.split(".")[0]):
        return
    nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    hint = f"Nearest: {', '.join(nearest)}." if nearest else "See timm.list_models()."
    raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm does not have. {hint}")


def _stages(strides: Sequence[int]) -> Dict[str, int]:
    """Stage names "c<log2 stride>" to timm's index; of stages of one stride the last counts."""
    return {f"c{int(math.log2(stride))}": index for index, stride in enumerate(strides)}


class TimmBackbone(Backbone):
    """The stages of a timm model that are asked for, as Detectron2 features "c1" to "c5".

    Args:
        name: timm model name.
        out_features: stages to build, finest first, named "c<log2 stride>".
        pretrained: load timm's weights.
        in_channels: channels of the input image.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str],
        pretrained: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        timm = _import_timm()
        _check_name(timm, name)
        # Listing the stages costs a model without storage on the "meta" device, not a real one.
        listing = timm.create_model(name, features_only=True, device="meta")
        stages = _stages(listing.feature_info.reduction())
        missing = [feature for feature in out_features if feature not in stages]
        if missing:
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES asks for {missing}, which timm's {name} does not have. "
                f"Available: {list(stages)}."
            )
        self.body = timm.create_model(
            name,
            pretrained=pretrained,
            features_only=True,
            out_indices=tuple(stages[feature] for feature in out_features),
            in_chans=in_channels,
        )
        info = self.body.feature_info
        self._out_features: List[str] = list(out_features)
        self._out_feature_channels = dict(zip(out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(out_features, info.reduction(), strict=True))

    def forward(self, image: Tensor) -> Dict[str, Tensor]:
        """Run the built stages.

        Args:
            image: (N, in_channels, H, W) normalized pixels.

        Returns:
            Stage name to its (N, C, H / stride, W / stride) features.
        """
        return dict(zip(self._out_features, self.body(image), strict=True))


def _top_block(kind: str, shape: ShapeSpec, in_feature: str, width: int) -> Optional[nn.Module]:
    """The block for the levels above the last stage ``in_feature``, which has ``shape``."""
    if kind == "none":
        return None
    if kind == "maxpool":
        block = LastLevelMaxPool()
        block.in_feature = in_feature.replace("c", "p")
        return block
    if kind == "p6p7":
        return LastLevelP6P7(shape.channels, width, in_feature=in_feature)
    raise ValueError(f"MODEL.TIMM.TOP_BLOCK is {kind!r}. Choose one of {TOP_BLOCKS}.")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN over ``MODEL.TIMM.NAME``.

    ``MODEL.FPN.IN_FEATURES`` picks stages by stride, "c2" (4 px) to "c5" (32 px). Stages above the
    last one picked are not built. The pyramid's levels are "p<log2 stride>" as usual.

    Args:
        cfg: config with the keys of `add_timm_config`.
        input_shape: channels of the input image.

    Returns:
        A backbone with ``MODEL.FPN.OUT_CHANNELS`` channels on every level.
    """
    names, fpn = list(cfg.MODEL.FPN.IN_FEATURES), cfg.MODEL.FPN
    timm_cfg = cfg.MODEL.TIMM
    trunk = TimmBackbone(timm_cfg.NAME, names, timm_cfg.PRETRAINED, input_shape.channels)
    last = trunk.output_shape()[names[-1]]
    return FPN(
        bottom_up=trunk,
        in_features=names,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=_top_block(timm_cfg.TOP_BLOCK, last, names[-1], fpn.OUT_CHANNELS),
        fuse_type=fpn.FUSE_TYPE,
    )
