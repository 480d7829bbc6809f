"""Files that are there completely or not at all, checksums, and the configs that d2kd ships."""

import hashlib
import os
from pathlib import Path
from typing import Any, Callable, Dict

import yaml

_PACKAGE = Path(__file__).parent.parent
CONFIGS = next(x for x in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if x.is_dir())
"""The folder of d2kd's configs, installed or in a clone."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to the disk, then rename it.

    After a kill or a power failure at any moment `path` is the old file or the new one.

    Raises:
        OSError: the folder cannot be written or the disk is full; `path` is then as it was, and
            the temporary file is gone.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Plain(yaml.SafeDumper):
    """Without anchors, which people find hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write lists anew wherever they are."""
        return True


def write_yaml(path: Path, data: Dict[str, Any]) -> None:
    """Write a dictionary in its order, completely or not at all; its folder is made."""
    text = yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=200)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def append(path: Path, text: str) -> None:
    """Append to a file in one piece, and sync it to the disk.

    Raises:
        OSError: the disk is full; the file is then as long as before.
    """
    with open(path, "ab", buffering=0) as file:
        length, rest = os.fstat(file.fileno()).st_size, memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(length)
            raise
        os.fsync(file.fileno())


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, completely or not at all; its folder exists."""
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
