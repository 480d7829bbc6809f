"""Where the numbers of a step went wrong: the first module and loss, forward and backward."""

import traceback
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from ...engine.capsule.write import origin
from ...engine.steps import MixedStep, Step
from ...text import plain
from .rebuild import Scene
from .watch import Call, Numbers, Watch, numbers_of

_TEACHER = "teacher "


class Loss(NamedTuple):
    """A loss: its value, and the L2 norm of its gradient in all parameters."""

    value: float
    gradient: float


@dataclass
class Backward:
    """Gradients of a module, over all its calls: of its outputs, and of inputs and parameters."""

    name: str
    kind: str
    given: List[Numbers] = field(default_factory=list)
    made: List[Tuple[int, Numbers]] = field(default_factory=list)


class Found(NamedTuple):
    """What one watched step gave.

    `stopped` says where an exception stopped it, "" if none did. Gradients in `backward` are times
    `scale`, which is 1 but in mixed precision.
    """

    calls: List[Call]
    backward: Dict[str, Backward]
    losses: Dict[str, Loss]
    stopped: str
    scale: float


def watch_step(scene: Scene, trainer: Step | MixedStep) -> Found:
    """Run the trainer's step once more, watched; slower, never with the optimizer's turn.

    Gradients are those of the first loss whose gradient is not finite, or of all.
    """
    watch, losses, stopped = Watch(scene.model), {}, ""
    one = torch.ones((), device=next(scene.model.parameters()).device)
    scale = trainer.scaled(one).item()
    scene.reset()
    try:
        with EventStorage(0), watch.watching():
            with trainer.autocast():
                terms = scene.model(scene.batch)
            losses = _look_at(terms, trainer, scale)
            bad = _first_bad_of(losses, _KEYS["Gradients of losses"])
            watch.on = True
            looked_at = [terms[bad]] if bad else terms.values()
            trainer.scaled(torch.stack([x.sum() for x in looked_at]).sum()).backward()
    except Exception as raised:  # noqa: BLE001 - it is what is looked for
        stopped = _place(watch, origin(raised))
    return Found(watch.calls, _by_module(watch), losses, stopped, scale)


def _look_at(terms: Dict[str, Tensor], trainer: Step | MixedStep, scale: float) -> Dict[str, Loss]:
    parameters = [x for x in trainer.model.parameters() if x.requires_grad]
    losses = {}
    for name, x in terms.items():
        found = () if not x.requires_grad else torch.autograd.grad(
            trainer.scaled(x.sum()), parameters, retain_graph=True, allow_unused=True
        )  # fmt: skip
        norms = [g.norm() for g in found if g is not None]
        norm = torch.stack(norms).norm().item() / scale if norms else 0.0
        losses[name] = Loss(x.sum().item(), norm)
    return losses


def _place(watch: Watch, error: BaseException) -> str:
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    where = f"{frame.f_globals.get('__name__')}, line {line}, in {frame.f_code.co_name}"
    if not watch.running:
        return f"in no module, at {where}"
    call = watch.running[-1]
    return f"in {call.name} ({call.kind}), at {where}; its input: {call.given}"


def _by_module(watch: Watch) -> Dict[str, Backward]:
    found: Dict[str, Backward] = {}
    for call in (*watch.calls, *watch.running):
        entry = found.setdefault(call.name, Backward(call.name, call.kind))
        entry.given += call.grad_given
        entry.made += call.grad_made
    return found


def describe(found: Found, scene: Scene) -> Iterator[str]:
    """Lines that name the first module and loss that are not finite, or the largest ones."""
    yield from _inputs(scene)
    yield from _forward(found.calls)
    yield from _losses(found.losses)
    if found.losses:
        if found.scale != 1:
            yield f"Mixed precision: the gradients below are times its scale, {found.scale:g}."
        yield from _backward(found.backward)
    if found.stopped:
        yield f"An exception is raised {plain(found.stopped, 1000)}."


def _inputs(scene: Scene) -> Iterator[str]:
    """Images and parameters that are not finite before anything is computed."""
    for i, record in enumerate(scene.batch):
        name = plain(record.get("file_name", ""))
        if not (numbers := numbers_of([record["image"]])).finite:
            yield f"Image {i} of the batch ({name}) is not finite: {numbers}."
    for name, x in scene.model.named_parameters():
        if not (numbers := numbers_of([x])).finite:
            yield f"The parameter {name} is not finite: {numbers}."


def _forward(calls: List[Call]) -> Iterator[str]:
    done = [call for call in calls if call.made.total]
    bad = next((x for x in done if not x.made.finite), None)
    own = [call for call in done if not call.name.startswith(_TEACHER)]
    if bad is None and own:
        largest = max(own, key=lambda x: x.made.largest)
        yield f"Forward: all modules are finite, the largest output is that of {_called(largest)}."
    elif bad is not None:
        yield f"Forward: the first module that is not finite is {_called(bad)}."
        if not bad.given.finite:
            before = done[done.index(bad) - 1].name if done.index(bad) else "the batch"
            yield f"  Its input is not: it comes from what is computed behind {before}."


def _called(call: Call) -> str:
    return f"{call.name} ({call.kind}): input {call.given}; output {call.made}"


def _losses(losses: Dict[str, Loss]) -> Iterator[str]:
    for what, key in _KEYS.items():
        values = {name: key(x) for name, x in losses.items()}
        if not values:
            continue
        bad = _first_bad_of(losses, key)
        name = bad or max(values, key=lambda name: abs(values[name]))
        kind = "the first that is not finite" if bad else "the largest"
        yield f"{what}: {kind} is {name}, {values[name]:.6g}."
    for name, x in losses.items():
        yield f"  {name} {x.value:.6g}, gradient norm {x.gradient:.6g}"


def _first_bad_of(losses: Dict[str, Loss], key: Callable[[Loss], float]) -> str:
    return next((name for name, x in losses.items() if not abs(key(x)) < float("inf")), "")


_KEYS: Dict[str, Callable[[Loss], float]] = {
    "Losses": lambda x: x.value, "Gradients of losses": lambda x: x.gradient,
}  # fmt: skip


def _backward(modules: Dict[str, Backward]) -> Iterator[str]:
    done = [x for x in modules.values() if x.given and x.made]
    bad = [x for x in done if all(n.finite for n in x.given) and _first_bad(x) is not None]
    late = [x for x in modules.values() if not all(n.finite for n in x.given)]
    if bad:
        first = min(bad, key=lambda x: (_first_bad(x), -len(x.name)))
        yield f"Backward: the first module that is not finite is {_gradients(first)}."
    elif late:
        yield (
            "Backward: the gradient is not finite where it reaches the first module, "
            f"{_gradients(late[-1])}; it comes from the losses."
        )
    elif done:
        largest = max(done, key=lambda x: max(n.largest for _, n in x.made))
        yield f"Backward: all gradients are finite, the largest is of {_gradients(largest)}."


def _first_bad(module: Backward) -> int | None:
    return next((time for time, n in module.made if not n.finite), None)


def _gradients(module: Backward) -> str:
    given, made = _joined(module.given), _joined([n for _, n in module.made])
    kinds = "its output's gradient", "its input's and parameters'"
    return f"{module.name} ({module.kind}): {kinds[0]} {given}; {kinds[1]} {made}"


def _joined(numbers: List[Numbers]) -> Numbers:
    largest = max((x.largest for x in numbers), default=0.0)
    total, nan, infinite = (sum(getattr(x, key) for x in numbers) for key in Numbers._fields[:3])
    return Numbers(total, nan, infinite, largest)
