"""A sheet of labelled images."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure

from ..data.folder import Split
from ..data.image_files import DRAWING, is_drawing
from ..data.pixels import PixelError, read_pixels
from ..data.records import read_records
from ..errors import ConfigError
from ..inference.detections import WIDTH
from ..text import for_plot

_COLUMNS, _EACH = 4, 12  # images of a row, and of a split


def write_sheet(splits: Mapping[str, Split], path: Path) -> None:
    """Draw up to 12 images of each split with boxes and masks, first one of each class.

    Args:
        splits: see `read_dataset_folder`.
        path: of the PNG file.

    Raises:
        ConfigError: the file is a picture of the user's, or no png, or the set cannot be read.
    """
    if path.suffix.lower() != ".png" or (path.exists() and not is_drawing(path)):
        raise ConfigError(f"--pictures {path}: name a new .png file.")
    drawn = [x for name, split in splits.items() for x in _draw(name, split)]
    rows = -(-len(drawn) // _COLUMNS) or 1
    figure = Figure(figsize=(4 * _COLUMNS, 3.4 * rows), dpi=100, layout="constrained")
    axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes, drawn, strict=False):
        axis.imshow(picture)
        axis.set_title(for_plot(title, 50), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": DRAWING})


def _draw(name: str, split: Split) -> List[Any]:
    """Titles and pictures."""
    catalog = f"{name} of {split.json}"
    records = read_records(catalog, str(split.json), str(split.images), "any")
    found = []
    for record, image in _chosen(records):
        drawn = Visualizer(image, MetadataCatalog.get(catalog), max(1, WIDTH / image.shape[1]))
        title = f"{name}: {Path(record['file_name']).name}"
        found.append((title, drawn.draw_dataset_dict(record).get_image()))
    return found


def _chosen(records: List[Dict[str, Any]]) -> List[Tuple[Dict[str, Any], np.ndarray]]:
    """The first image of each class, then those that divide the others evenly, with their pixels.

    Images that cannot be read are passed over.
    """
    first: Dict[int, int] = {}
    for place, record in enumerate(records):
        for x in record["annotations"]:
            first.setdefault(x["category_id"], place)
    evenly = range(0, len(records), max(1, len(records) // _EACH))
    images: Dict[int, np.ndarray] = {}
    for place in dict.fromkeys([*first.values(), *evenly, *range(len(records))]):
        if len(images) < _EACH:
            with contextlib.suppress(PixelError):
                images[place] = read_pixels(records[place]["file_name"], "RGB")
    return [(records[place], images[place]) for place in sorted(images)]
