"""Unpickling what files of weights hold: containers, numbers, text, arrays and tensors.

Nothing that a file names is imported or called; see `stand_ins`. A file cannot make it allocate
more than a few times the file's own size, whatever it claims: this is Python's unpickler written in
Python, whose memo is a dictionary.
"""

import pickle
import struct
from collections import OrderedDict
from typing import Any, Callable, ClassVar, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from .stand_ins import Array, Dtype, Inert, numpy_names, python_names, torch_names

Fetch = Callable[[str, torch.dtype, int], Tensor]
"""From a storage's key, type and number of elements to that storage, as a tensor (elements,)."""

_BUILD: Any = pickle._Unpickler.dispatch[pickle.BUILD[0]]
_LARGEST = 10_000  # items of tuples in tuples, which Python hashes anew at each use


class DataUnpickler(pickle._Unpickler):
    """Reads one pickle."""

    dispatch: ClassVar[Dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: List[Any]
    read: Callable[[int], bytes]

    def __init__(
        self, file: Any, size: int, fetch: Optional[Fetch] = None, inert: bool = False
    ) -> None:
        """Prepare to read.

        Args:
            file: as for `pickle.Unpickler`; its `read` gives at most what is left.
            size: bytes of the whole file, the measure of what it may ask for.
            fetch: the storage of a key; None in files that have none.
            inert: other objects, also NumPy's, become an `Inert` rather than an error.
        """
        super().__init__(file, encoding="latin1")
        self._left, self._fetch, self._inert = 8 * size + 2**20, fetch, inert
        self._sizes: Dict[int, Tuple[Any, int]] = {}  # of tuples of tuples, which it keeps alive
        self._names = {**python_names(self._spend), **torch_names(self._spend, size)}
        if not inert:
            self._names |= numpy_names()

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name: a function, a type of numbers, or an `Inert`."""
        known = self._names.get((module.replace("__builtin__", "builtins"), name))
        if known is not None:
            return known
        if self._inert:
            return Inert
        if name.startswith("_rebuild_") or name.endswith("Storage"):
            raise pickle.UnpicklingError(
                f"it holds tensors of another kind than dense ones ({module}.{name})"
            )
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a tensor lies in."""
        kind, dtype, key, _, count, *view = pid
        plain = kind == "storage" and isinstance(dtype, torch.dtype) and not any(view)
        if not plain or self._fetch is None:
            raise pickle.UnpicklingError("it refers to numbers of another kind, or outside of it")
        return self._fetch(key, dtype, count)

    def _spend(self, value: Any, nbytes: int) -> Any:
        self._left -= nbytes
        if self._left < 0:
            raise pickle.UnpicklingError("it asks for many times the memory of its own size")
        return value

    def load_build(self) -> None:
        """Set the state of what has one; of a dictionary, only the versions of its modules."""
        state, target = self.stack[-1], self.stack[-2]
        if isinstance(target, OrderedDict):
            self.stack.pop()
            target.__dict__.update({k: v for k, v in state.items() if k == "_metadata"})
        elif isinstance(target, (Array, Dtype, Inert)):
            self._spend(None, len(state[-1]) if isinstance(target, Array) else 0)
            _BUILD(self)
        else:
            raise pickle.UnpicklingError(f"it sets the state of a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        """Read what is there, before so much is allocated."""
        (count,) = struct.unpack("<Q", self.read(8))
        self.stack.append(bytearray(self.read(count)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def check_size(self) -> None:
        """Refuse the tuple that was just made if it holds too many items, and theirs in turn."""
        made = self.stack[-1]
        inner = [self._sizes.get(id(x), (x, len(x)))[1] for x in made if type(x) is tuple]
        if inner:
            self._sizes[id(made)] = made, len(made) + sum(inner)
            if len(made) + sum(inner) > _LARGEST:
                raise pickle.UnpicklingError("it nests too many tuples in each other")


def _checked(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def load_checked(unpickler: DataUnpickler) -> None:
        load(unpickler)
        unpickler.check_size()

    return load_checked


for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    DataUnpickler.dispatch[_code[0]] = _checked(DataUnpickler.dispatch[_code[0]])
