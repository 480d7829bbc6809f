"""The config.yaml of a run of Detectron2's tools/lazyconfig_train_net.py, read as data.

`LazyConfig.load` would run what such a file names, and `instantiate` what its `_target_`s name.
Here a name stands for a class of layers or detectors alone, and all of them are found before
anything is built. `config.yaml.pkl`, which lies beside some of these files, is never opened.
"""

import contextlib
import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, List, Tuple

import yaml
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet
from omegaconf import DictConfig

from ..errors import ConfigError
from ..file_io import read_yaml
from ..text import plain
from .files import LARGEST

_PREFIXES = "detectron2.modeling.", "detectron2.layers.", "torch.nn."
_FOREIGN = "detectron2.modeling.mmdet_wrapper."  # builds what mmdetection finds by a text
_FUNCTIONS = ResNet.make_default_stages, ResNet.make_stage
_REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")

Place = Tuple[str | int, ...]


@dataclass(frozen=True)
class _Tagged:
    """What a python tag is written before; no object is made of it."""

    tag: str
    value: Any


class _Inert(yaml.SafeLoader):
    """Makes plain values alone."""

    def tagged(self, node: yaml.Node) -> _Tagged:
        tag, value = node.tag.removeprefix("tag:yaml.org,2002:python/"), node.value
        if isinstance(node, yaml.SequenceNode):
            value = self.construct_sequence(node, deep=True)
        elif isinstance(node, yaml.MappingNode):
            value = self.construct_mapping(node, deep=True)
        return _Tagged(tag, value)


_Inert.add_constructor(None, _Inert.tagged)


def read_lazy_yaml(path: str) -> DictConfig:
    """What a run's config.yaml says of its detector and data.

    Returns:
        DictConfig: `model`, with classes for names and values for references, for
        `detectron2.config.instantiate`, and the plain values of `dataloader`, of which no name is
        looked up. Other sections are left out.

    Raises:
        ConfigError: it is no yaml, or `model` names something else than layers and detectors.
    """
    file = _File(path, read_yaml(Path(path), _Inert))
    try:
        model, loader = file.filled(file.raw("model"), ("model",)), _inert(file.raw("dataloader"))
        return DictConfig({"model": model, "dataloader": loader}, flags={"allow_objects": True})
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep.") from None


class _File:
    """The values of a file by their places, such as ("model", "box_heads", 0)."""

    def __init__(self, path: str, data: Any) -> None:
        self.path, self.data = path, data

    def raw(self, *place: str | int) -> Any:
        """The value of a place as it is written; None where there is none."""
        x: Any = self.data
        for name in place:
            if isinstance(x, list):
                index = int(str(name)[:9]) if str(name).isdecimal() else len(x)
                x = x[index] if index < len(x) else None
            else:
                x = x.get(name) if isinstance(x, dict) else None
        return x

    def filled(self, x: Any, place: Place) -> Any:
        """The value of a place, with classes for names and values for references."""
        match x:
            case _Tagged():
                return self._object(x, place)
            case dict():
                given = {key: self._argument(key, value, place) for key, value in x.items()}
                if given.get("_target_") == ShapeSpec:  # OmegaConf takes no dataclass for a value
                    return ShapeSpec(**{k: v for k, v in given.items() if k != "_target_"})
                return given
            case list():
                return [self.filled(value, (*place, i)) for i, value in enumerate(x)]
            case str() if "${" in x:
                return self._referred(x, place)
        if not _is_plain(x):
            raise self._error(place, "holds what is no number, text or list")
        return x

    def _argument(self, key: Any, x: Any, place: Place) -> Any:
        place = (*place, key)
        if not isinstance(key, str) or key.startswith("cfg"):  # a config builds what it names
            raise self._error(place, "is no argument of a layer")
        if key != "_target_" or isinstance(x, _Tagged):
            return self.filled(x, place)
        return self._class(str(x), place)

    def _referred(self, text: str, place: Place) -> Any:
        if found := _REFERENCE.fullmatch(text):
            dots, names = found.groups()
            at = (*place[: len(dots) and -len(dots)], *names.split("."))
            x = self.raw(*at)
            if isinstance(x, str):
                return self.filled(x, at)
            if x is not None and all(map(_is_plain, x if isinstance(x, list) else [x])):
                return x
        raise self._error(place, f"is {text!r}, which refers to no number, text or list here")

    def _object(self, x: _Tagged, place: Place) -> Any:
        kind, _, name = x.tag.partition(":")
        match x:
            case _Tagged(_, "") if kind == "name":
                return self._class(name, place)
            case _Tagged("tuple", [*items]):
                return self.filled(items, place)
            case _Tagged("object:detectron2.layers.shape_spec.ShapeSpec", {**fields}):
                return ShapeSpec(**self.filled(fields, place))
            case _Tagged("object/apply:functools.partial", {
                "args": [_Tagged() as of],
                "state": _Tagged("tuple", [again, _Tagged("tuple", []), dict() as given, None])}
            ) if of == again and of.tag.startswith("name:"):  # fmt: skip
                return functools.partial(self._object(of, place), **self.filled(given, place))
        raise self._error(place, f"has the tag {x.tag!r}, which could run code")

    def _class(self, name: str, place: Place) -> Any:
        if "<lambda>" in name:
            raise self._error(place, "is a lambda, which no file holds and nobody can load")
        found = _look_up(name.split(".")) if name.startswith(_PREFIXES) else None
        if found is None:
            raise self._error(place, f"names {name!r}, no layer or detector of Detectron2 or torch")
        return found

    def _error(self, place: Place, what: str) -> ConfigError:
        weights = Path(self.path).parent / "model_final.pth"
        return ConfigError(
            f"{self.path}: {plain('.'.join(map(str, place)))} {plain(what)}. Name the LazyConfig "
            f"that the run was started with: --teacher NAME.py --teacher-weights {weights}, and "
            "--trust-config NAME.py if it did not come with Detectron2, since it is executed."
        )


def _look_up(parts: List[str]) -> Any:
    """The class of a name, or one of `_FUNCTIONS`; None if it stands for anything else.

    It is followed from its own module through classes alone: modules import `torch` and `os`.
    """
    count, found = len(parts), None
    while found is None and count > 2 and not any(part.startswith("_") for part in parts):
        count -= 1
        with contextlib.suppress(ImportError):
            found = importlib.import_module(".".join(parts[:count]))
    for part in parts[count:]:
        found = getattr(found, part, None)
        if isinstance(found, ModuleType):
            return None
    where = f"{getattr(found, '__module__', '')}."
    is_ours = where.startswith(_PREFIXES) and not where.startswith(_FOREIGN)
    is_known = any(found is x for x in _FUNCTIONS)
    return found if is_known or (isinstance(found, type) and is_ours) else None


def _is_plain(x: Any) -> bool:
    """A number, None, or a text that stands for itself."""
    if isinstance(x, str):
        return "${" not in x and x != "???"
    return x is None or type(x) in (bool, float) or (type(x) is int and abs(x) < LARGEST)


def _inert(x: Any) -> Any:
    """What is plain in a section; the rest is None."""
    if isinstance(x, dict):
        return {key: _inert(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_inert(value) for value in x]
    return x if _is_plain(x) else None
