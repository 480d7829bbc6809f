"""What a method's own layers cost, forward and backward, apart from everything else."""

from typing import Callable, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from d2kd import Distiller

Call = Tuple[nn.Module, List[Tensor]]


def own_calls(model: Distiller, name: str, batch: List[dict]) -> List[Call]:
    """The calls of layers in one pass of a head, with their inputs.

    Layers are the head's own modules and, for heads that run them, the teacher's; of modules
    inside each other only the outer one counts.
    """
    student = model.run_student(batch)
    teacher = model.run_teachers(batch, student)[model.teacher_of[name]]
    head, found, depth = model.heads[name], [], []
    roots = [head, model.teachers[model.teacher_of[name]].detector]
    modules = [m for root in roots for m in root.modules() if m is not root]

    def enter(module: nn.Module, inputs: Sequence[object]) -> None:
        if not depth and all(isinstance(x, Tensor) for x in inputs):
            found.append((module, [x.detach().requires_grad_(x.requires_grad) for x in inputs]))
        depth.append(module)

    def leave(*_: object) -> None:
        depth.pop()

    handles = [m.register_forward_pre_hook(enter) for m in modules]
    handles += [m.register_forward_hook(leave) for m in modules]
    head(student, teacher)
    for handle in handles:
        handle.remove()
    return found


def replay(calls: List[Call]) -> Callable[[], None]:
    """Run the calls, forward and backward, with gradients of ones."""

    def run() -> None:
        for module, inputs in calls:
            output = module(*inputs)
            if output.requires_grad:
                output.backward(torch.ones_like(output))

    return run
