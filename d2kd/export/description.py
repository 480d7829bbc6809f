"""What a file says of itself: all that is needed to use it."""

import json
from typing import Any, Dict, List

from torch import nn

from .. import __version__
from ..errors import ConfigError
from .base import Graph
from .kinds import limits_of, num_classes
from .options import LARGEST, LIMITS, Options, is_resize

RT_INFO = ("d2kd", "description")
"""Where an OpenVINO file has it, as JSON."""
_DYNAMIC = ("batch", "size")
_NEEDED = {
    "size", "channels", "multiple", "pad_value", "classes", "num_classes", "nms",
}  # fmt: skip
_KEYS = {
    *_NEEDED, *LIMITS, "detector", "dynamic", "resize", "least", "masks", "fp16", "int8", "best_f1",
    "d2kd_version",
}  # fmt: skip


def describe(graph: Graph) -> Dict[str, Any]:
    """All that is needed to use the file; docs/guide/export.md explains the keys."""
    detector, options = graph.detector, graph.options
    return {
        "detector": type(detector).__name__,
        "size": list(options.size),
        "channels": options.input_format,
        "dynamic": [x for x in _DYNAMIC if getattr(options, f"dynamic_{x}")],
        "resize": list(options.resize or ()),
        "multiple": max(detector.backbone.size_divisibility, 1),
        "pad_value": detector.pixel_mean.flatten().tolist(),
        "classes": list(options.class_names),
        "num_classes": num_classes(detector),
        "nms": options.nms,
        "masks": options.masks if "masks" in graph.names else "",
        **(limits_of(detector) if options.nms else {}),
        "fp16": options.fp16,
        "int8": [],
        "best_f1": options.best_f1 or {},
        "d2kd_version": __version__,
    }


def options_of(description: Dict[str, Any]) -> Options:
    """The options that `describe` was given."""
    nms = description["nms"]
    return Options(
        size=tuple(description["size"]),
        input_format=description["channels"],
        resize=tuple(description.get("resize") or ()) or None,
        class_names=description["classes"],
        nms=nms,
        masks=description.get("masks") or "raw",
        fp16=description.get("fp16", False),
        **{name: description[name] for name in LIMITS if name in description and nms},
        dynamic_batch="batch" in description.get("dynamic", ()),
        dynamic_size="size" in description.get("dynamic", ()),
    )


def check_described(description: Dict[str, Any], detector: nn.Module) -> None:
    """Raise a ConfigError if a file's description is of another detector."""
    here = type(detector).__name__, num_classes(detector)
    there = description["detector"], description["num_classes"]
    if here != there:
        raise ConfigError(
            f"The file is of a {there[0]} with {there[1]} classes, not of this {here[0]} with "
            f"{here[1]}."
        )


def to_strings(description: Dict[str, Any]) -> Dict[str, str]:
    """Each value as JSON, since ONNX keeps strings only."""
    return {key: json.dumps(value) for key, value in description.items()}


def from_strings(metadata: Dict[str, str]) -> Dict[str, Any]:
    """The reverse of `to_strings`; what other tools have added is left out."""
    return {key: json.loads(value) for key, value in metadata.items() if key in _KEYS}


def checked(description: Any) -> Dict[str, Any]:
    """The description of a file, which may come from anybody.

    Raises:
        ValueError: it lacks what is needed, or holds what none of ours does.
    """
    found = description if isinstance(description, dict) else {}
    if absent := _NEEDED - set(found):
        raise ValueError(f"its description lacks {', '.join(sorted(absent))}.")
    whole = [*_list(found["size"]), *(found[x] for x in ("multiple", "num_classes"))]
    whole.append(found.get("least", 1))
    limits, names = _list(found.get("resize", [])), _list(found["classes"])
    well = (
        len(whole) == 5
        and all(type(x) is int and 1 <= x <= LARGEST for x in whole)
        and (not limits or is_resize(limits))
        and all(isinstance(x, str) for x in names)
        and len(names) in (0, found["num_classes"])
        and found["channels"] in ("BGR", "RGB")
    )
    if not well:
        raise ValueError("its description has a size, classes or channels that cannot be.")
    return found


def _list(value: Any) -> List[Any]:
    return value if isinstance(value, list) else [None]
