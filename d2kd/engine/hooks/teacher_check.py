"""A teacher is evaluated before it teaches, and compared with the student while it does."""

import logging
import math
from typing import Any, Callable, Dict, List, Optional, TypedDict

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ...adapters.padding import cuts_at
from ...build import student_config
from ...checkpoint import run_checkpoint
from ...config.loading import load_config, without_pretrained
from ...config.naming import construct
from ...data.class_names import recorded_classes
from ...errors import ConfigError, MissingFileError
from ...evaluation.build import evaluator_type
from ...evaluation.inputs import teacher_doubts
from ...quantize import load_quantized, quantize_student
from ...teachers import Teacher
from .first_images import FirstImages, Found
from .recorded_eval import OF_TRAINING

_NOTHING = 1.0  # box AP of a teacher that has learnt nothing
Results = Dict[str, Any]
logger = logging.getLogger(__name__)


class TeacherCheckState(TypedDict):
    """What a checkpoint keeps: box AP of the teachers that have one, and on how many images."""

    aps: List[float]
    images: int
    caught_up: bool


class TeacherCheck(HookBase):
    """Evaluates each teacher on a few test images before training and stops below a threshold.

    Images have the resolution of the student's INPUT.MIN_SIZE_TEST, as distillation sees them, or
    the teacher's own where DISTILL.TEACHER.SIZE says so. Each evaluation of the student says what
    the best teacher is ahead of it on these images.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Read DISTILL.TEACHER.CHECK_IMAGES, CHECK_MIN_AP and CHECK_AGAINST.

        Raises:
            ConfigError: there is a threshold, and DATASETS.TEST is empty; or CHECK_AGAINST is no
                run's folder.
        """
        self.cfg, options = cfg, cfg.DISTILL.TEACHER
        if not cfg.DATASETS.TEST and options.CHECK_MIN_AP > 0:
            raise ConfigError(
                "DISTILL.TEACHER.CHECK_MIN_AP evaluates teachers on images of DATASETS.TEST, which "
                "is empty: name a data set there, or set it to 0."
            )
        self._plain = _checkpoint_of(options.CHECK_AGAINST) if options.CHECK_AGAINST else ""
        self._aps: Optional[List[float]] = None
        self._caught_up = False

    def before_train(self) -> None:
        """Evaluate; a resumed run knows the teachers already.

        Raises:
            ConfigError: a teacher's box AP is under the threshold.
        """
        if not self.cfg.DATASETS.TEST:
            self._aps = None  # a checkpoint may know them
            logger.warning("DATASETS.TEST is empty, so whether the teacher is good on these data, "
                           "and whether distillation helps, is not known.")  # fmt: skip
            return
        self._images = FirstImages(self.cfg, self.cfg.DISTILL.TEACHER.CHECK_IMAGES)
        if self._aps is None:
            self._aps, references = [], self._references()
            for index, teacher in enumerate(self.trainer.distiller.teachers):
                found = self._evaluate(teacher)
                if isinstance(found, Found):
                    self._aps.append(found.ap)
                if comm.is_main_process():
                    self._say(index, found, references)

    def _evaluate(self, teacher: Teacher) -> Found | str:
        """Its box AP on the images, or why that is not known."""
        longest = teacher.size[1] if teacher.size else self.cfg.INPUT.MAX_SIZE_TEST
        if side := cuts_at(teacher.adapter.backbone, longest):
            return (f"outside of a training it cuts images off at its square of {side} px, and "
                    f"INPUT.MAX_SIZE_TEST is {longest}")  # fmt: skip
        count, context = teacher.adapter.spec().num_classes, teacher.autocast()
        if not count:
            return "it detects nothing"
        return self._images.evaluate(
            teacher.detector, teacher.input_format, teacher.classes, count, context, teacher.size
        )

    def _references(self) -> Dict[str, float]:
        """Box AP of the plain student, by what it is called; empty where none is known."""
        found, start = {}, self.cfg.MODEL.WEIGHTS
        if recorded_classes(start) and not self.trainer.start_iter:
            student, name = self.trainer.distiller.student, f"the student at its start ({start})"
            found[name] = self._images.evaluate(student, self.cfg.INPUT.FORMAT)
        if folder := self.cfg.DISTILL.TEACHER.CHECK_AGAINST:
            cfg = load_config(folder, ["MODEL.DEVICE", self.cfg.MODEL.DEVICE])
            detector = construct(without_pretrained(student_config(cfg)))
            quantize_student(detector, cfg)
            load_quantized(detector, self._plain, "DISTILL.TEACHER.CHECK_AGAINST")
            plain = self._images.evaluate(detector, cfg.INPUT.FORMAT, recorded_classes(folder))
            found[f"the plain student {folder}"] = plain
        for name, x in found.items():
            if isinstance(x, str):
                logger.warning("The box AP of %s is not known: %s.", name, x)
        return {name: x.ap for name, x in found.items() if isinstance(x, Found)}

    def _say(self, index: int, found: Found | str, references: Dict[str, float]) -> None:
        """One line about a teacher."""
        options, images = self.cfg.DISTILL.TEACHER, self._images.text
        name = f"Teacher {index} ({options.CONFIG_FILES[index]})"
        if isinstance(found, str):
            return logger.warning("%s: its box AP on %s is not known: %s.", name, images, found)
        ap = 0.0 if math.isnan(found.ap) else found.ap
        if not ap >= options.CHECK_MIN_AP:
            raise ConfigError(
                f"{name} has box AP {ap:.2f}, under DISTILL.TEACHER.CHECK_MIN_AP = "
                f"{options.CHECK_MIN_AP}. {self._cause(index, found)}"
            )
        others = "".join(f"; {what}: {x:.1f}" for what, x in references.items())
        text = f"{name}: box AP {ap:.1f} on {images} ({found.seconds:.0f} s){others}."
        best = max(references, key=lambda x: references[x], default="")
        if ap < _NOTHING:
            logger.warning("%s It has nothing to teach. %s", text, self._cause(index, found))
        elif best and ap <= references[best]:
            logger.warning("%s It is not better than %s, so it has nothing to teach: take a larger "
                           "one, or train it for longer.", text, best)  # fmt: skip
        else:
            logger.info(text)

    def _cause(self, index: int, found: Found) -> str:
        """Why a teacher may be bad."""
        if found.without_classes > max(5 * _NOTHING, 2 * found.ap):
            return ("Likely cause: class names, in another order or others, since its boxes alone "
                    f"have AP {found.without_classes:.1f}.")  # fmt: skip
        for text in teacher_doubts(self.cfg, index):
            return f"Likely cause: {text}"
        return ("Likely cause: weights that have hardly been trained, or data unlike these; else "
                "its INPUT.FORMAT and pixel statistics. d2kd eval looks at it alone.")  # fmt: skip

    def compared(self, evaluate: Callable[[], Results]) -> Callable[[], Results]:
        """An evaluation of the student with `distill/teacher_advantage` among its results."""

        def both() -> Results:
            results = evaluate()
            return {**results, **self._advantage(results)}

        return both

    def _advantage(self, results: Results) -> Results:
        if not self._aps:
            return {}
        ours, best = self._student(results), max(self._aps)
        if not math.isfinite(best - ours):  # also behind the first rank
            return {}
        if ours >= best and not self._caught_up:
            self._caught_up = True
            step = min(self.trainer.iter + 1, self.trainer.max_iter)  # after the last step, too
            logger.warning(
                "From step %d on the teacher has nothing left to teach: its box AP is %.1f and the "
                'student\'s %.1f on %s. DISTILL.SCHEDULE "(%g, %d)" ends distillation.',
                step, best, ours, self._images.text, self.cfg.DISTILL.SCHEDULE[0], step,
            )  # fmt: skip
        return {OF_TRAINING: {"teacher_advantage": best - ours}}

    def _student(self, results: Results) -> float:
        """Box AP on the same images: that of the evaluation, or one of its own."""
        if self._images.is_whole and evaluator_type(self._images.name) == "coco":
            if not results:
                return math.nan
            found = results if len(self.cfg.DATASETS.TEST) == 1 else results[self._images.name]
            ap: float = found["bbox"]["AP"]
            return 0.0 if math.isnan(ap) else ap
        average = getattr(self.trainer, "average", None)  # what is evaluated in place of the model
        student = average.detector if average else self.trainer.distiller.student
        found = self._images.evaluate(student, self.cfg.INPUT.FORMAT)
        return found.ap if isinstance(found, Found) else math.nan

    def state_dict(self) -> TeacherCheckState | Dict[str, Any]:
        """What is known; nothing before the first evaluation."""
        if self._aps is None:
            return {}
        known = [x for x in self._aps if math.isfinite(x)]
        images = self.cfg.DISTILL.TEACHER.CHECK_IMAGES
        return {"aps": known, "images": images, "caught_up": self._caught_up}

    def load_state_dict(self, state: TeacherCheckState) -> None:
        """A resumed run evaluates no teacher again, unless on other images."""
        if state["images"] == self.cfg.DISTILL.TEACHER.CHECK_IMAGES:
            self._aps, self._caught_up = state["aps"], state["caught_up"]


def _checkpoint_of(folder: str) -> str:
    try:
        return run_checkpoint(folder)[0]
    except MissingFileError as error:
        raise MissingFileError(f"DISTILL.TEACHER.CHECK_AGAINST: {error}") from None
