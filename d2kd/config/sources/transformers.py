"""Detectors of Hugging Face transformers: a folder, or a repository of its hub."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ...errors import ConfigError, MissingFileError
from ...file_io.untrusted import read_json
from ...text import plain
from .entry import Entry
from .hub import hub_file, is_cached

PREFIX = "hf"
_CONFIG, _PIXELS, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_LICENCE = "Apache-2.0"  # of the pages; training on Objects365 has terms of its own
_PUBLISHED = {  # box AP
    "PekingU/rtdetr_r18vd": 46.4, "PekingU/rtdetr_r34vd": 48.9, "PekingU/rtdetr_r50vd": 53.1,
    "PekingU/rtdetr_r101vd": 54.3, "PekingU/rtdetr_r18vd_coco_o365": 49.0,
    "PekingU/rtdetr_r50vd_coco_o365": 55.2, "PekingU/rtdetr_r101vd_coco_o365": 56.2,
    "ustc-community/dfine-nano-coco": 42.8, "ustc-community/dfine-small-coco": 48.5,
    "ustc-community/dfine-medium-coco": 52.3, "ustc-community/dfine-large-coco": 54.0,
    "ustc-community/dfine-xlarge-coco": 55.8, "ustc-community/dfine-small-obj2coco": 50.7,
    "ustc-community/dfine-medium-obj2coco": 55.1, "ustc-community/dfine-large-obj2coco": 57.3,
    "ustc-community/dfine-xlarge-obj2coco": 59.3,
}  # fmt: skip
DETECTORS = frozenset(
    "rt_detr rt_detr_v2 d_fine deimv2 deformable_detr detr conditional_detr dab-detr yolos lw_detr "
    "rf_detr".split()
)


def entries() -> List[Entry]:
    """Those whose box AP is published; any other of the hub, or a folder, is taken as well."""
    return [Entry(f"{PREFIX}:{name}", ap, _LICENCE) for name, ap in _PUBLISHED.items()]


def keys(name: str) -> Dict[str, Any]:
    """The config of a folder or a repository, from its json files alone.

    Raises:
        ConfigError: transformers is missing, a file is missing or damaged, or the model is no
            detector of objects.
    """
    if find_spec("transformers") is None:
        raise ConfigError(f"{PREFIX}:{name} needs transformers: pip install d2kd[hf].")
    path = Path(_file(name, _CONFIG))
    config, pixels = read_json(path), read_json(Path(_file(name, _PIXELS)))
    try:
        _check_kind(name, config)
        mean, std = _statistics(pixels)
        shortest, longest = _size(pixels)
        labels = {int(i): str(x) for i, x in (config.get("id2label") or {0: "", 1: ""}).items()}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{name}: {_CONFIG} and {_PIXELS} are not those of a detector of transformers "
            f"({plain(error)})."
        ) from error
    return {
        "VERSION": 2,
        "MODEL": {
            "META_ARCHITECTURE": "TransformersDetector",
            "TRANSFORMERS": {"FOLDER": str(path.parent),
                             "CLASSES": [labels[i] for i in sorted(labels)]},
            "PIXEL_MEAN": mean,
            "PIXEL_STD": std,
        },
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": shortest, "MAX_SIZE_TEST": longest},
    }  # fmt: skip


def weights(name: str) -> str:
    """Path of a detector's model.safetensors, which is downloaded if need be."""
    return _file(name, _WEIGHTS)


def is_here(name: str) -> bool:
    """Whether the config of a folder or a repository can be read without a network."""
    if find_spec("transformers") is None or os.path.isdir(name):
        return True  # what is missing is said where it is read
    return all(is_cached(name, file) for file in (_CONFIG, _PIXELS))


def _file(name: str, file: str) -> str:
    path = os.path.join(name, file)
    if os.path.isfile(path):
        return path
    if os.path.isdir(name) or name.startswith((".", "/", "~")):
        there = "there is no such folder" if not os.path.isdir(name) else f"it has no {file}"
        raise MissingFileError(f"{name}: {there}. {_needed(name)}")
    try:
        return hub_file(name, file)
    except MissingFileError as error:
        raise MissingFileError(f"{error} {_needed(name)}") from error


def _needed(name: str) -> str:
    where = "" if os.path.isdir(name) else f" of https://huggingface.co/{plain(name)}"
    return (
        f"Put {_CONFIG}, {_PIXELS} and {_WEIGHTS}{where} into a folder and give hf:FOLDER; weights "
        "as .bin are pickles, which can run code, and are not read."
    )


def _check_kind(name: str, config: Dict[str, Any]) -> None:
    kind, made = str(config.get("model_type")), [str(x) for x in config.get("architectures") or []]
    if kind.startswith(("pp_", "table-transformer")):
        raise ConfigError(
            f"{name} is a {plain(kind)}, which finds parts of documents, not objects."
        )
    if kind not in DETECTORS or not all(x.endswith("ForObjectDetection") for x in made):
        raise ConfigError(
            f"{name} is a {plain(' '.join([kind, *made]))}, which is no detector that d2kd knows. "
            f"It knows ...ForObjectDetection of {', '.join(sorted(DETECTORS))}."
        )


def _statistics(pixels: Dict[str, Any]) -> Tuple[List[float], List[float]]:
    """Mean and standard deviation of pixels in 0..255."""
    scale = pixels.get("rescale_factor", 1 / 255) if pixels.get("do_rescale", True) else 1.0
    if not pixels.get("do_normalize", True):
        return [0.0] * 3, [1 / scale] * 3
    return [x / scale for x in pixels["image_mean"]], [x / scale for x in pixels["image_std"]]


def _size(pixels: Dict[str, Any]) -> Tuple[int, int]:
    """Shortest and longest side, px, of the images that it is evaluated on."""
    size = pixels.get("size") or 800
    if not isinstance(size, dict):
        return int(size), int(pixels.get("max_size") or 1333)
    sides = [size[key] for key in ("height", "width") if key in size] or [800, 1333]
    return int(size.get("shortest_edge") or min(sides)), int(
        size.get("longest_edge") or pixels.get("max_size") or max(sides)
    )
