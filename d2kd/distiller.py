"""The meta-architecture that trains a stock student against frozen teachers."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from .adapters import DetectorOutput, build_adapter
from .adapters.class_map import ClassMap
from .adapters.joined_sets import with_sets
from .adapters.output import STUDENT_ONLY
from .adapters.to_device import to_device
from .build import build_distiller
from .detectors.loss_normalizer import Average, moving_averages, undo_normalizer
from .heads import DistillationHead
from .losses import mean_over_ranks
from .losses.labels import positives_per_batch
from .teachers.panel import Panel
from .teachers.stored import StoredSets
from .teachers.teacher import Teacher


@META_ARCH_REGISTRY.register()
class Distiller(nn.Module):
    """A student, the heads that distil it, and teachers that are not part of it.

    In eval mode it is the student. In training it returns the student's supervised losses, equal to
    the stock ones bit by bit, and `loss_<head>_<term>` for each term of each head. Its state dict
    is the student's; the heads' projections are saved beside it by the trainer.

    Attributes:
        scale: factor on every distillation loss, set by `DistillationSchedule`.
        batch: of the last training forward.
        probes: called with (losses, student output) after each training forward, by name.
        part: the context of each part of a training forward, given its name, for a profiler.
    """

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        teachers: List[Teacher],
        heads: Dict[str, Tuple[DistillationHead, float, int]],
        input_format: str = "BGR",
        class_maps: Optional[Dict[int, ClassMap]] = None,
        stored: Optional[StoredSets] = None,
        assign_with: str = "own",
    ) -> None:
        """Wire student, teachers and heads.

        Args:
            student: a stock detector.
            teachers: frozen teachers.
            heads: name -> (head, weight >= 0, index of its teacher).
            input_format: channel order of the images in a batch, "BGR" or "RGB".
            class_maps: how the classes of a teacher, by its index, stand for the student's, where
                they are not the same; for heads that compare class by class.
            stored: detections that come with the images, behind the last teacher.
            assign_with: "own", or "teacher": what teacher 0 predicts assigns the student's objects,
                in place of what the student predicts.

        Raises:
            ValueError: a negative weight, a teacher index or a channel order that does not exist,
                or detectors of which one cannot assign the other's objects.
        """
        super().__init__()
        assigns = assign_with == "teacher"
        self.panel = Panel(teachers, stored, heads, input_format, assigns, class_maps)
        self.student = student
        self.heads = nn.ModuleDict({name: head for name, (head, _, _) in heads.items()})
        self.weights = {name: weight for name, (_, weight, _) in heads.items()}
        self.teacher_of = {name: index for name, (_, _, index) in heads.items()}
        self.requests = {name: head.sets for name, (head, _, _) in heads.items()}
        self.input_format = input_format
        self.class_maps = class_maps or {}
        self.adapter = build_adapter(student)
        self.panel.check_assigner(self.adapter)
        spec = self.adapter.spec()
        reads = (head.reads_of_student(spec) for head, _, _ in heads.values())
        self.need: FrozenSet[str] = frozenset().union(*reads)
        self.num_classes = spec.num_classes
        self.scale = 1.0
        self.batch: List[dict] = []
        self.probes: Dict[str, Callable[[Dict[str, Tensor], DetectorOutput], None]] = {}
        self.part: Callable[[str], AbstractContextManager] = nullcontext
        adapters = [self.adapter, *(t.adapter for t in teachers)]
        self.divisor = math.lcm(*(adapter.divisor for adapter in adapters))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """See `d2kd.build.build_distiller`."""
        return build_distiller(cfg)

    @property
    def teachers(self) -> List[Teacher]:
        """Frozen, and no part of the module."""
        return self.panel.teachers

    @property
    def device(self) -> torch.device:
        """The student's device."""
        return self.adapter.device

    def forward(self, batched_inputs: List[dict]) -> Any:
        """Losses in training, the student's detections in eval mode; inputs as Detectron2's."""
        if not self.training:
            return self.student(batched_inputs)
        self.batch = batched_inputs
        with self.part("d2kd.student"):
            student = self.run_student(batched_inputs)
        with self.part("d2kd.teachers"):
            teachers = self.run_teachers(batched_inputs, student)
        self.supervise(batched_inputs, student, teachers)
        with self.part("d2kd.heads"):
            losses = self.run_heads(student, teachers)
        for probe in self.probes.values():
            probe(losses, student)
        return losses

    def run_heads(
        self, student: DetectorOutput, teachers: Dict[int, DetectorOutput]
    ) -> Dict[str, Tensor]:
        """The student's losses and, weighted, those of the heads."""
        losses = dict(student.losses)
        for name, head in self.heads.items():
            for term, value in head(*self.seen_by(name, student, teachers)).items():
                key = f"loss_{name}_{term}"
                if key in losses:
                    raise ValueError(f"two losses are called {key}; rename one head or term")
                losses[key] = value * (self.weights[name] * self.scale)
        return losses

    def seen_by(
        self, name: str, student: DetectorOutput, teachers: Dict[int, DetectorOutput]
    ) -> Tuple[DetectorOutput, DetectorOutput]:
        """What a head compares: both outputs, in the classes that both have where it matters."""
        index, request = self.teacher_of[name], self.requests[name]
        if request is not None:
            outputs = {i: teachers[i] for i in self.panel.teachers_of[name]}
            return student, with_sets(outputs, self.class_maps, request.union)
        if index not in self.class_maps or not self.heads[name].by_class:
            return student, teachers[index]
        classes = self.class_maps[index]
        return classes.of_student(student), classes.of_teacher(teachers[index], student)

    def check_heads(self) -> None:
        """Let every head check its teacher before a training; see `check_teacher`."""
        teachers = self.panel.all
        for name, head in self.heads.items():
            cast(DistillationHead, head).check_teacher(teachers[self.teacher_of[name]].adapter)

    def run_student(self, batched_inputs: List[dict]) -> DetectorOutput:
        """The student's losses, zero for unlabelled images, and what the heads read of it.

        Where a teacher assigns the objects, losses and labels are missing until `supervise`.
        """
        images = self.adapter.preprocess(batched_inputs, self.divisor)
        gt = [to_device(x["instances"], self.device) for x in batched_inputs]
        if self._teacher_assigns:
            output = self.adapter(images, None, self.need - STUDENT_ONLY | {"logits"})
            output.gt = gt
            return output
        averages = moving_averages(self.student)
        output = self.adapter(images, gt, self.need)
        return self._counted(batched_inputs, output, averages)

    def supervise(
        self,
        batched_inputs: List[dict],
        student: DetectorOutput,
        teachers: Dict[int, DetectorOutput],
    ) -> None:
        """Fill losses and labels where a teacher assigns the objects; see `run_student`."""
        if not self._teacher_assigns:
            return
        with self.part("d2kd.student"):
            averages = moving_averages(self.student)
            self.adapter.supervise_by(student, student.gt, teachers[0])
            self._counted(batched_inputs, student, averages)

    @property
    def _teacher_assigns(self) -> bool:
        return self.panel.assigns and self.scale > 0

    def _counted(
        self, batched_inputs: List[dict], output: DetectorOutput, averages: Dict[str, Average]
    ) -> DetectorOutput:
        if batched_inputs[0].get("unlabelled", False):
            output.losses = {name: value * 0 for name, value in output.losses.items()}
            undo_normalizer(self.student, averages)
        if "labels" in self.need and hasattr(output, "labels"):
            positives = positives_per_batch(output.labels, self.num_classes)
            output.num_pos = mean_over_ranks(positives).clamp(min=1)
        return output

    def run_teachers(
        self, batched_inputs: List[dict], student: DetectorOutput
    ) -> Dict[int, DetectorOutput]:
        """What the heads read of each teacher, by its index."""
        return self.panel.run(batched_inputs, self.divisor, student)

    def look_ahead(self, batched_inputs: List[dict]) -> None:
        """Tell the teachers of a training batch that is to come; see `AheadTeacher`."""
        self.panel.look_ahead(batched_inputs, self.divisor)

    def __getattr__(self, name: str) -> Any:
        """The student's, if it is not the distiller's: names of its state dict lead to modules."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "student" not in self._modules:
                raise
            return getattr(self._modules["student"], name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The student's state dict, so that every checkpoint is a plain student."""
        return self.student.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a plain student."""
        return self.student.load_state_dict(state_dict, *args, **kwargs)

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> "Distiller":
        for teacher in self.teachers:
            teacher.detector._apply(fn)
        return super()._apply(fn, *args, **kwargs)
