"""A JSON schema of all config keys, for editors and other tools, made from defaults and rules."""

import inspect
import re
from types import ModuleType
from typing import Any, Dict, Iterator, Tuple

from detectron2.config import CfgNode

from .. import solver
from ..backbones import fpn, timm
from ..data import custom
from ..detectors import atss, auto_assign, common, ddod, fcos, gfl, reppoints_config, soft_quality
from ..heads import DISTILLATION_HEAD_REGISTRY
from . import defaults
from .defaults import get_d2kd_cfg
from .keys import flatten
from .rules import CHOICES, REGISTRIES, rules_of

Schema = Dict[str, Any]

_SOURCES = (defaults, solver, custom, fpn, timm, common, atss, auto_assign, ddod, fcos, gfl,
            reppoints_config, soft_quality)  # fmt: skip
_SHARING = "MODEL.ATSS.", "MODEL.DDOD.", "MODEL.GFL."
_COMMENT = re.compile(r"^    (?:cfg|node)\.([A-Z][A-Z0-9_.a-z]*) = [^#\n]*#\s*(.+)$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {6,}.+)*)", re.MULTILINE)
_LIMITS: Dict[str, Schema] = {
    "above 0": {"exclusiveMinimum": 0},
    "at least 0": {"minimum": 0},
    "at most 100,000": {"maximum": 100_000},
    "at most 1,000": {"maximum": 1000},
    "a number from 0 to 1": {"minimum": 0, "maximum": 1},
    "a number between 0 and 1": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
}
_LIST: Schema = {"anyOf": [{"type": "array"}, {"type": "string", "pattern": r"^\s*[\[(]"}]}


def config_schema() -> Schema:
    """JSON schema (draft 2020-12) of a yaml config; `_BASE_` may name others.

    Lists may be written as Python's, "('PKD', 'BCKD')", as Detectron2 reads them.
    """
    schema = _node_schema(get_d2kd_cfg(), dict(_descriptions()), "")
    bases = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema["properties"]["_BASE_"] = {**bases, "description": "configs that this one starts from"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "d2kd config",
        **schema,
    }


def _node_schema(node: CfgNode, texts: Dict[str, str], prefix: str) -> Schema:
    properties: Schema = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, CfgNode):
            properties[key] = _node_schema(value, texts, f"{name}.")
        else:
            properties[key] = _value_schema(name, value)
            if name in texts:
                properties[key]["description"] = texts[name]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value_schema(key: str, value: Any) -> Schema:
    schema: Schema = {**_type_schema(value), "default": value}
    if key in CHOICES:
        schema["enum"] = list(CHOICES[key])
    if key in REGISTRIES:
        schema["examples"] = sorted(name for name, _ in REGISTRIES[key])
    for _, asked in rules_of(key):
        limits = _LIMITS.get(asked, {})
        schema.update(limits if schema.get("type") in ("integer", "number") else {})
    return schema


def _type_schema(value: Any) -> Schema:
    """Of the types that Detectron2 lets replace `value`; any where the default is None."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    if isinstance(value, (list, tuple)):
        return dict(_LIST)
    return {"type": names[type(value)]} if type(value) in names else {}


def _descriptions() -> Iterator[Tuple[str, str]]:
    """What the comments and docstrings that come with d2kd's keys say of them."""
    keys = list(flatten(get_d2kd_cfg()))
    for module in _SOURCES:
        for name, text in _COMMENT.findall(inspect.getsource(module)):
            yield from ((key, text) for key in keys if _means(module, name, key))
    for name, head in DISTILLATION_HEAD_REGISTRY:
        yield f"DISTILL.{name}.WEIGHT", "factor on the method's losses"
        yield f"DISTILL.{name}.TEACHER", "index of the teacher, counted from 0"
        for arguments, text in _ARGUMENT.findall(inspect.getdoc(head.__init__) or ""):
            for argument in arguments.split(", "):
                yield f"DISTILL.{name}.{argument.upper()}", " ".join(text.split())


def _means(module: ModuleType, name: str, key: str) -> bool:
    """Whether a module's `name` is `key`: in full, or of a node that several detectors have."""
    shared = module in (common, soft_quality) and key.startswith(_SHARING)
    return key == name or (shared and key.endswith(f".{name}"))
