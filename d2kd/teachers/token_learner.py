"""Learning MasKD's receptive tokens: the meta-architecture of stage 1, around a frozen teacher."""

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ..adapters import DetectorAdapter
from ..adapters.class_map import ClassMap
from ..adapters.to_device import to_device
from ..checkpoint.values import digest
from ..errors import ConfigError
from ..heads.receptive_tokens import LevelTokens
from ..heads.tokens_file import FILE, TokensFile, write_tokens
from ..losses.reduce import total
from .build_tokens import build_token_learner
from .teacher import Teacher


@META_ARCH_REGISTRY.register()
class TokenLearner(nn.Module):
    """Learns tokens of every level of a teacher, by the teacher's own training loss.

    Each FPN map x becomes x sum_k p_k m_k, and the teacher's heads and losses run on these; the
    Dice overlap of the masks of a level, summed over levels, keeps tokens apart (MasKD, Huang et
    al., ICLR 2023, section 3.1). The teacher is no submodule: parameters, gradients and state are
    those of the tokens. Its backbone and its layers are in eval mode; only what holds layers is in
    training mode, for the losses.

    Attributes:
        teachers: the one teacher, as a `Distiller` has them.
        num_classes: of the data.
        name: of the teacher, in the tokens' file.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: Teacher,
        number: int = 6,
        dice: float = 1.0,
        input_format: str = "BGR",
        class_map: Optional[ClassMap] = None,
        name: str,
    ) -> None:
        """Draw tokens for a teacher, whose modes change.

        Args:
            teacher: of a detector that has training losses.
            number: tokens of a level, above 0.
            dice: weight of the overlap, >= 0.
            input_format: channel order of the images in a batch, "BGR" or "RGB".
            class_map: which of the data's classes the teacher knows, where they are not the same.
            name: what the tokens' file calls the teacher.

        Raises:
            ValueError: the teacher has no training losses, or an option is out of range.
        """
        super().__init__()
        _check(teacher, number, dice)
        self.teachers, self.dice, self.input_format = [teacher], dice, input_format
        spec = teacher.adapter.spec()
        self.name = name
        self.levels = nn.ModuleDict(
            {str(s): LevelTokens(x.channels, number) for s, x in spec.features.items()}
        )
        self.num_classes = class_map.num_classes if class_map else spec.num_classes
        self._places = _places(class_map) if class_map else None
        self.levels.to(self.device)
        for module in teacher.detector.modules():
            module.training = any(True for _ in module.children())
        teacher.adapter.backbone.eval()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """See `build_token_learner`."""
        return build_token_learner(cfg)

    @property
    def detector(self) -> nn.Module:
        """The teacher's, whose losses are computed."""
        return self.teachers[0].detector

    @property
    def device(self) -> torch.device:
        """The teacher's."""
        return self.teachers[0].adapter.device

    def forward(self, batched_inputs: List[dict]) -> Dict[str, Tensor]:
        """Losses of a batch of Detectron2's, the teacher's own and "loss_dice"."""
        teacher = self.teachers[0]
        divisor, need = teacher.adapter.divisor, frozenset({"features"})
        output = teacher(batched_inputs, divisor, self.input_format, need)
        found = {s: self.levels[str(s)](x) for s, x in output.features.items()}
        masked = {stride: x for stride, (x, _) in found.items()}
        gt = [to_device(self._known(x["instances"]), self.device) for x in batched_inputs]
        with teacher.autocast():
            losses = teacher.adapter.losses_on(output, masked, gt)
        return {**losses, "loss_dice": self.dice * total(overlap for _, overlap in found.values())}

    def _known(self, objects: Instances) -> Instances:
        """The objects of classes that the teacher knows, in its classes."""
        if self._places is None:
            return objects
        places = self._places[objects.gt_classes]
        known = objects[places >= 0]
        known.gt_classes = places[places >= 0]
        return known

    def write(self, folder: Path) -> None:
        """Write the tokens as they are, for `MasKD`, into a folder."""
        levels = {int(s): cast(LevelTokens, x).learnt() for s, x in self.levels.items()}
        backbone = self.teachers[0].adapter.backbone
        write_tokens(folder / FILE, TokensFile(levels, self.name, digest(backbone)))

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> "TokenLearner":
        self.detector._apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _check(teacher: Teacher, number: int, dice: float) -> None:
    adapter = teacher.adapter
    if type(adapter).losses_on is DetectorAdapter.losses_on:
        raise ConfigError(
            f"DISTILL.TEACHER: {adapter.spec().name} has no training losses here, or "
            "DISTILL.TEACHER.SIZE is own: tokens are learnt on Detectron2's own detectors and "
            "d2kd's, at the size of their images."
        )
    for key, value, holds in (("NUMBER", number, number > 0), ("DICE", dice, dice >= 0)):
        if not holds:
            raise ConfigError(f"DISTILL.TOKENS.{key} is {value}: it must not be that small.")


def _places(classes: ClassMap) -> Tensor:
    """The teacher's class of each of the data's, -1 where there is none; of several the first."""
    places = torch.full((classes.num_classes,), -1)
    places[list(classes.student)] = torch.tensor([x[0] for x in classes.teacher])
    return places
