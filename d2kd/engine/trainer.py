"""The trainer: Detectron2's DefaultTrainer with d2kd's solver, data, checkpoints and hooks."""

import logging
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterable, List, Optional

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import SafeCheckpointer, write_final
from ..config.distils import check_distils
from ..config.naming import naming_keys
from ..config.unread import say_unread_keys
from ..config.validate import check_config
from ..data import build_train_loader
from ..data.ahead import AheadLoader, Batch
from ..distiller import Distiller
from ..evaluation.classes import check_classes, class_count
from ..evaluation.inputs import check_inputs
from ..quantize import beside
from ..solver import group_options, scale_learning_rate, use_options
from .builders import Builders
from .capsule import LastBatch, StepRecorder, kept_checkpoints
from .failures import explained_failures, named_dead_workers
from .hooks.build import adapt_stock_hooks, build_distillation_hooks, build_records, finish_step
from .hooks.exact_resume import ExactResume
from .hooks.gradient_guard import GradientGuard
from .hooks.rounding import Rounding
from .hooks.stop_on_signal import StopOnSignal
from .hooks.weight_average import WeightAverage
from .metrics_file import MetricsFile
from .progress import ProgressPrinter
from .ranks import make_deterministic, step_class, wrap_ddp


class DistillationTrainer(Builders):
    """Trains teachers, plain students and distilled students.

    It differs from `DefaultTrainer` in what it builds, not in how it steps: projections are saved
    under "distillation" beside the plain student, its ranges under "quantization", ranks without a
    GPU use gloo, checkpoints load without running code, and data sets are checked before the first
    iteration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader, scheduler, checkpointer and hooks from a config."""
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        check_config(cfg)
        say_unread_keys(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        make_deterministic(cfg.DETERMINISTIC)
        with naming_keys(cfg, "MODEL or DISTILL"):
            model = self.build_model(cfg)
            if isinstance(model, Distiller):
                check_distils(cfg, {k: x.least_images for k, x in model.heads.items()})
                model.check_heads()
        with naming_keys(cfg, "SOLVER"):
            optimizer = self.build_optimizer(cfg, model)
            if isinstance(model, Distiller):
                scale_learning_rate(optimizer, model.heads.parameters(), cfg.DISTILL.LR_FACTOR)
            self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        with naming_keys(cfg, "DATASETS, DATALOADER or INPUT"):
            data_loader = self._observed(self.build_train_loader(cfg), model)
            check_classes(cfg, model)
            check_inputs(cfg)
        self._trainer = step_class(cfg)(wrap_ddp(model), data_loader, optimizer)
        amp = isinstance(self._trainer, AMPTrainer)
        guard = cfg.SOLVER.GUARD
        self.guard = GradientGuard(guard.NON_FINITE, guard.SPIKE, guard.ON_SPIKE, amp)
        self._recorder = StepRecorder(cfg, model)
        self._trainer.register_hooks([self.guard])
        projections = {"distillation": model.heads} if isinstance(model, Distiller) else {}
        self.checkpointer = SafeCheckpointer(
            self.model,
            cfg.OUTPUT_DIR,
            **beside(model),  # loaded first: hooks read the ranges
            trainer=weakref.proxy(self),
            **projections,
        )
        with naming_keys(cfg, "any section"):
            self.register_hooks(self.build_hooks())

    def _observed(self, loader: Iterable[Batch], model: nn.Module) -> LastBatch:
        """The loader; where DISTILL.TEACHER.AHEAD is set, teachers see its batches in advance."""
        depth = self.cfg.DISTILL.TEACHER.AHEAD
        if depth and isinstance(model, Distiller):
            loader = AheadLoader(loader, model.look_ahead, depth)
        self.batches = LastBatch(loader, *class_count(model))
        return self.batches

    @property
    def distiller(self) -> Optional[Distiller]:
        """The model without its DDP wrapper; None when a plain detector is trained."""
        model = self._unwrapped
        return model if isinstance(model, Distiller) else None

    @property
    def _unwrapped(self) -> nn.Module:
        """The model without its DDP wrapper."""
        model: nn.Module = self.model
        return getattr(model, "module", model)

    @property
    def _evaluated(self) -> nn.Module:
        """The average of the weights where SOLVER.EMA makes one, otherwise the model."""
        return self.model if self.average is None else self.average.detector

    def resume_or_load(self, resume: bool = True, changed: bool = False) -> None:
        """Load the last checkpoint or MODEL.WEIGHTS; a resumed run goes on with the next batch.

        Args:
            resume: whether to go on with the run in OUTPUT_DIR, if it has a checkpoint.
            changed: learning rate, decay and momentum are the config's, not the checkpoint's.
        """
        options = group_options(self.optimizer)
        super().resume_or_load(resume)
        if changed and self.start_iter > 0:
            use_options(self.optimizer, self.scheduler, options)
        if resume and not self.start_iter and comm.is_main_process():
            self.metrics.begin_anew()
        if self.start_iter > 0:
            loader = self._observed(build_train_loader(self.cfg, self.start_iter), self._unwrapped)
            self._trainer.reset_data_loader(lambda: loader)
            for hook in self._hooks:
                if isinstance(hook, PeriodicCheckpointer):
                    folder = Path(self.cfg.OUTPUT_DIR)
                    kept, found = kept_checkpoints(folder), folder.glob("model_[0-9]*.pth")
                    free = [str(x) for x in found if x.resolve() not in kept]
                    hook.recent_checkpoints = sorted(free)
        if self.start_iter == self.max_iter and comm.is_main_process():
            write_final(self.checkpointer)

    def build_writers(self) -> List[EventWriter]:
        """Stock writer of TensorBoard, and a line that groups the losses; see `build_hooks`."""
        methods = self.cfg.DISTILL.HEADS if self.distiller is not None else ()
        progress = ProgressPrinter(self.max_iter, methods)
        Path(self.cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        return [progress, TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def build_hooks(self) -> List[Optional[HookBase]]:
        """Stock hooks, with those that act before a step in front."""
        distiller, cfg = self.distiller, self.cfg
        model = self._unwrapped if distiller is None else distiller.student
        detector = getattr(model, "detector", model)  # whose losses are computed
        solver = cfg.SOLVER
        self.metrics = MetricsFile(Path(cfg.OUTPUT_DIR, "metrics.json"))
        resume = ExactResume(detector, cfg.SEED, solver.CHECKPOINT_PERIOD, self.metrics)
        self.average = WeightAverage(detector, solver.EMA.DECAY) if solver.EMA.DECAY else None
        quantize = cfg.QUANTIZE
        rounding = Rounding(self._evaluated, detector, quantize.START) if quantize.ENABLED else None
        before = [] if distiller is None else build_distillation_hooks(cfg)
        stock = adapt_stock_hooks(super().build_hooks(), cfg, self.evaluate, self.metrics, before)
        records = build_records(cfg, self._evaluated, self._unwrapped)
        teachers = [] if distiller is None else distiller.teachers
        stop = StopOnSignal(resume, lambda: next(filter(None, (t.lost() for t in teachers)), ""))
        return [*before, rounding, resume, self.average, *stock, *records, stop]

    def evaluate(self) -> Dict[str, Any]:
        """The measures of the model as it is, on DATASETS.TEST; empty behind the first rank."""
        results: Dict[str, Any] = self.test(self.cfg, self._evaluated)
        return results if comm.is_main_process() else {}

    def before_train(self) -> None:
        """The hooks' turn; then what a kill may have left undone behind the last checkpoint.

        A checkpoint is written before the evaluation of its step, the best model and the row.
        """
        super().before_train()
        if self.start_iter > 0:
            self.iter = self.storage.iter = self.start_iter - 1
            finish_step(self._hooks)
            self.iter = self.storage.iter = self.start_iter

    def after_train(self) -> None:
        """The hooks' turn; a run that had no step left counts as many as one that had."""
        self.iter = min(self.iter, self.max_iter)
        for teacher in self.distiller.teachers if self.distiller is not None else ():
            teacher.close()
        super().after_train()

    def train(self) -> Optional[Dict[str, Any]]:
        """Train as stock does; on the CPU without TorchScript's profiler.

        It makes the first steps of a process round differently, and stock losses use TorchScript.
        The loader's workers end with the training.
        """
        on_gpu, loader = next(self.model.parameters()).is_cuda, self._trainer.data_loader
        try:
            with torch.jit.optimized_execution(on_gpu), named_dead_workers(self._last_checkpoint):
                return super().train()
        finally:
            self._trainer.reset_data_loader(lambda: loader)

    def after_step(self) -> None:
        """The hooks' turn; see `naming_keys` for what fails in the first steps."""
        with self._naming_keys():
            super().after_step()

    def _naming_keys(self) -> ContextManager[None]:
        first = self.iter - self.start_iter < 2
        return naming_keys(self.cfg, "any section") if first else nullcontext()

    def run_step(self) -> None:
        """One stock step; what stops it is named, see `explained_failures` and `GradientGuard`.

        It can be repeated then, see `StepRecorder`.
        """
        with self._recorder.step(self):
            with self._explained_failures(), self._naming_keys():
                super().run_step()
            self.guard.check()

    def _explained_failures(self) -> ContextManager[None]:
        return explained_failures(self.iter, self._last_checkpoint, self._unwrapped)

    def _last_checkpoint(self) -> str:
        found = bool(self.cfg.OUTPUT_DIR) and self.checkpointer.has_checkpoint()
        return self.checkpointer.get_checkpoint_file() if found else "none yet"
