"""Configs by path, by name, or by the folder of a run."""

import difflib
import os
from pathlib import Path

from ..errors import ConfigError, MissingFileError
from ..file_io import CONFIGS, expect, told
from .lazy import is_trusted
from .model_zoo import zoo_config_file, zoo_folder


def moved_config(text: str) -> str:
    """`text` with the folder that d2kd 0.1.0 had the studies' configs in, as it is called now."""
    return text.replace("configs/study/", "studies/configs/")


def resolve_config_file(path: str, key: str) -> str:
    """Return the local path of a config.

    Args:
        path: a file; the folder of a run, whose config.yaml is meant; a config of d2kd, such as
            "train/gfl_R_50_FPN_1x.yaml"; or one of Detectron2's model zoo, such as
            "COCO-Detection/retinanet_R_101_FPN_3x.yaml", or a LazyConfig of it (.py).
        key: the option that named it, for the error message.

    Raises:
        FileNotFoundError: it is neither.
        ConfigError: it is an address.
    """
    if "://" in path:
        raise ConfigError(
            f"{key}: {path!r} is an address, and configs are not downloaded: save the file here, "
            "and name it."
        )
    what = told(path) if os.path.isdir(path) else ""
    if os.path.isdir(path):
        path = os.path.join(path, "config.yaml")
    if os.path.isfile(path):
        if not is_trusted(path):
            expect(path, key, "config")
        return path
    if os.path.isfile(moved_config(path)):
        return moved_config(path)
    shipped = CONFIGS / path.removeprefix("configs/")
    if shipped.is_file():
        return str(shipped)
    if (zoo := zoo_config_file(path)) is not None:
        return str(zoo)
    raise MissingFileError(
        f"{key}: {path!r} is neither a file or the folder of a run (looked from {os.getcwd()!r}), "
        "nor a config of d2kd such as 'train/gfl_R_50_FPN_1x.yaml', nor one of the model zoo such "
        f"as 'COCO-Detection/retinanet_R_101_FPN_3x.yaml'.{what or _near(path)}"
    )


def _near(path: str) -> str:
    zoo = zoo_folder() / "configs"
    files = [*zoo.glob("**/*.*"), *CONFIGS.glob("**/*.yaml")]
    roots = {x: CONFIGS if x.is_relative_to(CONFIGS) else zoo for x in files}
    by_stem = {x.stem: str(x.relative_to(root)) for x, root in roots.items()}
    near = difflib.get_close_matches(Path(path).stem, by_stem, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(by_stem[name] for name in near)}?" if near else ""
