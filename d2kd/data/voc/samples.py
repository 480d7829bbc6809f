"""The splits of a folder in Pascal VOC's layout: images with their xml files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import MissingFileError
from ...file_io import told
from ...text import plain
from ..listing import warn_of
from ..split_names import SPLITS, folder_split
from .annotation import read_xml
from .files import ByName, Files
from .lists import find_lists, read_list

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """An image with its xml file."""

    image: Path
    annotation: Path


class Split(NamedTuple):
    """The name of a split's list, and its images in order."""

    name: str
    samples: list[Sample]


def find_splits(files: Files, asked: Sequence[str]) -> dict[str, Split]:
    """The splits that lists name, or else folders; warnings count what is in none.

    Args:
        files: of the data set.
        asked: see `find_lists`.

    Raises:
        ConfigError: a listed file is missing, or there is nothing to read.
    """
    lists = find_lists(files.root, asked)
    found = _listed_splits(files, lists) if lists else _folder_splits(files)
    for split, (name, samples) in found.items():
        if not samples:
            logger.warning(f"{split} is left out: {plain(name)} names no image.")
    found = {split: found[split] for split in SPLITS if split in found and found[split].samples}
    if not found:
        raise MissingFileError(
            f"{files.root} holds no image with a xml file, and none of train.txt, val.txt, test.txt"
            " in ImageSets/Main: is this a VOC folder? The lists have one ID per line."
            f"{told(files.root)}"
        )
    used = {path for split in found.values() for sample in split.samples for path in sample}
    _explain("images", files.images, used)
    _explain("xml files", files.annotations, used)
    if lists and not asked:
        unused = [path.name for path in files.annotations.paths if path not in used]
        warn_of(logger, unused, "xml files are named by no list that is read")
    return found


def _explain(kind: str, found: ByName, used: set[Path]) -> None:
    """Warn about files that were taken for a name that may mean another."""
    renamed = [f"{x.name} for {name}" for x, name in found.renamed.items() if x in used]
    warn_of(logger, renamed, f"{kind} are taken whose names are written differently")
    hidden = [(x, y) for x, y in found.hidden().items() if y in used and x not in used]
    names = [f"{y.name}, not {x.name}" for x, y in hidden]
    warn_of(logger, names, f"{kind} are left out for others whose suffix alone differs")


def _listed_splits(files: Files, lists: dict[str, Path]) -> dict[str, Split]:
    found = {split: Split(x.stem, _read(x, files)) for split, x in lists.items()}
    both = found.pop("trainval", None)
    if both is None:
        return found
    known = {sample for split in found.values() for sample in split.samples}
    rest = [sample for sample in both.samples if sample not in known]
    if "train" not in found:
        logger.warning(f"train is what {lists['trainval'].name} names and no other list.")
        return {"train": Split(both.name, rest), **found}
    warn_of(
        logger, (x.image.name for x in rest), "images of trainval are in no other list and left out"
    )
    return found


def _read(path: Path, files: Files) -> list[Sample]:
    read = read_list(path, files.images, files.annotations)
    lost = [line for line, image, _ in read if image is None]
    bare = [line for line, _, annotation in read if annotation is None]
    for lines, root in ((lost, files.images.root), (bare, files.annotations.root)):
        if lines:
            kind = "" if lines is lost else "the xml file of "
            more = f", and {len(lines) - 1:,} more of its {len(read):,} lines" * (len(lines) > 1)
            raise MissingFileError(
                f"{path.name} names {kind}{plain(lines[0], 80)}, which {root} lacks{more}. A line "
                "is the name of an image; --splits leaves lists out."
            )
    return list(dict.fromkeys(Sample(x, xml) for _, x, xml in read if x and xml))


def _folder_splits(files: Files) -> dict[str, Split]:
    samples, lost, twice = _pair(files)
    warn_of(logger, lost, "xml files fit no image")
    warn_of(logger, twice, "xml files are of an image that another one is of, and left out")
    taken = {sample.image for sample in samples}
    bare = [path.name for path in files.images.paths if path not in taken]
    warn_of(logger, bare, "images have no xml file and are left out")
    found: dict[str, Split] = {}
    for sample in samples:
        split = _split_of(sample, files)
        found.setdefault(split, Split(split, [])).samples.append(sample)
    rest = found.pop("", Split("", [])).samples
    if found:
        warn_of(
            logger, (x.image.name for x in rest), "images are in no folder of a split and left out"
        )
    elif rest:
        logger.warning(
            f"no list in {plain(files.root / 'ImageSets' / 'Main')} and no folder names a split: "
            f"all {len(rest):,} images are train."
        )
        found["train"] = Split("train", rest)
    return found


def _pair(files: Files) -> tuple[list[Sample], list[str], list[str]]:
    """Images with their xml files; names of files that fit none, and of those of one taken."""
    samples: dict[Path, Sample] = {}
    lost, twice = [], []
    for path in files.annotations.paths:
        image = _image_of(path, files.images, files.annotations.root)
        if image is None:
            lost.append(path.name)
        elif image in samples:
            twice.append(path.name)
        else:
            samples[image] = Sample(image, path)
    return list(samples.values()), lost, twice


def _image_of(path: Path, images: ByName, root: Path) -> Path | None:
    key = path.relative_to(root).with_suffix("").as_posix()
    split = folder_split(path, root)
    found = images.exact(key) or images.find(path.stem, split, path)
    return found or images.find(read_xml(path).filename, split, path)


def _split_of(sample: Sample, files: Files) -> str:
    split = folder_split(sample.annotation, files.annotations.root)
    split = split or folder_split(sample.image, files.images.root)
    return "train" if split == "trainval" else split
