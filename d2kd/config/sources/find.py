"""Teachers by a string with a prefix, such as "torchvision:retinanet_resnet50_fpn_v2"."""

import difflib
import os
import re
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Protocol

from ...errors import ConfigError
from ..model_zoo import zoo_checkpoint_url
from . import timm, torchvision, transformers, vitdet, zoo
from .entry import Entry


class Source(Protocol):
    """A module of this package: detectors of one library."""

    PREFIX: str

    def entries(self) -> List[Entry]:
        """What is published."""

    def keys(self, name: str) -> Dict[str, Any]:
        """The config of a detector, as keys of a yaml file.

        Args:
            name: without the prefix.

        Raises:
            ConfigError: there is no such detector.
        """


SOURCES: Mapping[str, Source] = MappingProxyType(
    {source.PREFIX: source for source in (vitdet, torchvision, transformers, timm)}
)
_FILES = {source.PREFIX: source.weights for source in (transformers, timm)}
_PREFIXED = re.compile(r"([A-Za-z][\w-]*):(?!//)(.+)")


def source_keys(text: str, key: str) -> Optional[Dict[str, Any]]:
    """The config that a string with a prefix stands for; None of one without.

    Args:
        text: as given.
        key: the option that named it, for error messages.

    Raises:
        ConfigError: no such source, or no such detector there; names the nearest.
    """
    found = _PREFIXED.fullmatch(text)
    if not found or os.path.exists(text):
        return None
    prefix, name = found.groups()
    if prefix not in SOURCES:
        near = difflib.get_close_matches(prefix.lower(), SOURCES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}:{name}?" if near else ""
        raise ConfigError(
            f"{key}: {text!r}: {prefix} is no source of teachers. Known: {', '.join(SOURCES)}."
            f"{hint}"
        )
    try:
        return SOURCES[prefix].keys(name)
    except ConfigError as error:
        raise type(error)(f"{key}: {error}") from None


def published() -> List[Entry]:
    """All teachers that are known by name, Detectron2's model zoo first."""
    return [*zoo.entries(), *(x for source in SOURCES.values() for x in source.entries())]


def published_as(text: str) -> str:
    """What is known of a name's weights, as words for a line; "" of what is not published."""
    if (entry := _entry(text)) is None:
        return ""
    ap = "" if entry.box_ap is None else f"box AP {entry.box_ap} on COCO as published, "
    return f"{ap}licence of the weights: {entry.licence}"


def published_weights(text: str) -> str:
    """Path or address of the weights that a name stands for; "" where there is none.

    Raises:
        MissingFileError: its library has them, and they cannot be downloaded.
    """
    prefix, _, name = text.partition(":")
    if prefix in _FILES:
        return _FILES[prefix](name)
    entry = _entry(text)
    return (entry and entry.weights) or zoo_checkpoint_url(text) or ""


def is_here(text: str) -> bool:
    """Whether the config of a name can be read without a network."""
    prefix, _, name = text.partition(":")
    return prefix != transformers.PREFIX or transformers.is_here(name)


def unlisted(text: str) -> List[Entry]:
    """A folder, a repository or a model of timm that is no published teacher of ours; else none.

    Raises:
        ConfigError: there is no such teacher.
    """
    prefix, _, name = text.partition(":")
    if prefix not in _FILES or not name:
        return []
    if is_here(text):
        source_keys(text, "NAME")
    return [Entry(text, None, "see its publisher")]


def _entry(text: str) -> Optional[Entry]:
    return next((entry for entry in published() if entry.name == text), None)
