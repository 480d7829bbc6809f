"""The step itself, by the code that a training runs."""

from typing import Dict, NamedTuple, Optional

import torch
from detectron2.engine import AMPTrainer
from detectron2.utils.events import EventStorage
from torch import Tensor

from ...engine.builders import Builders
from ...engine.capsule.read import Capsule, naming_damage
from ...engine.capsule.recorder import LastBatch, logged_losses
from ...engine.capsule.write import origin
from ...engine.hooks.gradient_guard import GradientGuard
from ...engine.ranks import step_class, wrap_ddp
from ...engine.steps import MixedStep, Step
from ...evaluation.classes import class_count
from .rebuild import Scene


class Outcome(NamedTuple):
    """How a step ended: what was raised first, the losses that were logged, the gradient norm."""

    error: Optional[BaseException]
    losses: Dict[str, float]
    norm: float


def trainer_of(scene: Scene, capsule: Capsule) -> Step | MixedStep:
    """What runs the step, among its ranks, with the scale and the guard of the run."""
    cfg = scene.cfg
    optimizer = Builders.build_optimizer(cfg, scene.model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # a step that does not fail leaves the weights as they are
    batches = LastBatch([scene.batch], *class_count(scene.model))
    trainer = step_class(cfg)(wrap_ddp(scene.model), batches, optimizer)
    options = cfg.SOLVER.GUARD
    amp = isinstance(trainer, AMPTrainer)
    trainer.guard = GradientGuard(options.NON_FINITE, options.SPIKE, options.ON_SPIKE, amp)
    with naming_damage(capsule.folder):
        norms = capsule.files["state"]["norms"].tolist()
        trainer.guard.load_state_dict({**capsule.record["guard"], "norms": norms})
        if isinstance(trainer, AMPTrainer) and capsule.record["scaler"]:
            trainer.grad_scaler.load_state_dict(capsule.record["scaler"])
    trainer.register_hooks([trainer.guard])
    return trainer


def repeat(scene: Scene, capsule: Capsule) -> Outcome:
    """Run the step up to where it failed."""
    trainer, iteration = trainer_of(scene, capsule), capsule.record["iteration"]
    guard = trainer.guard
    on_gpu = next(scene.model.parameters()).is_cuda
    with EventStorage(iteration), torch.jit.optimized_execution(on_gpu):
        trainer.iter = iteration
        scene.reset()
        error = None
        try:
            trainer.run_step()
            guard.check()
        except Exception as raised:  # noqa: BLE001 - it is what is looked for
            error = origin(raised)
        return Outcome(error, logged_losses(iteration), guard.norm)


def differences(outcome: Outcome, capsule: Capsule) -> list[str]:
    """What is not as in the run, bit by bit; none if the step failed as it did."""
    reason, state = capsule.record["reason"], capsule.files["state"]
    now = outcome.error
    found = []
    if now is None:
        found.append("it does not fail here")
    elif (type(now).__name__, str(now)) != (reason["type"], reason["text"]):
        found.append(f"it fails with another error: {type(now).__name__}: {now}")
    then = {k.removeprefix("loss."): x for k, x in state.items() if k.startswith("loss.")}
    for name, x in {**then, "gradient norm": state["norm"]}.items():
        value = outcome.norm if name == "gradient norm" else outcome.losses.get(name)
        if value is None or not _is_same(x, value):
            found.append(f"{name} was {x.item():.9g} and is {value}")
    return found


def _is_same(then: Tensor, now: float) -> bool:
    return bool(then.item() == now or (then.isnan() and now != now))
