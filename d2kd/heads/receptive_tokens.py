"""The receptive tokens of MasKD: as they are learnt, and the file that they are kept in."""

import math
from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ..adapters import DetectorAdapter, DetectorSpec
from ..checkpoint.safetensors_file import read_safetensors, write_safetensors
from ..checkpoint.values import as_tensors, check_values, digest
from ..checkpoint.weights_file import first_line
from ..errors import ConfigError, MissingFileError
from ..losses.maskd import dice, pooled_convolution, token_masks, weighted_mask
from ..losses.precision import no_autocast
from ..text import plain

FILE = "tokens.safetensors"
KEY = "DISTILL.MasKD.TOKENS"
LEARN = "learn them on {}, with d2kd train TEACHER --tokens --output FOLDER"
_FORMAT = "d2kd receptive tokens 1"


class LevelTokens(nn.Module):
    """T tokens of a level of C channels, and the layers that weigh their masks, as published."""

    def __init__(self, channels: int, number: int) -> None:
        """Draw them: tokens of deviation 0.01, so that every mask starts near one half."""
        super().__init__()
        self.tokens = nn.Parameter(0.01 * torch.randn(number, channels))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Linear(channels, number)
        for layer, fan_out in ((self.conv, 9 * channels), (self.mix, number)):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """The map under the weighted masks, and how much these overlap.

        Args:
            x: (N, C, H, W), constant.

        Returns:
            Tuple: (N, C, H, W), float32 at least, and `dice`, a scalar.
        """
        masks = token_masks(x, self.tokens)
        pooled = pooled_convolution(x, self.conv.weight, self.conv.bias)
        with no_autocast(x):
            weights = self.mix(pooled).softmax(1)
        return x * weighted_mask(masks, weights)[:, None], dice(masks)

    @torch.no_grad()
    def learnt(self) -> "Tokens":
        """What they are once they are learnt, folded in float64."""
        mix, conv = self.mix.weight.double(), self.conv.weight.double()
        kernel = torch.einsum("td,dcuv->tcuv", mix, conv)
        bias = mix @ self.conv.bias.double() + self.mix.bias.double()
        return Tokens(self.tokens.detach(), kernel.float(), bias.float())


class Tokens(NamedTuple):
    """Learnt tokens (T, C) of a level, and the layers behind p: `kernel` (T, C, 3, 3), `bias` (T).

    The linear layer is multiplied into the convolution: 9 T C numbers instead of 9 C^2 and more.
    """

    tokens: Tensor
    kernel: Tensor
    bias: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the shapes belong together."""
        number, channels = self.tokens.shape if self.tokens.dim() == 2 else (0, 0)
        shapes = tuple(self.kernel.shape), tuple(self.bias.shape)
        return number > 0 and shapes == ((number, channels, 3, 3), (number,))


class TokensFile(NamedTuple):
    """Tokens by stride (px), the teacher's name, and the `digest` of its backbone."""

    levels: Dict[int, Tokens]
    teacher: str
    digest: str

    def check_levels(self, teacher: DetectorSpec) -> None:
        """Raise a ConfigError unless they are for the teacher's levels, all of them."""
        widths = {s: x.channels for s, x in sorted(teacher.features.items())}
        found = {s: x.tokens.shape[1] for s, x in self.levels.items()}
        if found != widths:
            raise ConfigError(
                f"{KEY} has tokens for channels by stride {found}, but the teacher {teacher.name} "
                f"has {widths}: {LEARN.format('this teacher')}, and leave DISTILL.TEACHER.SIZE at "
                "student."
            )

    def check_weights(self, teacher: DetectorAdapter) -> None:
        """Raise a ConfigError unless they were learnt on the maps of this very backbone."""
        if self.digest != digest(teacher.backbone):
            raise ConfigError(
                f"{KEY} was learnt on {plain(self.teacher)}, whose backbone has other weights than "
                f"this teacher's: name that teacher, or {LEARN.format('this one')}."
            )


def write_tokens(path: Path, found: TokensFile) -> None:
    """Write a file of tokens, completely or not at all."""
    tensors = {f"{s}.{name}": x for s, level in found.levels.items()
               for name, x in level._asdict().items()}  # fmt: skip
    about = {"format": _FORMAT, "teacher": found.teacher, "digest": found.digest}
    write_safetensors(tensors, path, about)


def read_tokens(path: Path) -> TokensFile:
    """Read a file of tokens, or that of the run whose folder is named.

    Raises:
        MissingFileError: no such file.
        ConfigError: it is damaged, or holds something else.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise MissingFileError(f"{KEY}: {path} does not exist: {LEARN.format('the teacher')}.")
    try:
        tensors, about = read_safetensors(path)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    if about.get("format") != _FORMAT:
        raise ConfigError(f"{KEY}: {path} holds no tokens: {LEARN.format('the teacher')}.")
    try:
        as_tensors(tensors)
        check_values(tensors, {})
        strides = sorted({int(name.partition(".")[0]) for name in tensors})
        levels = {
            s: Tokens(*(tensors[f"{s}.{x}"].float() for x in Tokens._fields)) for s in strides
        }
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{KEY}: {path} is damaged: {first_line(error)}.") from error
    if not all(level.is_whole for level in levels.values()):
        raise ConfigError(f"{KEY}: {path} is damaged: its shapes do not belong together.")
    return TokensFile(levels, about.get("teacher", ""), about.get("digest", ""))
