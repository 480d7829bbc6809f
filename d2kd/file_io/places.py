"""Whether a file or folder can be written, found out before there is anything to lose."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from ..errors import ConfigError, os_reason
from ..text import plain

_LONGEST = 255 - len(".tmp")  # bytes of a name, which `write_atomically` makes longer
_BLOCK = 4096  # bytes, for which a full disk has no place


def check_output(path: str | Path, key: str, folder: bool | None = True) -> None:
    """Check that a file or folder can be made or written; nothing is left behind.

    Args:
        path: of what will be written.
        key: the option or key that names it.
        folder: whether it is one; None for either.

    Raises:
        ConfigError: something else is there, or nothing can be written; says why.
    """
    path, said = Path(path).expanduser(), f"{key} {plain(path)}"
    try:
        if any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
            raise ConfigError(f"{said} cannot be written: a name is too long.")
        if folder and path.exists() and not path.is_dir():
            raise ConfigError(f"{said} is a file: name a folder.")
        if folder is False and path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no file"
            raise ConfigError(f"{said} is {what}: name a file.")
        place = next(x for x in (path.absolute(), *path.absolute().parents) if x.exists())
        place = place.parent if place == path.absolute() and not path.is_dir() else place
        if not place.is_dir():
            raise ConfigError(f"{said} is below {plain(place)}, which is a file: name a folder.")
        with TemporaryFile(dir=place) as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        raise ConfigError(f"{said} cannot be written: {os_reason(error)}.") from None
