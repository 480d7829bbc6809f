"""The maps inside of transformers' detectors, of which each family has its own."""

import math
from typing import Any, Callable, Dict, List, Tuple

from torch import Tensor

from ..errors import ConfigError

Model = Any  # a ...ForObjectDetection of transformers
_STRIDES = 4, 8, 16, 32, 64


def patch_grid(config: Any) -> Tuple[int, int]:
    """Side of a ViT's patches, px, and how many windows lie side by side; 1 and 1 without."""
    inner = getattr(config, "backbone_config", None) or config
    patch = getattr(inner, "patch_size", 1)
    windows = getattr(inner, "num_windows_side", 0) or getattr(inner, "num_windows", 1)
    return max(patch) if isinstance(patch, (list, tuple)) else patch, int(windows)


def maps_alone(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    """Its maps, without the decoder where that can be left out.

    Args:
        model: a ...ForObjectDetection.
        pixels: (N, 3, H, W), normalized.
        mask: (N, H, W), 1 on images and 0 in the padding.

    Returns:
        (N, C, H / stride, W / stride) of each level.
    """
    return _ENCODERS.get(model.config.model_type, _by_tokens)(model, pixels, mask)


def run_whole(model: Model, pixels: Tensor, mask: Tensor) -> Any:
    """What the whole model returns.

    Raises:
        ConfigError: its encoder has fewer cells than it makes queries of.
    """
    try:
        return _whole(model, pixels, mask)
    except RuntimeError as error:
        if "out of range" not in str(error):
            raise
        height, width = pixels.shape[-2:]
        raise ConfigError(
            f"the teacher {model.config.model_type} makes {model.config.num_queries} queries, more "
            f"than there are cells in images of {width} x {height} px: take larger ones "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST), or DISTILL.TEACHER.SIZE own."
        ) from error


def _whole(model: Model, pixels: Tensor, mask: Tensor) -> Any:
    kind = model.config.model_type
    if kind == "yolos":
        return model(pixels)
    kept = {"output_hidden_states": True} if kind == "dab-detr" else {}  # else no encoder's output
    return model(pixels, pixel_mask=mask, **kept)


def maps_among(model: Model, outputs: Any, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    """The same, taken from what the whole model returned where that has them."""
    kept = getattr(outputs, "encoder_last_hidden_state", None)
    if isinstance(kept, (list, tuple)):
        return list(kept)
    if kept is not None:
        return _unflatten(model, kept, pixels)
    return maps_alone(model, pixels, mask)


def _hybrid(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    inner = model.model
    trunk = zip(inner.encoder_input_proj, inner.backbone(pixels, mask), strict=True)
    return list(inner.encoder([project(x) for project, (x, _) in trunk]).last_hidden_state)


def _deim(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    return list(model.model.encoder(model.model.conv_encoder(pixels)).feature_maps)


def _projected(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    return [x for x, _ in model.model.backbone(pixels, mask)]


def _single(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    return [model.model.backbone(pixels, mask)[0]]


def _yolos(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    tokens = model.vit(pixels).last_hidden_state
    return _unflatten(model, tokens[:, 1 : -model.config.num_detection_tokens], pixels)


def _by_tokens(model: Model, pixels: Tensor, mask: Tensor) -> List[Tensor]:
    outputs = run_whole(model, pixels, mask)
    return _unflatten(model, outputs.encoder_last_hidden_state, pixels)


_ENCODERS: Dict[str, Callable[[Model, Tensor, Tensor], List[Tensor]]] = {
    "rt_detr": _hybrid, "rt_detr_v2": _hybrid, "d_fine": _hybrid, "deimv2": _deim,
    "lw_detr": _projected, "rf_detr": _single, "yolos": _yolos,
}  # fmt: skip
BOXES_OF_IMAGES = frozenset(  # relative to images without padding, of the others to the batch
    {"detr", "conditional_detr", "dab-detr", "deformable_detr", "lw_detr", "rf_detr"}
)


def _unflatten(model: Model, tokens: Tensor, pixels: Tensor) -> List[Tensor]:
    """Maps of tokens (N, cells of all levels, C), whose strides double from level to level."""
    config, (height, width) = model.config, pixels.shape[-2:]
    levels = getattr(config, "num_feature_levels", 1)
    for first in _STRIDES:
        strides = [first << level for level in range(levels)]
        cells = [(math.ceil(height / s), math.ceil(width / s)) for s in strides]
        counts = [rows * columns for rows, columns in cells]
        if sum(counts) == tokens.shape[1]:
            parts = zip(tokens.split(counts, dim=1), cells, strict=True)
            return [x.transpose(1, 2).unflatten(2, cell) for x, cell in parts]
    raise ConfigError(
        f"MODEL.TRANSFORMERS.FOLDER: {tokens.shape[1]} cells of a {config.model_type} on "
        f"{height} x {width} px are of no strides that are powers of 2."
    )
