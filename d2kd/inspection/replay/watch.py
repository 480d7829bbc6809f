"""What every module of a model gets and gives in one step, forward and backward."""

import contextlib
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ...adapters import DetectorOutput
from ...checkpoint.values import tensors_in
from ...engine.blame import tensors_of


class Numbers(NamedTuple):
    """Of some tensors: how many numbers, of which NaN and infinite, and the largest other one."""

    total: int
    nan: int
    infinite: int
    largest: float

    @property
    def finite(self) -> bool:
        """Whether all are."""
        return not (self.nan or self.infinite)

    def __str__(self) -> str:
        kinds = {"NaN": self.nan, "infinite": self.infinite}
        bad = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items() if n)
        return f"{self.total:,} numbers, {bad or 'all finite'}, largest {self.largest:.4g}"


def numbers_of(tensors: Iterable[Tensor]) -> Numbers:
    """Count the numbers of float tensors; whole ones and booleans are left out."""
    total = nan = infinite = 0
    largest = 0.0
    for x in tensors:
        if x.is_floating_point() and x.numel():
            x = x.detach().float()
            good = x[torch.isfinite(x)].abs()
            total, nan = total + x.numel(), nan + int(x.isnan().sum())
            infinite += int(x.isinf().sum())
            largest = max(largest, good.max().item() if len(good) else 0.0)
    return Numbers(total, nan, infinite, largest)


@dataclass
class Call:
    """A call of a module.

    Attributes:
        name: where it is in the model.
        kind: its class.
        given: numbers of its input.
        made: numbers of its output; none before it has one.
        grad_given: of the gradients of its outputs, in the order in which they came.
        grad_made: of the gradients of its inputs and parameters, with the time of each.
    """

    name: str
    kind: str
    given: Numbers
    made: Numbers = Numbers(0, 0, 0, 0.0)
    grad_given: List[Numbers] = field(default_factory=list)
    grad_made: List[Tuple[int, Numbers]] = field(default_factory=list)


class Watch:
    """Watches the modules of a model and of its teachers, by hooks, for a diagnosis alone.

    Attributes:
        calls: all, in the order in which they end.
        running: those that have not ended, the innermost last.
        on: whether gradients are noted.
    """

    def __init__(self, model: nn.Module) -> None:
        """Set what is watched."""
        self.modules = {name: x for name, x in model.named_modules() if name}
        for i, teacher in enumerate(getattr(model, "teachers", [])):
            inside = teacher.detector.named_modules()
            self.modules |= {f"teacher {i}{name and '.'}{name}": x for name, x in inside}
        self.calls: List[Call] = []
        self.running: List[Call] = []
        self.on = False
        self._time = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """The context in which a step runs."""
        handles = []
        for name, module in self.modules.items():
            handles += [
                module.register_forward_pre_hook(self._begin(name, module), with_kwargs=True),
                module.register_forward_hook(self._end),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, name: str, module: nn.Module) -> Any:
        def begin(_: nn.Module, inputs: Any, more: Dict[str, Any]) -> None:
            tensors = list(_flat([inputs, more]))
            call = Call(name, type(module).__name__, numbers_of(tensors))
            self.running.append(call)
            for x in (*tensors, *module.parameters(recurse=False)):
                self._hook(x, lambda n: call.grad_made.append((self._time, n)))

        return begin

    def _end(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        call, tensors = self.running.pop(), list(_flat(output))
        call.made = numbers_of(tensors)
        self.calls.append(call)
        for x in tensors:
            self._hook(x, call.grad_given.append)

    def _hook(self, x: Tensor, note: Any) -> None:
        def look(gradient: Tensor) -> None:
            if self.on:
                self._time += 1
                note(numbers_of([gradient]))

        if x.requires_grad:
            x.register_hook(look)


def _flat(value: Any) -> Iterator[Tensor]:
    """Tensors in nested containers, and in what detectors give to heads."""
    found, items = [], value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if isinstance(item, DetectorOutput):
            yield from (x for _, x in tensors_of(item))
        elif isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            found.append(item)
    yield from (x for _, x in tensors_in(found, ""))
