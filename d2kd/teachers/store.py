"""Tensors on disk by key, up to a number of bytes; what is read is what was written."""

import contextlib
import errno
import logging
import os
import tempfile
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from detectron2.utils import comm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tensors = Dict[str, Tensor]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class TensorStore:
    """Dictionaries of tensors as safetensors files, by key, up to a number of bytes.

    Files are complete or absent: they are written beside and renamed, so several processes may
    share the folder. Each has a checksum of its key and of its tensors with their names, types and
    shapes; one that does not fit, or cannot be read, is as good as absent. When the limit is
    reached or the disk is full, nothing more is stored. Each kind of trouble is said once.

    Attributes:
        damaged: files that did not fit.
    """

    def __init__(self, folder: Path, limit: int, sharers: int = 1) -> None:
        """Count what is there.

        Args:
            folder: made if it does not exist; may be shared by runs and by ranks.
            limit: bytes that all files in it may take.
            sharers: stores of this rank for the folder; those of all ranks share equally what is
                left.

        Raises:
            ValueError: it cannot be written to.
        """
        self.folder, self.full, self.damaged = folder, False, 0
        self._said: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"DISTILL.TEACHER.CACHE_DIR cannot be written to: {error}") from error
        self.size = self._count()
        self.limit = self.size + (limit - self.size) // (comm.get_world_size() * sharers)

    def read(self, key: str) -> Optional[Tensors]:
        """The tensors stored under `key`, on the CPU, or None."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                stated = (file.metadata() or {}).get("checksum")
            if stated == checksum(key, tensors):
                return tensors
            reason = "its checksum is not that of what is in it, or it is of another image"
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            reason = str(error)
        self.damaged += 1
        self._say("damaged", f"{path} does not fit and is computed again, as are others like it "
                  f"(teacher_cache/damaged in metrics.json counts them): {reason}")  # fmt: skip
        return None

    def write(self, key: str, tensors: Tensors) -> None:
        """Store tensors, contiguous and of separate memory, if there is room."""
        path = self._path(key)
        nbytes = sum(x.nbytes for x in tensors.values()) - _size(path)
        if self.full or self.size + nbytes > self.limit:
            if not self.full:
                self._say("full", "the limit DISTILL.TEACHER.CACHE_GB is reached, with what other "
                          f"runs left in {self.folder}; nothing more is stored")  # fmt: skip
            self.full = True
            return
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, part, {"checksum": checksum(key, tensors)})
            part.replace(path)
            self.size += nbytes
        except (PermissionError, IsADirectoryError) as error:
            self._say("file", f"some outputs cannot be stored: {error}")
        except (OSError, SafetensorError) as error:
            self.full = True
            self._say("full", f"nothing more is stored: {error}")
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _count(self) -> int:
        """Bytes of all files."""
        files = (os.path.join(x, name) for x, _, names in os.walk(self.folder) for name in names)
        return sum(map(_size, files))

    def __setstate__(self, state: Dict[str, Any]) -> None:
        """In another process: others may have written since."""
        vars(self).update(state)
        self.size = self._count()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            logging.getLogger(__name__).warning("Teacher cache: %s", text)
        self._said.add(kind)


def checksum(key: str, tensors: Tensors) -> str:
    """CRC-32 of a key and of tensors with their names, types and shapes, as hexadecimal digits."""
    crc = zlib.crc32(key.encode())
    for name, x in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {x.dtype} {tuple(x.shape)}".encode(), crc)
        crc = zlib.crc32(x.contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _size(path: str | Path) -> int:
    """Bytes of a file; 0 where it has gone."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
