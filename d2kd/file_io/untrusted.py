"""Text, yaml and json that users bring or download, read within bounds and never run."""

import copy
import errno
import json
import math
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, MissingFileError
from ..text import plain

MAX_YAML = 2**20  # characters
_MAX_NODES = 100_000  # values, each counted as often as aliases repeat it
_MAX_SCALAR = 10_000  # characters


Loader = Callable[[str], yaml.SafeLoader]


def read_yaml(path: Path, loader: Loader = yaml.SafeLoader) -> Any:
    """What is in a yaml file, see `read_yaml_and_text`."""
    return read_yaml_and_text(path, loader)[0]


def read_yaml_and_text(path: Path, loader: Loader = yaml.SafeLoader) -> tuple[Any, str]:
    """What is in a yaml file, and its text.

    Args:
        path: the file.
        loader: says what becomes of tags.

    Raises:
        MissingFileError: it does not exist or may not be read.
        ConfigError: it is not yaml, or more than `parse_yaml` takes; the message has its name.
    """
    data = read_bytes(path, 4 * MAX_YAML, "yaml")
    try:
        text = data.decode("utf-8-sig")
        return parse_yaml(text, loader), text
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = str(getattr(error, "problem", ""))
        if "the tag" in problem:
            raise ConfigError(
                f"{path} holds a yaml tag that can run code: {plain(problem)}. Write the plain "
                "value instead, such as 0.5, cat or [32, 64]."
            ) from None
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid yaml: {reason[:300]}") from None


def parse_yaml(text: str, made_by: Loader = yaml.SafeLoader) -> Any:
    """What a yaml text holds: plain values, lists and dictionaries.

    Raises:
        YAMLError: it is not yaml, has python tags or the same key twice, is nested too deep, or
            with its aliases written out is larger than any list of settings or class names.
    """
    if len(text) > MAX_YAML:
        raise yaml.YAMLError(f"it is longer than {MAX_YAML:,} characters")
    try:
        return copy.deepcopy(_parse_once(text, made_by))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from None


@lru_cache(maxsize=32)  # a training reads the files of its detectors several times
def _parse_once(text: str, made_by: Loader) -> Any:
    loader = made_by(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def read_json(path: Path) -> Any:
    """What is in a json file in UTF-8, 16 or 32; NaN and Infinity are numbers.

    Raises:
        MissingFileError: it does not exist or may not be read.
        ConfigError: it is not json; the message has its name.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except RecursionError:
        raise ConfigError(f"{path} is not valid json: it is nested too deep.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid json: {error}.") from None


def read_text(path: Path, limit: float, kind: str) -> str:
    """What is in a text file in UTF-8, with line feeds; bytes that are no letters are replaced.

    Args and errors: see `read_bytes`.
    """
    text = read_bytes(path, limit, kind).decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, limit: float = math.inf, kind: str = "") -> bytes:
    """What is in a file.

    Args:
        path: the file.
        limit: bytes that it may have.
        kind: what it should hold, for the message.

    Raises:
        MissingFileError: it does not exist or may not be read.
        ConfigError: it is larger.
    """
    try:
        if _size(path) > limit:
            raise ConfigError(f"{path} is larger than {limit / 2**20:g} MB, too large for {kind}.")
        return path.read_bytes()
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}.") from None


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        _size(path)
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _size(path: Path) -> int:
    """In bytes; OSError for devices and pipes, which may have no end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    return found.st_size


def _count_nodes(root: yaml.Node) -> None:
    """Raise YAMLError for aliases that multiply, endless ones, long values and repeated keys."""
    counts: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias names what it is part of")
        if id(node) not in counts:
            open_nodes.add(id(node))
            counts[id(node)] = 1 + sum(map(count, _children(node)))
            open_nodes.remove(id(node))
        if counts[id(node)] > _MAX_NODES:
            raise yaml.YAMLError(f"it holds more than {_MAX_NODES:,} values")
        return counts[id(node)]

    count(root)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _MAX_SCALAR:
            raise yaml.YAMLError(f"a value is longer than {_MAX_SCALAR:,} characters")
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := [key for key in keys if key != "<<" and keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key {repeated[0][:80]!r} is there twice")
        yield from (child for pair in node.value for child in pair)
