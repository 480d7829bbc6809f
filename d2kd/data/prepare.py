"""A labelled folder in any layout as json files in COCO's format, with a validation split."""

import logging
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ConfigError
from ..file_io import check_output, read_yaml, write_yaml
from ..text import plain
from .coco_files import coco_files
from .coco_json import write_json
from .divide import hold_back
from .folder import INDEX, Split, is_index, read_dataset_folder, write_index
from .image_files import list_images
from .layouts import layout_of
from .listing import warn_of
from .near_duplicates import group_alike
from .split_names import SPLITS
from .tree import walk
from .usable import find_usable, only
from .voc import image_root as voc_root
from .voc import voc_to_coco
from .voc.files import ByName
from .yolo import image_root as yolo_root
from .yolo import write_draft, yolo_to_coco

logger = logging.getLogger(__name__)

_ORIGIN = "prepared.yaml"


def prepare_folder(folder: Path, cache: Path, val: float = 0.2, seed: int = 1) -> dict[str, Split]:
    """Read a labelled folder in COCO's, VOC's or YOLO's layout, and write what trains to a cache.

    Nothing in the folder is changed. Where it has no validation split, its training images are
    divided: by class, with images that look alike on one side. Images that are missing, that
    cannot be read, or that have another size than the labels say, are left out and counted.

    Args:
        folder: of the user, or its ``data.yaml``.
        cache: folder to write ``instances_SPLIT.json`` and ``dataset.yaml`` to. What a call with
            the same arguments has written there is read again.
        val: share of the training images to validate on, 0 to 1.
        seed: of the division.

    Raises:
        ConfigError: it is no data set, has no training images, or `cache` holds something else.
    """
    folder = folder.expanduser()
    is_yaml = folder.is_file() and folder.suffix in (".yaml", ".yml")
    root = (folder.parent if is_yaml else folder).resolve()
    origin = {"folder": str(folder.resolve()), "val": val, "seed": seed}
    if (cache / INDEX).exists():
        known = read_yaml(cache / _ORIGIN) if (cache / _ORIGIN).is_file() else "elsewhere"
        if known != origin:
            raise ConfigError(f"{cache} holds data from {plain(known)}: name another folder.")
        return read_dataset_folder(cache)
    if cache.resolve().is_relative_to(root):
        raise ConfigError(f"{cache} is inside of {folder}, which stays as it is: name another.")
    check_output(cache, "--output")
    if not _is_ours(cache) and any(cache.glob("*")):
        raise ConfigError(f"{cache} holds other files, which stay there: name another folder.")
    with TemporaryDirectory() as temporary:
        splits = _read(folder, root, Path(temporary))
        files = ByName(list_images(root).images, root)
        found = {name: find_usable(name, x, root, files) for name, x in splits.items()}
    if "train" not in found:
        raise ConfigError(f"{folder} has {' and '.join(found)}, but no train to learn from.")
    _divide(root, found, val, seed)
    cache.mkdir(parents=True, exist_ok=True)
    write_yaml(cache / _ORIGIN, origin)
    paths = {name: cache / f"instances_{name}.json" for name in found}
    for name, path in paths.items():
        write_json(path, found[name])
    write_index(cache, paths, root)  # the last: without it, nothing of a killed call is read
    return read_dataset_folder(cache)


def forget_prepared(cache: Path) -> None:
    """Remove what `prepare_folder` has written to `cache`, whole or not, and nothing else."""
    if _is_ours(cache):
        for name in (*(f"instances_{split}.json" for split in SPLITS), INDEX, _ORIGIN):
            (cache / name).unlink(missing_ok=True)
        if not any(cache.iterdir()):
            cache.rmdir()


def _is_ours(cache: Path) -> bool:
    known = None
    with suppress(ConfigError, OSError):
        known = read_yaml(cache / _ORIGIN)
    return isinstance(known, dict) and known.keys() == {"folder", "val", "seed"}


def _read(folder: Path, root: Path, temporary: Path) -> dict[str, Split]:
    """The splits of a folder, converted to a temporary place if they are not in COCO's format."""
    places = walk(root)
    known = is_index(folder) or is_index(folder / INDEX)
    kind, source = layout_of(folder, places, [] if known else coco_files(places))
    if known or kind in ("coco", ""):
        return read_dataset_folder(folder, anywhere=True)
    if kind == "labels":
        source = temporary / "data.yaml"
        write_draft(root, places, source)
    if kind == "voc":
        paths, images = voc_to_coco(source, temporary), voc_root(source)
    else:
        paths, images = yolo_to_coco(source, temporary, ("train",)), yolo_root(source)
    return {split: Split(path, images, []) for split, path in paths.items()}


def _divide(root: Path, found: dict[str, dict[str, Any]], val: float, seed: int) -> None:
    """Put a part of train into val where there is none, or one of the same images."""
    train, why = found["train"], "there is no validation split"
    files = [x["file_name"] for x in train["images"]]
    if "val" in found:
        if {x["file_name"] for x in found["val"]["images"]} != {*files}:
            return
        why = "val has the images of train"
    groups = group_alike([root / x for x in files])
    classes = _classes(train)
    held = hold_back(classes, groups, val, seed)
    if not 0 < len(held) < len(files):
        raise ConfigError(
            f"{root}: its {len(files):,} training images are too few, or too much alike, to "
            "validate on some of them: label others, or name a split val."
        )
    found["train"] = only(train, [x not in held for x in range(len(files))])
    found["val"] = only(train, [x in held for x in range(len(files))])
    alike = sum(len(group) for group in groups if len(group) > 1)
    logger.warning(
        f"{plain(root)}: {why}: {len(held):,} of {len(files):,} training images are val now (seed "
        f"{seed})"
        + f", {alike:,} that look alike on the same side" * bool(alike)
        + "; the test split stays as it is" * ("test" in found)
        + "."
    )
    sides = (frozenset().union(*_classes(found[x])) for x in ("train", "val"))
    alone = sorted(frozenset.__xor__(*sides))
    warn_of(logger, alone, "classes are in train or in val alone", f"{plain(root)}: ")


def _classes(coco: dict[str, Any]) -> list[frozenset[str]]:
    """Names of the classes of the objects in each image."""
    names = {x["id"]: str(x["name"]) for x in coco["categories"]}
    found = defaultdict(set)
    for a in coco["annotations"]:
        found[a["image_id"]].add(names.get(a["category_id"], ""))
    return [frozenset(found[x["id"]]) for x in coco["images"]]
