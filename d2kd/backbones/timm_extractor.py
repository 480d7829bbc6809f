"""Models of timm whose maps teach: of CNNs at their strides, of plain ViTs on one grid."""

import logging

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..errors import ConfigError
from .timm import TimmBackbone, check_model, import_timm, listing_of

_FINEST = 4  # px, of the strides
GRIDS = 8, 16, 32, 64  # px, that a patch may stand for


class TimmGrid(Backbone):
    """The last tokens of a plain ViT, behind its norm, as one map.

    Images are resized so that a patch stands for `stride` px of the image: by averages of 2 x 2
    where that is twice the patch (RT-DETRv4), else by antialiased bicubic interpolation.
    """

    def __init__(self, name: str, patch: int, stride: int = 0) -> None:
        """Build it with random weights.

        Args:
            name: of timm.
            patch: side of its patches, px.
            stride: of the map, one of `GRIDS`, px; 0 for the patch or the next power of 2, 16 for
                patches of 14.

        Raises:
            ConfigError: it takes images of one size only, or the stride is none of these.
        """
        super().__init__()
        if stride not in (0, *GRIDS):
            raise ConfigError(f"MODEL.TIMM.STRIDE is {stride}: choose one of {(0, *GRIDS)}.")
        try:
            self.body = import_timm().create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError as error:
            raise ConfigError(
                f"MODEL.TIMM.NAME: {name} takes images of one size only, which a teacher cannot."
            ) from error
        self.patch, self.cell = patch, stride or 1 << (patch - 1).bit_length()
        self._out_features = [f"s{self.cell}"]
        self._out_feature_strides = {f"s{self.cell}": self.cell}
        self._out_feature_channels = {f"s{self.cell}": self.body.num_features}

    @property
    def size_divisibility(self) -> int:
        """See the base class."""
        return self.cell

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The map of (N, 3, H, W) normalized pixels."""
        if self.cell == 2 * self.patch:
            image = avg_pool2d(image, 2)
        elif self.cell != self.patch:
            size = [side * self.patch // self.cell for side in image.shape[-2:]]
            image = interpolate(image, size, mode="bicubic", antialias=True)
        maps = self.body.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return {f"s{self.cell}": maps[0]}


@BACKBONE_REGISTRY.register()
def build_timm_extractor_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The maps of MODEL.TIMM.NAME, with random weights.

    Raises:
        ConfigError: it has no maps, or no grid for MODEL.TIMM.STRIDE.
    """
    timm, name = import_timm(), cfg.MODEL.TIMM.NAME
    check_model(timm, name)
    try:
        strides = listing_of(name).reduction()
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ConfigError(f"MODEL.TIMM.NAME: timm's {name} gives no maps.") from error
    if known := timm.get_pretrained_cfg(name):
        said = known.license or "none stated"
        logging.getLogger(__name__).info("Licence of timm's weights of %s: %s", name, said)
    if len(strides) > 1 and len(set(strides)) == 1:
        return TimmGrid(name, strides[0], cfg.MODEL.TIMM.STRIDE)
    if cfg.MODEL.TIMM.STRIDE:
        raise ConfigError(
            f"MODEL.TIMM.STRIDE is {cfg.MODEL.TIMM.STRIDE}, but {name} has maps of strides of its "
            "own: set it to 0."
        )
    levels = sorted({f"c{x.bit_length() - 1}" for x in strides if x >= _FINEST})
    return TimmBackbone(name, levels, in_channels=input_shape.channels)
