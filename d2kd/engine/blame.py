"""Whose numbers are NaN or infinite where a loss is: computed again, so steps cost nothing."""

from typing import Iterator, List, NamedTuple, Tuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ..adapters import DetectorOutput
from ..distiller import Distiller
from ..heads import head_defaults

_LOWER = "Lower SOLVER.BASE_LR, set SOLVER.CLIP_GRADIENTS.ENABLED True"


class Blame(NamedTuple):
    """A sentence that says whose numbers are, "" if that is not known, and what helps."""

    whose: str = ""
    advice: str = f"{_LOWER}, or lower that loss's weight in DISTILL."


@torch.no_grad()
def find_blame(model: nn.Module) -> Blame:
    """Run the last batch of a distillation once more and look at what each detector computes.

    Where student and teachers are finite it is the method. Among several ranks only the teachers
    are run, since the other ranks do not take part.
    """
    if not isinstance(model, Distiller) or not model.batch:
        return Blame()
    batch = model.batch
    for index, teacher in enumerate(model.teachers):
        if not (need := model.panel.need(index) - {"roi", "masks"}):
            continue
        alone = teacher(batch, model.divisor, model.input_format, need & teacher.adapter.provides)
        if found := _first(alone, batch):
            return _of_teacher(model, index, found)
    return Blame() if comm.get_world_size() > 1 else _find_on_one_rank(model)


def _find_on_one_rank(model: Distiller) -> Blame:
    try:
        student = model.run_student(model.batch)
    except FloatingPointError:  # Detectron2's, of proposals
        return Blame("So are the student's proposals. ", f"{_LOWER}.")
    if found := _first(student, model.batch):
        return Blame(f"So are the student's {found}. ", f"{_LOWER}.")
    teachers = model.run_teachers(model.batch, student)
    model.supervise(model.batch, student, teachers)
    for index, output in teachers.items():
        if found := _first(output, model.batch):
            return _of_teacher(model, index, found)
    for name, x in model.run_heads(student, teachers).items():
        if not torch.isfinite(x).all():
            text = f"What student and teachers compute is finite: it is {name} itself. "
            return Blame(text, _of_method(model, name))
    return Blame()


def _of_method(model: Distiller, loss: str) -> str:
    for name, head in model.heads.items():
        if loss.startswith(f"loss_{name}_"):
            options = ("WEIGHT", *(key.upper() for key in head_defaults(type(head))))
            return f"Look at {', '.join(f'DISTILL.{name}.{key}' for key in options)}."
    return f"{_LOWER}."


def _of_teacher(model: Distiller, index: int, found: str) -> Blame:
    return Blame(
        f"So are {found} of teacher {index} ({model.teachers[index].weights or 'no file'}). ",
        "Look at that teacher alone with d2kd eval, at its weights, INPUT.FORMAT and pixel "
        "statistics; in fp16 numbers end at 65,504: set DISTILL.TEACHER.PRECISION bf16 or fp32.",
    )


def _first(output: DetectorOutput, batch: List[dict]) -> str:
    """The first tensor that is not finite, and the image; "" if all are."""
    for name, x in tensors_of(output):
        finite = torch.isfinite(x)
        if not finite.all():
            images = [y.get("file_name", "") for y, good in zip(batch, finite, strict=False)
                      if len(finite) == len(batch) and not good.all()]  # fmt: skip
            return f"{name} (image {images[0]})" if images and images[0] else name
    return ""


def tensors_of(output: DetectorOutput) -> Iterator[Tuple[str, Tensor]]:
    """Names and tensors, in the order in which they are computed."""
    for name in ("features", "cls_taps", "reg_taps", "logits", "deltas", "quality"):
        for stride, found in getattr(output, name).items():
            for x in found if name.endswith("taps") else [found]:
                yield f"{name} of stride {stride}", x
    for stage in output.roi:
        yield from (("class logits of regions", stage.logits), ("deltas of regions", stage.deltas))
    if hasattr(output, "masks"):
        yield "mask logits", output.masks.logits
