"""The 15 corruptions of ImageNet-C at 5 severities, on images of a detection data set.

Hendrycks and Dietterich, arXiv 1903.12261; for detection Michaelis et al., arXiv 1907.07484. The
pixels are those of the package imagecorruptions. Its generators are seeded from the image's own
pixels, the corruption and the severity: an image is corrupted in the same way in every order,
process and worker, and for detectors of either channel order.
"""

import hashlib
from functools import partial
from types import ModuleType
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import ColorTransform

from ..data import build_mapper
from ..data.loader import seeded
from ..data.mapper import Mapper
from ..errors import ConfigError, check_choice

GROUPS: Dict[str, Tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in GROUPS.values() for name in names)
QUICK_CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression")  # one of a group
SEVERITIES = (1, 2, 3, 4, 5)

_LEAST_SIDE = 32  # px, of the package
_TAKE_A_SEED = ("impulse_noise", "glass_blur")  # the others draw from numpy's global generator


def corrupt_image(image: np.ndarray, name: str, severity: int) -> np.ndarray:
    """Corrupt an image; the result depends on the arguments alone.

    Args:
        image: (H, W, 3) uint8 RGB, H and W at least 32 px.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.

    Returns:
        np.ndarray: (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: unknown name or severity, or the package is not installed.
    """
    check_corruption(name, severity)
    library, seed = _library(), _seed(image, name, severity)
    options = {"seed": seed} if name in _TAKE_A_SEED else {}
    with seeded(seed, severity):
        return library.corrupt(image, severity=severity, corruption_name=name, **options)


def _seed(image: np.ndarray, name: str, severity: int) -> int:
    """32 bits from the pixels, the name and the severity."""
    digest = hashlib.sha256(f"{name} {severity} {image.shape} ".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return int.from_bytes(digest.digest()[:4], "big")


def _library() -> ModuleType:
    try:
        import imagecorruptions
    except ImportError as error:
        raise ConfigError(
            "corruptions need three packages: pip install numba scikit-image, then pip install "
            "--no-deps imagecorruptions-imaug==1.1.5 (without --no-deps it would overwrite another "
            f"OpenCV). {error}"
        ) from error
    return imagecorruptions


def check_corruption(name: str, severity: int) -> None:
    """Raise a ConfigError for a corruption or severity that does not exist."""
    check_choice(name, CORRUPTIONS, "corruptions")
    if severity not in SEVERITIES:
        raise ConfigError(f"severities: {severity!r} is not one of 1 to 5.")


def check_sizes(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ConfigError for an image of a data set that is too small to be corrupted."""
    for x in records:
        width, height = (x.get(key, _LEAST_SIDE) for key in ("width", "height"))
        if min(width, height) < _LEAST_SIDE:
            raise ConfigError(
                f"corruptions: {x['file_name']} has {width} x {height} px, and they need "
                f"{_LEAST_SIDE} px a side: take it out of the data set, or leave corruptions out."
            )


def corruption_names(chosen: str | Sequence[str]) -> List[str]:
    """Corruptions by name: "all", a group or a list of groups and corruptions, each once.

    Raises:
        ConfigError: neither a group nor a corruption.
    """
    found: List[str] = []
    for name in [chosen] if isinstance(chosen, str) else chosen:
        check_choice(str(name), ("all", *GROUPS, *CORRUPTIONS), "corruptions: names")
        found.extend({"all": CORRUPTIONS, **GROUPS}.get(name, (name,)))
    return list(dict.fromkeys(found))


def corruption_transform(name: str, severity: int, image_format: str) -> ColorTransform:
    """`corrupt_image` as a Detectron2 transform of images in `image_format`; boxes stay.

    Raises:
        ConfigError: see `corrupt_image`, or the format is neither "RGB" nor "BGR".
    """
    check_corruption(name, severity)
    check_choice(image_format, ("RGB", "BGR"), "INPUT.FORMAT, with corruptions")
    _library()
    return ColorTransform(
        partial(_corrupt, name=name, severity=severity, flip=image_format == "BGR")
    )


def _corrupt(image: np.ndarray, name: str, severity: int, flip: bool) -> np.ndarray:
    rgb = np.ascontiguousarray(image[..., ::-1]) if flip else image
    corrupted = corrupt_image(rgb, name, severity)
    return np.ascontiguousarray(corrupted[..., ::-1]) if flip else corrupted


def corrupted_mapper(cfg: CfgNode, name: str, severity: int) -> Mapper:
    """The test mapper of a config on corrupted images: corrupted as read, then resized."""
    return build_mapper(cfg, False, [corruption_transform(name, severity, cfg.INPUT.FORMAT)])


def corruption_summary(values: Mapping[str, Mapping[int, float]], clean: float) -> Dict[str, float]:
    """Mean performance under corruption (arXiv 1907.07484, equations 1 and 2).

    Args:
        values: corruption -> severity -> AP (0 to 100).
        clean: AP on the images as they are.

    Returns:
        Dict: "mPC", the mean over corruptions of the mean over severities; "rPC", 100 * mPC /
        clean, nan where clean is 0; "drop", clean - mPC. All nan without values.
    """
    means = [sum(v.values()) / len(v) for v in values.values() if v]
    mpc = sum(means) / len(means) if means else float("nan")
    rpc = 100 * mpc / clean if clean else float("nan")
    return {"mPC": mpc, "rPC": rpc, "drop": clean - mpc}
