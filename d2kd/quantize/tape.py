"""What a network computes behind its convolutions, recorded in one forward pass."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PADDING = "constant_pad_nd"
_PASSED = ("relu", "relu_", "hardtanh", "hardtanh_", "clamp_min", "clamp_min_", _PADDING)
_CONVOLUTION = "convolution"


@dataclass(eq=False)
class Node:
    """One operator call.

    Attributes:
        name: of the operator, without overload.
        owner: name of the module whose parameters or buffers it reads, "" for none.
        users: calls that read what it gives.
    """

    name: str
    owner: str
    users: List["Node"] = field(default_factory=list)

    @property
    def is_convolution(self) -> bool:
        """Whether it is one with a weight of `owner`, as it is."""
        return self.name == _CONVOLUTION and bool(self.owner)

    @property
    def passes(self) -> bool:
        """ReLU and padding, which integers compute as a part of convolutions."""
        return self.name in _PASSED

    @property
    def pads(self) -> bool:
        """Whether it adds zeros at the sides."""
        return self.name == _PADDING

    @property
    def normalizes(self) -> bool:
        """Batch norm, which is a factor and a bias of each channel."""
        return "batch_norm" in self.name and bool(self.owner)


class Tape(TorchDispatchMode):
    """Records the operators of what is called under it, as `nodes` in their order."""

    def __init__(self, model: nn.Module) -> None:
        """Of a model whose tensors are told by the names of their modules."""
        super().__init__()
        self.nodes: List[Node] = []
        self._owners = {
            id(x): name
            for name, module in model.named_modules()
            for x in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._made: Dict[int, Node] = {}
        self._kept: List[Any] = []  # so that no id is given twice

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict] = None
    ) -> Any:
        """Call the operator, and record it."""
        found = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        own = tensors[1:2] if name == _CONVOLUTION else tensors[1:]
        owner = next((self._owners[id(x)] for x in own if id(x) in self._owners), "")
        node = Node(name, owner)
        for maker in {self._made[id(x)]: None for x in tensors if id(x) in self._made}:
            maker.users.append(node)
        outputs = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        self._made.update((id(x), node) for x in outputs)
        self._kept.append((args, outputs))
        self.nodes.append(node)
        return found

    def read(self, found: Any) -> None:
        """Somebody else reads these tensors too."""
        for x in tree_leaves(found):
            if id(x) in self._made:
                self._made[id(x)].users.append(Node("result", ""))


def record(model: nn.Module, function: Callable[[], Any]) -> List[Node]:
    """The operators that `function` calls of a model, in eval mode and without gradients.

    Tensors that it returns are read by others too.
    """
    training, tape = model.training, Tape(model)
    try:
        model.eval()
        with torch.no_grad(), tape:
            found = function()
    finally:
        model.train(training)
    tape.read(found)
    return tape.nodes
