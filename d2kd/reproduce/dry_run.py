"""Going through every stage of a pair in a minute: eight images, two steps, 64 px."""

import contextlib
import itertools
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch

from ..data.coco_json import read_coco
from ..engine.provenance import write_json
from ..errors import ConfigError, message
from ..file_io import check_output
from ..study import Study
from .forks import start_fork
from .needs import count_images, places
from .pairs import Pair
from .plan import plan_of, run_stages
from .stand_in import lacks_library, write_stand_in
from .verdict import values_of

_IMAGES = 8
_UNBUILT = AttributeError, ImportError, OSError, RuntimeError, TypeError, ValueError
_SPLITS = {"coco_2017_train": "dry_train", "coco_2017_val": "dry_val"}
BATCH = ["SOLVER.IMS_PER_BATCH", "4"]
"""Of every training, where there are not more GPUs."""
DRY_RUN = [
    "DATASETS.TRAIN", "('dry_train',)", "DATASETS.TEST", "('dry_val',)",
    "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice",
    "INPUT.MAX_SIZE_TRAIN", "107", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "107",
    "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0",
    "SOLVER.BASE_LR", "1e-9", "SOLVER.BASE_LR_END", "0.0", "SOLVER.CHECKPOINT_PERIOD", "3",
    "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0", "MODEL.WEIGHTS", "",
    "MODEL.TIMM.PRETRAINED", "False",
]  # fmt: skip
"""KEY VALUE pairs of every training of a dry run, beside those of `new_dry_run`."""


@contextlib.contextmanager
def new_dry_run(output: Path, gpus: int = 1) -> Iterator[Tuple[Path, List[str]]]:
    """Make a folder of one dry run, with eight images' annotations of each of COCO's splits.

    Checkpoints in it are removed at the end.

    Args:
        output: where the folder is made; nothing else there is read or removed.
        gpus: of every training; a batch has an image for each at least.

    Yields:
        The folder, and KEY VALUE pairs for every training.

    Raises:
        MissingFileError: COCO, or a part of it, is not there.
    """
    for name in _SPLITS:
        count_images(name)
    check_output(output, "--output")
    folders = (output / f"dry_run_{number}" for number in itertools.count(1))
    folder = next(x for x in folders if not x.exists())
    folder.mkdir(parents=True)
    try:
        yield folder, _prepare(folder, gpus)
    finally:
        for file in folder.rglob("*.pth"):
            file.unlink()


def _prepare(folder: Path, gpus: int) -> List[str]:
    custom = []
    for name, own in _SPLITS.items():
        images, annotations = map(Path, places(name))
        path = folder / f"{own}.json"
        write_json(path, _first(read_coco(annotations)))
        custom.append([own, str(path.absolute()), str(images.absolute())])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = [BATCH[0], str(max(int(BATCH[1]), gpus))]
    return [*DRY_RUN, *batch, "DATASETS.CUSTOM", str(custom), "MODEL.DEVICE", device]


def reason_against_dry_run(pair: Pair) -> str:
    """Why a pair cannot have one, "" if it can."""
    if library := lacks_library(pair):
        extra = pair.teacher_config.partition(":")[0]
        return f"{pair.teacher_config} is built with {library}: pip install d2kd[{extra}]"
    return ""


def go_through(
    pair: Pair, folder: Path, gpus: int, options: Sequence[str]
) -> Tuple[List[str], List[str]]:
    """Every stage of a pair, whose teacher is trained too, or else has random weights.

    Args:
        pair: without a `reason_against_dry_run`.
        folder: of the dry run.
        gpus: of every training.
        options: those of `new_dry_run`, and the user's.

    Returns:
        A line for each stage that failed, or why none was started, and one for each that there is.
    """
    try:
        teacher = [] if pair.trains_teacher else write_stand_in(pair, folder / "teachers")
        study = plan_of(pair, folder, [1], gpus, options, teacher)
    except _UNBUILT as error:  # whatever its library raises
        return [f"{pair.name}: {' '.join(message(error).split())}"], []
    try:
        return run_stages(study, start_fork), values_of(study)
    except ConfigError as error:
        return [f"{pair.name}: {error}"], []
    finally:
        _drop_weights(study)


def _drop_weights(study: Study) -> None:
    """Remove checkpoints of students, which nobody reads again: all pairs' are some 20 GB."""
    for row, runs in study.rows.items():
        if not row.startswith("teacher_"):
            for file in (x for run in runs for x in run.folder.glob("*.pth")):
                file.unlink()


def _first(coco: Dict[str, Any]) -> Dict[str, Any]:
    """The first images that have objects, with them; all classes."""
    with_objects = {x["image_id"] for x in coco["annotations"]}
    images = [x for x in coco["images"] if x["id"] in with_objects][:_IMAGES]
    kept = {x["id"] for x in images}
    annotations = [x for x in coco["annotations"] if x["image_id"] in kept]
    return {"images": images, "annotations": annotations, "categories": coco["categories"]}
