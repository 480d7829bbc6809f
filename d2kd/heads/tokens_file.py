"""The file of MasKD's tokens: what stage 1 writes and stage 2 reads."""

import contextlib
import json
from pathlib import Path
from typing import Dict, NamedTuple, Sequence

from ..adapters import DetectorAdapter, DetectorSpec
from ..checkpoint.safetensors_file import read_safetensors, write_safetensors
from ..checkpoint.values import as_tensors, check_values, digest
from ..checkpoint.weights_file import first_line
from ..errors import ConfigError, MissingFileError
from ..text import plain
from .receptive_tokens import Tokens

FILE = "tokens.safetensors"
KEY = "DISTILL.MasKD.TOKENS"
LEARN = "learn them on {}, with d2kd train TEACHER --tokens --output FOLDER"
_FORMAT = "d2kd receptive tokens 1"


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
    about = [_FORMAT, found.teacher, found.digest]  # one text, as texts have no order there
    write_safetensors(tensors, path, {"d2kd": json.dumps(about)})


def file_of(path: Path) -> Path:
    """The file itself, of the folder of a run that of its tokens; "~" is the user's folder."""
    path = path.expanduser()
    return path / FILE if path.is_dir() else path


def read_tokens(path: Path) -> TokensFile:
    """Read a file of tokens, or that of the run whose folder is named.

    Raises:
        MissingFileError: no such file.
        ConfigError: it is damaged, or holds something else.
    """
    path = file_of(path)
    if not path.is_file():
        raise MissingFileError(f"{KEY}: {path} does not exist: {LEARN.format('the teacher')}.")
    try:
        tensors, about = read_safetensors(path)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    kind, *of_teacher = _about(about.get("d2kd", ""))
    if kind != _FORMAT:
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
    return TokensFile(levels, *of_teacher)


def _about(text: str) -> Sequence[str]:
    """Format, teacher and digest; empty ones where `text` is another program's."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, list) and [type(x) for x in found] == [str] * 3:
            return found
    return "", "", ""
