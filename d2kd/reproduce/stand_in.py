"""Teachers with random weights, in place of those that others have published."""

from importlib.util import find_spec
from pathlib import Path
from typing import List

import torch
from detectron2.data import MetadataCatalog

from ..config.loading import teacher_config, without_pretrained
from ..config.naming import construct
from .pairs import WEIGHTS, Pair

_LIBRARIES = {"hf": "transformers", "timm": "timm"}
_DETECTORS = {"hf:PekingU/rtdetr_r50vd": "RTDetr"}  # has the defaults of its class of transformers


def lacks_library(pair: Pair) -> str:
    """A library that the teacher is built with and that is not installed, "" if there is none."""
    library = _LIBRARIES.get(pair.teacher_config.partition(":")[0], "")
    return library if library and find_spec(library) is None else ""


def write_stand_in(pair: Pair, folder: Path) -> List[str]:
    """Build the architecture of a teacher that d2kd does not train; nothing is downloaded.

    Args:
        pair: published.
        folder: of these teachers, which pairs share.

    Returns:
        KEY VALUE pairs that name it.
    """
    name = pair.teacher_config
    place = folder / Path(name.replace(":", "_")).stem
    if name in _DETECTORS:
        _save_detector(_DETECTORS[name], place)
        return ["DISTILL.TEACHER.CONFIG_FILES", str((f"hf:{place.absolute()}",))]
    file = place / "model.pth"
    if not file.is_file():
        cfg = pair.cfg.clone()
        cfg.MODEL.DEVICE = "cpu"
        detector = construct(without_pretrained(teacher_config(cfg, 0)))
        weights = detector.state_dict().items()  # a backbone's file has its library's names
        place.mkdir(parents=True)
        torch.save({"model": {k.removeprefix("backbone.body."): x for k, x in weights}}, file)
    return [WEIGHTS, str((str(file.absolute()),))]


def _save_detector(family: str, place: Path) -> None:
    """The folder that transformers writes of a detector of COCO's classes."""
    import transformers

    names = dict(enumerate(MetadataCatalog.get("coco_2017_train").thing_classes))
    labels = {"id2label": names, "label2id": {x: i for i, x in names.items()}}
    config = getattr(transformers, f"{family}Config")(**labels)
    transformers.AutoModelForObjectDetection.from_config(config).save_pretrained(place)
    getattr(transformers, f"{family}ImageProcessor")().save_pretrained(place)
