"""Convert a folder in Pascal VOC's layout to COCO json files, one per split.

Reads ``ROOT/ImageSets/Main/SPLIT.txt``, ``ROOT/Annotations/ID.xml`` and the header of
``ROOT/JPEGImages/ID.*``; writes ``OUTPUT/instances_SPLIT.json``. The same input gives the same
bytes. Without lists the folders' names say the split, or all is train; without ``Annotations`` and
``JPEGImages`` the xml files and images are looked for in the whole folder.

- VOC's corners are 1-based pixel indices, both inclusive; COCO's box is x, y, width, height from
  the image's corner: x = xmin - 1, y = ymin - 1, width = xmax - x, height = ymax - y.
- A polygon, as Roboflow and LabelMe write it, is kept with its box.
- "difficult" objects are ordinary objects (``iscrowd`` 0), as in Detectron2's own VOC reader.
- An image of another size than its xml file states is left out; where the file states none, or
  0, that of the image is taken. Boxes that reach outside it are written as they are: d2kd clips
  them when it trains.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..class_names import similar
from ..coco_json import write_splits
from ..listing import warn_of
from ..sizes import image_sizes
from .annotation import Annotation, read_xml
from .files import find_files
from .samples import Sample, find_splits

logger = logging.getLogger(__name__)


def voc_to_coco(
    root: Path, output: Path, classes: Sequence[str] = (), splits: Sequence[str] = ()
) -> dict[str, Path]:
    """Convert the splits of a VOC-style folder; warnings count what is left out.

    Args:
        root: the folder that holds ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        output: where to write; made if needed.
        classes: class names in the order of their ids; all names found, sorted, if empty.
        splits: names of lists (see `find_lists`), maybe ``val=NAME``; of train, val and test
            those that exist if empty, with trainval in the place of a missing train.

    Returns:
        The json file of each split; file names in them are relative to `image_root`.

    Raises:
        ConfigError: a file is missing or cannot be read; or see `write_splits`.
    """
    files = find_files(root)
    found = find_splits(files, splits)
    images = {split: _read_split(split, x.samples, files.images.root) for split, x in found.items()}
    names = {box[0] for split in images.values() for image in split for box in image["boxes"]}
    if not names and not classes:
        first = next(iter(found.values())).samples[0].annotation
        raise ConfigError(f"none of the xml files, such as {first}, has an object.")
    unknown = sorted(names - set(classes))
    if classes and unknown:
        raise ConfigError(f"objects of {unknown} are not among the classes {' '.join(classes)}")
    warn_of(logger, similar(sorted(names)), "class names may be the same")
    paths = {split: output / f"instances_{found[split].name}.json" for split in images}
    return write_splits(paths, images, list(classes) or sorted(names))


def _read_split(split: str, samples: Sequence[Sample], root: Path) -> list[dict[str, Any]]:
    sizes = image_sizes(split, [x.image for x in samples])
    found = [(x, read_xml(x.annotation), sizes[x.image]) for x in samples if x.image in sizes]
    read = [x for x in found if _fits(x[1], x[2])]
    lost = [x[0].annotation.name for x in found if not _fits(x[1], x[2])]
    if not read:
        raise ConfigError(f"{split}: no image has the size that its xml file states: {lost[0]}.")
    what = "xml files state another size than their images have, which are left out"
    warn_of(logger, lost, what, f"{split}: ")
    _explain(split, read)
    return [_image(*x, root) for x in read]


def _fits(annotation: Annotation, size: tuple[int, int]) -> bool:
    """Whether an image has the size that its xml file states, if it states one above 0."""
    stated = annotation.size or (0, 0)
    return not min(stated) > 0 or stated == size


def _image(
    sample: Sample, annotation: Annotation, size: tuple[int, int], root: Path
) -> dict[str, Any]:
    name = sample.image.relative_to(root).as_posix()
    image = {"file_name": name, "width": size[0], "height": size[1], "boxes": annotation.boxes}
    if any(annotation.polygons):
        image["polygons"] = [polygon or [] for polygon in annotation.polygons]
    return image


def _explain(split: str, read: Sequence[tuple[Sample, Annotation, tuple[int, int]]]) -> None:
    """Warn about what the files of a split say and is not taken as they say it."""
    findings = {
        "xml files state no size above 0, and the image file's is taken": [
            x for x, said, size in read if said.size not in (None, size)
        ],
        "xml files have polygons that cannot be read, of whose objects the boxes are taken": [
            x for x, said, _ in read if [] in said.polygons
        ],
        "xml files have boxes before pixel 1, VOC's first: they may count from 0": [
            x for x, said, _ in read if any(min(b[1:3]) < 0 for b in said.boxes)
        ],
    }
    for what, samples in findings.items():
        warn_of(logger, (x.annotation.name for x in samples), what, f"{split}: ")
