"""Files of `torch.save`, and plain pickles: what a file claims is compared with its size first.

`torch.load` allocates what a file asks for before it looks for the numbers, and trusts the file on
where they lie.
"""

import io
import mmap
import os
import struct
import sys
import zipfile
from pathlib import PurePosixPath
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from .unpickler import DataUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a file of torch.save before version 1.6

_PICKLES = (b"\x80", b"(", b"}", b"]", b"c")  # what begins one


def read_torch(path: str, inert: bool = False) -> Any:
    """Read a file of `torch.save`, zip archive or older, or a pickle.

    Args:
        path: a local file.
        inert: objects that are no data become an `Inert` rather than an error.

    Raises:
        Exception: of many kinds, damaged or not such a file.
    """
    if zipfile.is_zipfile(path):
        return _read_archive(path, inert)
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("its end is missing")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_pickles(data, inert)


def _read_archive(path: str, inert: bool) -> Any:
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        entries = _entries(archive, size)
        root = _root(entries)
        byteorder = entries.get(f"{root}byteorder")
        if byteorder and archive.read(byteorder) != sys.byteorder.encode():
            raise ValueError("its numbers are in another order of bytes than this machine's")
        storages: Dict[Any, Tensor] = {}

        def fetch(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in storages:
                entry = entries[f"{root}data/{key}"]
                if entry.file_size != count * dtype.itemsize:
                    raise ValueError(f"it claims {count} numbers where {entry.file_size} bytes are")
                storages[key] = torch.empty(entry.file_size, dtype=torch.uint8)
                with archive.open(entry) as content:
                    _fill(storages[key], content.read())  # it compares the checksum
            return _as(storages[key], dtype, count)

        pickled = archive.read(entries[f"{root}data.pkl"])
        return DataUnpickler(io.BytesIO(pickled), size, fetch, inert).load()


def _entries(archive: zipfile.ZipFile, size: int) -> Dict[str, zipfile.ZipInfo]:
    """The entries by name, if `torch.save` would have written them."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in entries):
        raise ValueError("it is a TorchScript program, which would run; save its state dict")
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"its entry {entry.filename!r} points out of the archive")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its entry {entry.filename!r} is compressed, a possible zip bomb")
    if len(entries) < len(archive.infolist()):
        raise ValueError("several of its entries have one name")
    if sum(entry.file_size for entry in entries.values()) > size:
        raise ValueError("its entries claim more bytes than it has")
    return entries


def _root(entries: Dict[str, zipfile.ZipInfo]) -> str:
    """The folder of an archive of `torch.save`, with a slash."""
    names = [PurePosixPath(name).name for name in entries]
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        exported = "model.json" in names or "archive_format" in names
        kind = "a program of torch.export" if exported else "a zip archive of other things"
        raise ValueError(f"it is {kind}; save the model's state dict with torch.save")
    return roots[0]


def _read_pickles(data: mmap.mmap, inert: bool) -> Any:
    """A pickle; or four of them, the keys of storages, and the storages."""
    if data[:1] not in _PICKLES:
        raise ValueError("it is neither a zip archive nor a pickle, as torch.save writes them")
    first = DataUnpickler(data, len(data), None, inert).load()
    if first != _MAGIC:
        return first
    storages: Dict[Any, Tuple[Tensor, int]] = {}
    left = len(data)

    def fetch(key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise ValueError(f"it claims {count} numbers, more than it stores")
            storages[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8), count
        return _as(storages[key][0], dtype, count)

    def load() -> Any:
        return DataUnpickler(data, len(data), fetch, inert).load()

    if load() != 1001 or not load().get("little_endian", True):
        raise ValueError("it is of a version of torch.save that is not known")
    result, keys = load(), load()
    if set(keys) != set(storages):
        raise ValueError("it claims other numbers than it stores")
    for buffer, count in (storages[key] for key in keys):
        if struct.unpack("<q", data.read(8)) != (count,):
            raise ValueError("it claims other numbers than it stores")
        _fill(buffer, data.read(buffer.nbytes))
    return result


def _fill(buffer: Tensor, content: bytes) -> None:
    if len(content) != buffer.nbytes:
        raise ValueError(f"it claims {buffer.nbytes} bytes where {len(content)} are")
    buffer.numpy()[:] = memoryview(content)


def _as(buffer: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    if buffer.nbytes != count * dtype.itemsize:
        raise ValueError(f"it claims {count} numbers where {buffer.nbytes} bytes are")
    return buffer.view(dtype)
