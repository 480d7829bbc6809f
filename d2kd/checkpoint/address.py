"""Files of weights that a config names by an address: the only ones that d2kd downloads."""

import os
import re
from typing import Dict
from urllib.parse import urlsplit

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from ..errors import ConfigError, MissingFileError
from ..file_io import CONFIGS
from ..text import plain

_ZOO = "https://dl.fbaipublicfiles.com/"  # in the cache its files lie where Detectron2 looks
_BY_DETECTRON2 = "detectron2://", "catalog://"  # both names for files there
_HOST = re.compile(r"[\w.:\[\]-]+")
_PART = re.compile(r"(?!\.+$)[^\\\x00-\x1f]{1,200}")


def is_address(path: str) -> bool:
    """Whether it names a file elsewhere, such as https://..., not one of this machine."""
    return "://" in path


def local_file(path: str) -> str:
    """A path as it is; of an address, the file that it is downloaded to, once.

    What begins with "datasets/" and is not in the working directory is looked for beside d2kd's
    configs, as they are found from everywhere: in a clone that is where its scripts write.

    Other hosts than Detectron2's have folders of their own in the cache, so that none of them
    provides the files of another. What is behind "?" is left as it is.

    Raises:
        ConfigError: an address of another kind than https, http and Detectron2's own, or one that
            would lie outside of the cache.
        MissingFileError: it cannot be downloaded.
    """
    if not is_address(path):
        beside = str(CONFIGS.parent / path)
        elsewhere = path.startswith("datasets/") and not os.path.exists(path)
        return beside if elsewhere and os.path.isfile(beside) else path
    address, question, query = path.partition("?")
    _check(address)
    try:
        return PathManager.get_local_path(address, **_cache(address)) + question + query
    except (OSError, RuntimeError, LookupError) as error:  # the last two: not in its catalog
        raise MissingFileError(
            f"{plain(address)} cannot be downloaded: {plain(error)}. Download "
            f"{plain(_url(address))} by other means, and give its path, or put it to "
            f"{cached_file(address)}."
        ) from error


def cached_file(address: str) -> str:
    """Where the download of an address lies, if it is there."""
    folder = _cache(address).get("cache_dir") or get_cache_dir()
    return os.path.join(folder, urlsplit(_url(address)).path.lstrip("/"))


def _url(address: str) -> str:
    return address.replace(_BY_DETECTRON2[0], f"{_ZOO}detectron2/")


def _cache(address: str) -> Dict[str, str]:
    if address.startswith((_ZOO, *_BY_DETECTRON2)):
        return {}
    return {"cache_dir": os.path.join(get_cache_dir(), "hosts", urlsplit(address).netloc)}


def _check(address: str) -> None:
    parts = urlsplit(address)
    names = [parts.netloc, *parts.path.removeprefix("/").split("/")]
    if not address.startswith(("https://", "http://", *_BY_DETECTRON2)):
        raise ConfigError(
            f"{plain(address)}: give a path, or an address that begins with https://, http:// or "
            "detectron2://."
        )
    if not _HOST.fullmatch(parts.netloc) or not all(map(_PART.fullmatch, names)):
        raise ConfigError(
            f"{plain(address)} is no address of a file: each part between / must be a name, not .. "
            "or empty."
        )
