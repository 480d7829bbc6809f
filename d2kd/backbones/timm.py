"""Any timm model with ``features_only`` support as the trunk of an FPN."""

import difflib
import math
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ..errors import ConfigError
from .extractor import drop_unused, load_weights, modules_up_to
from .fpn import Pyramid, build_pyramid

if TYPE_CHECKING:
    from timm.models import FeatureInfo

# Swin otherwise takes images of one size, and does not shift the windows of its last stage.
_SWIN = {"strict_img_size": False, "always_partition": True}


def add_timm_config(cfg: CfgNode) -> None:
    """Add the keys of `build_timm_fpn_backbone`, in place."""
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "resnet18"  # any name of timm.list_models()
    cfg.MODEL.TIMM.PRETRAINED = False  # download timm's weights
    cfg.MODEL.TIMM.CHECKPOINT = ""  # a local .pth or .safetensors of timm's weights instead
    cfg.MODEL.TIMM.FREEZE_AT = 0  # freeze everything up to feature c<n>; 2: stem and first stage
    cfg.MODEL.TIMM.STRIDE = 0  # px of a plain ViT's grid, of a teacher; 0: its patch or a bit more


def import_timm() -> ModuleType:
    """timm, or an error that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME build_timm_fpn_backbone needs timm: pip install d2kd[timm]"
        ) from error
    return timm


def check_model(timm: ModuleType, name: str) -> None:
    """Raise for a model that timm does not have, with the nearest names that it has."""
    if timm.is_model(name.split(".")[0]):
        return
    nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    hint = f"Nearest: {', '.join(nearest)}." if nearest else "See timm.list_models()."
    raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm does not have. {hint}")


def _create(
    timm: ModuleType, name: str, pretrained: bool, options: Dict[str, Any]
) -> Tuple[nn.Module, "FeatureInfo"]:
    """The model and its stages; weights that cannot be downloaded are an error naming the key."""
    try:
        body = timm.create_model(name, pretrained, **options)
        return body, body.feature_info
    except OSError as error:
        if not pretrained:
            raise
        raise ConfigError(
            f"MODEL.TIMM.PRETRAINED: the weights of {name} cannot be downloaded "
            f"({type(error).__name__}). Download model.safetensors of https://huggingface.co/"
            f"{timm.get_pretrained_cfg(name).hf_hub_id} by other means and give its path in "
            "MODEL.TIMM.CHECKPOINT, or train from scratch with MODEL.TIMM.PRETRAINED False."
        ) from error


@lru_cache(maxsize=32)
def listing_of(name: str) -> "FeatureInfo":
    """All stages, of a model without storage."""
    return import_timm().create_model(name, device="meta", **_options(name)).feature_info


def _options(name: str) -> Dict[str, Any]:
    return {"features_only": True, **(_SWIN if name.startswith("swin") else {})}


def _stages(info: "FeatureInfo") -> Dict[str, int]:
    """Stage names "c<log2 stride>" to timm's index; of stages of one stride the last counts."""
    stages = zip(info.out_indices, info.reduction(), strict=True)
    return {f"c{int(math.log2(stride))}": index % len(info) for index, stride in stages}


def _check_stages(name: str, stages: Dict[str, int], wanted: Sequence[str], freeze_at: int) -> None:
    """Raise for stages to build or to freeze that the model does not have."""
    missing = [feature for feature in wanted if feature not in stages]
    if not wanted:
        raise ValueError(f"MODEL.FPN.IN_FEATURES is empty: choose from {list(stages)}.")
    if missing:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES asks for {missing}, which timm's {name} does not have. "
            f"Available: {list(stages)}."
        )
    if freeze_at != 0 and f"c{freeze_at}" not in stages:
        raise ValueError(
            f"MODEL.TIMM.FREEZE_AT is {freeze_at}. Use 0 to freeze nothing, or n to freeze {name} "
            f"up to c<n>, one of {list(stages)}."
        )


class TimmBackbone(Backbone):
    """The stages of a timm model that are asked for, as Detectron2 features "c1" to "c5".

    Args:
        name: timm model name.
        out_features: stages to build, finest first, named "c<log2 stride>".
        pretrained: load timm's weights.
        in_channels: channels of the input image.
        checkpoint: local file of timm's weights, in place of `pretrained`.
        freeze_at: freeze everything up to "c<freeze_at>" (0: nothing). Its parameters get no
            gradient; its modules, such as batch norm, stay in evaluation mode.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str],
        pretrained: bool = False,
        in_channels: int = 3,
        checkpoint: str = "",
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        timm = import_timm()
        check_model(timm, name)
        listing = listing_of(name)
        stages = _stages(listing)
        _check_stages(name, stages, out_features, freeze_at)
        indices = tuple(stages[feature] for feature in out_features)
        options = {**_options(name), "out_indices": indices, "in_chans": in_channels}
        self.body, info = _create(timm, name, pretrained and not checkpoint, options)
        self._out_features: List[str] = list(out_features)
        self._out_feature_channels = dict(zip(out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(out_features, info.reduction(), strict=True))
        drop_unused(self.body, info.module_name()[-1])
        if checkpoint:
            load_weights(self.body, checkpoint)
        self._frozen: List[nn.Module] = []  # those added later, as to round, are not
        if freeze_at:
            last = listing.module_name(min(stages[f"c{freeze_at}"], indices[-1]))
            self._frozen = modules_up_to(self.body, last)
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode of all modules but the frozen ones."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def forward(self, image: Tensor) -> Dict[str, Tensor]:
        """Run the built stages.

        Args:
            image: (N, in_channels, H, W) normalized pixels.

        Returns:
            Stage name to its (N, C, H / stride, W / stride) features.
        """
        features = self.body(image)
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self._out_features, features, strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Pyramid:
    """The FPN of `build_pyramid` over ``MODEL.TIMM.NAME``.

    ``MODEL.FPN.IN_FEATURES`` picks stages by stride, "c2" (4 px) to "c5" (32 px). Stages above the
    last one picked are not built. The pyramid's levels are "p<log2 stride>" as usual.

    Args:
        cfg: config with the keys of `add_backbone_config`.
        input_shape: channels of the input image.

    Returns:
        A backbone with ``MODEL.FPN.OUT_CHANNELS`` channels on every level.
    """
    timm_cfg, names = cfg.MODEL.TIMM, list(cfg.MODEL.FPN.IN_FEATURES)
    trunk = TimmBackbone(
        timm_cfg.NAME,
        names,
        timm_cfg.PRETRAINED,
        input_shape.channels,
        timm_cfg.CHECKPOINT,
        timm_cfg.FREEZE_AT,
    )
    return build_pyramid(cfg, trunk)
