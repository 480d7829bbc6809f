"""A backbone alone, as a teacher by its maps."""

from typing import Any, Dict, List, Mapping

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from ..backbones.extractor import timm_name
from ..errors import ConfigError
from ..text import plain

_SIDES = 128, 192  # px, of a blank image


@META_ARCH_REGISTRY.register()
class FeatureExtractor(nn.Module):
    """A frozen backbone, which detects nothing and is not trained."""

    @configurable
    def __init__(
        self, *, backbone: Backbone, pixel_mean: List[float], pixel_std: List[float]
    ) -> None:
        """Try the backbone on a blank image.

        Args:
            backbone: with its own model in `body`.
            pixel_mean, pixel_std: of pixels in 0..255.

        Raises:
            ConfigError: it takes images of one size only.
        """
        super().__init__()
        self.backbone = backbone.eval()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        try:
            with torch.no_grad():
                backbone(torch.zeros(1, len(pixel_mean), *_SIDES))
        except Exception as error:  # of the library's own code
            said = plain(str(error).strip().split("\n")[0], 200)
            raise ConfigError(
                "MODEL.TIMM.NAME: it does not take images of any size, which a teacher needs: "
                f"{type(error).__name__}: {said}"
            ) from error

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """The backbone of MODEL.BACKBONE.NAME."""
        pixels = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        return {"backbone": build_backbone(cfg), **pixels}

    def renamed(self, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Tensors of a file of the whole model under the names that its maps' layers have here."""
        flat = {name.replace(".", "_"): x for name, x in weights.items()}
        body = self.backbone.get_submodule("body")
        names = {f"backbone.body.{x}": timm_name(body, x) for x in body.state_dict()}
        return {name: flat[theirs] for name, theirs in names.items() if theirs in flat}

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> None:
        """There is nothing that it could return.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "MODEL.META_ARCHITECTURE FeatureExtractor detects nothing and is not trained: it "
            "teaches by its maps, with --teacher."
        )
