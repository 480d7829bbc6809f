"""Detectors of Hugging Face transformers behind Detectron2's interface, as teachers."""

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..errors import ConfigError
from ..file_io.untrusted import read_json
from ..text import plain
from .transformers_backbone import TransformersBackbone

_ELSEWHERE = re.compile(
    r'"(\w*(?:attn|experts)_implementation\w*|quantization_config|backbone(?="\s*:\s*"[^"]*:))"'
)


def add_transformers_config(cfg: CfgNode) -> None:
    """Add the keys of `TransformersDetector`, in place."""
    cfg.MODEL.TRANSFORMERS = CfgNode()
    cfg.MODEL.TRANSFORMERS.FOLDER = ""  # of a teacher of Hugging Face; --teacher hf:... sets it
    cfg.MODEL.TRANSFORMERS.CLASSES = ()  # names of its classes


@META_ARCH_REGISTRY.register()
class TransformersDetector(nn.Module):
    """A teacher of the Hugging Face library transformers; it is not trained here."""

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self, *, backbone: TransformersBackbone, pixel_mean: List[float], pixel_std: List[float]
    ) -> None:
        """Hold a detector.

        Args:
            backbone: has the whole of it.
            pixel_mean, pixel_std: of RGB pixels in 0..255.
        """
        super().__init__()
        self.backbone = backbone
        self.num_classes: int = backbone.model.config.num_labels
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Build it from the config.json in MODEL.TRANSFORMERS.FOLDER, with random weights.

        Raises:
            ConfigError: transformers is missing, or cannot build it without code from elsewhere.
        """
        folder = cfg.MODEL.TRANSFORMERS.FOLDER
        if found := _ELSEWHERE.search(_plain_json(Path(folder, "config.json"))):
            raise ConfigError(
                f"MODEL.TRANSFORMERS.FOLDER: config.json in {folder} sets {found[1]}, which can "
                "fetch code or files from elsewhere: take it out."
            )
        try:
            from transformers import AutoConfig, AutoModelForObjectDetection

            own = {"trust_remote_code": False}
            config = AutoConfig.from_pretrained(folder, local_files_only=True, **own)
            model = AutoModelForObjectDetection.from_config(config, **own)
        except Exception as error:  # of any part of it
            said = plain(str(error).strip().split("\n")[0], 300)
            raise ConfigError(
                f"MODEL.TRANSFORMERS.FOLDER: transformers (pip install d2kd[hf]) cannot build the "
                f"detector of {folder}: {type(error).__name__}: {said}"
            ) from error
        pixels = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        return {"backbone": TransformersBackbone(model), **pixels}

    def renamed(self, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Tensors of a file of transformers, of whatever age, under the names that they have here.

        Args:
            weights: as they are in the file.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = self.backbone.model
        filled, found = type(model).from_pretrained(
            None, config=model.config, state_dict=dict(weights), output_loading_info=True,
            dtype=torch.float32, ignore_mismatched_sizes=True,
        )  # fmt: skip
        lost = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
        state = filled.state_dict()
        return {f"backbone.model.{key}": x for key, x in state.items() if key not in lost}

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        """Detections, as Detectron2's detectors return them.

        Raises:
            ConfigError: in training.
        """
        if self.training:
            raise ConfigError(
                "MODEL.META_ARCHITECTURE TransformersDetector is a teacher, which d2kd does not "
                "train: give it with --teacher hf:FOLDER."
            )
        images = [x["image"].to(self.pixel_mean.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        batch = ImageList.from_tensors(images, self.backbone.step)
        found = self.backbone.predict(batch)
        results = []
        for i, (size, x) in enumerate(zip(batch.image_sizes, batched_inputs, strict=True)):
            detected = detections(found.boxes[i], found.probabilities[i], found.exclusive)
            made = Instances(size, pred_boxes=Boxes(detected[0]), scores=detected[1],
                             pred_classes=detected[2])  # fmt: skip
            height, width = x.get("height", size[0]), x.get("width", size[1])
            results.append({"instances": detector_postprocess(made, height, width)})
        return results


def detections(
    boxes: Tensor, probabilities: Tensor, exclusive: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """Boxes (Q, 4), scores (Q,) and classes (Q,) of one image, as transformers selects them.

    The best class of each box where classes are exclusive, else the Q best pairs of both.
    """
    if exclusive:
        scores, classes = probabilities.max(-1)
        return boxes, scores, classes
    scores, index = probabilities.flatten().topk(len(boxes))
    return boxes[index // probabilities.shape[1]], scores, index % probabilities.shape[1]


def _plain_json(path: Path) -> str:
    """A json file as text without escapes, by which names could be hidden."""
    return json.dumps(read_json(path), ensure_ascii=False)
