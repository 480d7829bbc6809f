"""Feature extractors of timm: teachers by their maps alone."""

from importlib.util import find_spec
from typing import Any, Dict, List, Tuple

from ...errors import ConfigError
from .entry import Entry, check_name
from .hub import hub_file

PREFIX = "timm"
_LICENCES = {  # as timm states them; any other name of timm.list_pretrained() is taken as well
    "vit_small_patch14_dinov2.lvd142m": "apache-2.0",
    "vit_base_patch14_dinov2.lvd142m": "apache-2.0",
    "vit_large_patch14_dinov2.lvd142m": "apache-2.0",
    "vit_small_patch16_dinov3.lvd1689m": "dinov3-license",
    "vit_base_patch16_dinov3.lvd1689m": "dinov3-license",
    "vit_large_patch16_dinov3.lvd1689m": "dinov3-license",
    "convnext_small.dinov3_lvd1689m": "dinov3-license",
    "convnext_base.dinov3_lvd1689m": "dinov3-license",
}


def entries() -> List[Entry]:
    """Those trained without labels, whose maps suit many tasks."""
    return [Entry(f"{PREFIX}:{name}", None, licence) for name, licence in _LICENCES.items()]


def keys(name: str) -> Dict[str, Any]:
    """The config of a model of timm, with the pixels that its weights were trained on.

    Args:
        name: of timm; of a plain ViT maybe with MODEL.TIMM.STRIDE, as in "NAME@32".

    Raises:
        ConfigError: timm is missing, or has no such model or weights.
    """
    name, stride = _split(name)
    known = _published(name)
    return {
        "VERSION": 2,
        "MODEL": {
            "META_ARCHITECTURE": "FeatureExtractor",
            "BACKBONE": {"NAME": "build_timm_extractor_backbone"},
            "TIMM": {"NAME": name, "STRIDE": stride},
            "PIXEL_MEAN": [255.0 * x for x in known.mean],
            "PIXEL_STD": [255.0 * x for x in known.std],
        },
        "INPUT": {
            "FORMAT": "RGB",
            "MIN_SIZE_TEST": min(known.input_size[1:]),
            "MAX_SIZE_TEST": 2 * max(known.input_size[1:]),
        },
    }


def weights(name: str) -> str:
    """Path of timm's weights, which are downloaded if need be.

    Raises:
        ConfigError: timm has none, or they cannot be downloaded.
    """
    name, _ = _split(name)
    hub = _published(name).hf_hub_id
    hint = f"Give the weights of {name} with --teacher-weights FILE (.safetensors or .pth of timm)."
    if not hub:
        raise ConfigError(f"timm has no weights of {name} on the Hugging Face hub. {hint}")
    try:
        return hub_file(hub, "model.safetensors")
    except ConfigError as error:
        raise type(error)(f"{error} {hint}") from error


def _split(name: str) -> Tuple[str, int]:
    """A name of timm, and the stride behind it; 0 without one."""
    name, at, stride = name.partition("@")
    if at and not stride.isdecimal():
        raise ConfigError(
            f"{PREFIX}:{name}@{stride}: give the stride of a plain ViT's map in px, as in @32."
        )
    return name, int(stride or 0)


def _published(name: str) -> Any:
    """What timm knows of the weights of a name."""
    if find_spec("timm") is None:
        raise ConfigError(f"{PREFIX}:{name} needs timm: pip install d2kd[timm].")
    import timm

    try:
        if timm.is_model(name) and (known := timm.get_pretrained_cfg(name)):
            return known
    except RuntimeError:
        pass  # no such weights of it
    check_name(name, [*timm.list_models(), *timm.list_pretrained()], PREFIX)
    raise ConfigError(f"timm does not say what pixels {name} takes.")
