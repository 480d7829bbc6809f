"""A device that computes on the CPU but keeps its tensors apart, so that mistakes show.

PyTorch lets a back end be written in Python. Tensors of the device "sim" hold a CPU tensor; every
operator unwraps them, runs on the CPU and wraps the result, so numbers are the CPU's. An operator
that meets a tensor of the device and one of the CPU with a dimension or more raises, as a GPU's
would. Operators that make the host wait are counted.
"""

import linecache
import os
import sys
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import detectron2
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import d2kd

NAME = "sim"
DEVICE = torch.device("cpu")  # until it is set up
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim",
           "_unique2", "unique_consecutive", "bincount", "histc", "linalg_inv_ex"}  # fmt: skip
MOVES = {"_to_copy", "copy_", "_copy_from", "to"}
PLACES = tuple(os.path.dirname(x.__file__) + os.sep for x in (d2kd, detectron2))
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # indices may be of the CPU
waits: Counter[str] = Counter()


class Stream:
    """Work in order; what another stream has made may be used once it was waited for."""

    def __init__(self, device=None):
        self.made, self.waited = 0, {}

    def __deepcopy__(self, memo):
        return self

    def wait_stream(self, other):
        self.wait_event(other.record_event())

    def record_event(self):
        return self, self.made

    def wait_event(self, event):
        stream, made = event
        self.waited[stream] = max(made, self.waited.get(stream, 0))


class Streams:
    """The device's: the default one, and the one that work goes to now."""

    default = now = Stream()

    @staticmethod
    @contextmanager
    def use(stream):
        before, Streams.now = Streams.now, stream
        yield
        Streams.now = before


class SimTensor(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, layout=raw.layout, device=DEVICE, requires_grad=False,
            dispatch_sizes_strides_policy="sizes",  # operators in place may change them
        )  # fmt: skip

    def __init__(self, raw):
        self.raw, self.stream, self.recorded = raw, Streams.now, set()
        self.stream.made += 1
        self.place = self.stream.made

    def record_stream(self, stream):
        self.recorded.add(stream)

    def __repr__(self):
        return f"SimTensor({self.raw})"

    def tolist(self):
        waits["_local_scalar_dense: tolist"] += 1
        return self.raw.tolist()

    def __reduce_ex__(self, protocol):
        return self.raw.__reduce_ex__(protocol)

    def __tensor_flatten__(self):
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner, _meta, _size, _stride):
        return SimTensor(inner["raw"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class SimulatedDevice(TorchDispatchMode):
    """Makes factories know the device; see the module."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    """An operator on the CPU, wrapped where it belongs to the device."""
    tensors = [x for x in _leaves([*args, *kwargs.values()]) if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, SimTensor)]
    name = function.__name__.split(".")[0]
    asked = kwargs.get("device")
    if ours and name not in MOVES:
        checked = [args[0], *args[2:3]] if name in INDEXED else tensors
        strangers = [x for x in checked if not isinstance(x, SimTensor) and x.dim() > 0]
        if strangers:
            raise RuntimeError(f"{name}: tensors of sim and of the cpu, {_shapes(tensors)}")
    if ours:
        _count(name, args)
        _check_streams(name, ours)
    here = bool(ours) if asked is None else torch.device(asked).type == NAME
    if name == "_copy_from" or (name == "copy_" and not isinstance(args[0], SimTensor)):
        here = False
    if name in MOVES:
        _count_copy(args, kwargs, here)
    raws = {id(x.raw): x for x in ours}
    args = [_each(_raw, x) for x in args]
    found = function(*args, **{key: _each(_raw, x) for key, x in kwargs.items()})
    if function._schema.is_mutable and isinstance(tensors[0], SimTensor) and "out" not in kwargs:
        return tensors[0] if function._schema.returns else None
    if not here:
        return found
    return _each(lambda x: _wrapped(x, raws), found)


def _leaves(values):
    """Operators' arguments are values or lists of them; PyTorch's pytree takes half of a test."""
    for x in values:
        if isinstance(x, (list, tuple)):
            yield from x
        else:
            yield x


def _each(change, x):
    return type(x)(map(change, x)) if isinstance(x, (list, tuple)) else change(x)


def _check_streams(name, ours):
    """As CUDA would have it: waited for, and, if the default stream frees it, recorded there."""
    for x in ours:
        if x.stream is Streams.now:
            continue
        if x.place > Streams.now.waited.get(x.stream, 0):
            raise RuntimeError(f"{name}: a tensor of a stream that was not waited for")
        if Streams.now is Streams.default and Streams.now not in x.recorded:
            raise RuntimeError(f"{name}: a tensor of another stream that was not recorded on this")


def _raw(x):
    if isinstance(x, SimTensor):
        return x.raw
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x


def _wrapped(x, raws):
    if not isinstance(x, torch.Tensor) or isinstance(x, SimTensor):
        return x
    return raws.get(id(x)) if id(x) in raws else SimTensor(x)


def _shapes(tensors):
    return ", ".join(f"{x.device.type} {tuple(x.shape)}" for x in tensors)


def _count_copy(args, kwargs, here):
    """The host waits for copies between it and the device, unless they are asked not to block."""
    source = args[1] if len(args) > 1 and isinstance(args[1], torch.Tensor) else args[0]
    blocks = not (kwargs.get("non_blocking", False) or (args[2] if len(args) > 2 else False))
    if blocks and isinstance(source, SimTensor) != here:
        waits[f"copy to the {'device' if here else 'host'}: {_line()}"] += 1


def _line():
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(PLACES):
        frame = frame.f_back
    if frame is None:
        return "backward"
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def _count(name, args):
    masked = name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) and \
        any(x is not None and x.dtype == torch.bool for x in args[1])  # fmt: skip
    if name in WAITING or masked:
        waits[f"{name}: {_line()}"] += 1


def missing():
    """Why there is no such device; "" if there is."""
    try:
        from torch.utils import backend_registration
    except ImportError:
        return "this PyTorch has no module for back ends"
    found = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
    return "" if found else "this PyTorch has no back ends in Python"


def set_up():
    """Make the device known.

    Once in a process, before any backward pass: the engine of autograd then has a thread for the
    device. It does not survive the end of the interpreter, so use a process that ends by
    `os._exit`, as those of `tests.ranks` do.
    """
    global DEVICE
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    module = SimpleNamespace(
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
        is_initialized=lambda: True, _is_in_bad_fork=lambda: False, manual_seed_all=lambda _: None,
        synchronize=lambda device=None: None, Stream=Stream, stream=Streams.use,
        current_stream=lambda device=None: Streams.now,
    )  # fmt: skip
    _setup_privateuseone_for_python_backend(NAME, module)
    DEVICE = torch.device(NAME, 0)
    _register_kernels()


def _register_kernels():
    """What PyTorch asks for outside of any mode, such as in the engine of autograd."""

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return SimTensor(torch.empty(size, dtype=dtype, memory_format=memory_format))

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return SimTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        _raw(target).copy_(_raw(source))
        return target

    kernels = {"empty.memory_format": empty, "empty_strided": empty_strided,
               "_copy_from": copy_from}  # fmt: skip
    for name, kernel in kernels.items():
        LIBRARY.impl(name, kernel, "PrivateUse1")


LIBRARY = torch.library.Library("aten", "IMPL")


@contextmanager
def simulated():
    """The device, inside; its waits are counted from 0. `set_up` has been called."""
    waits.clear()
    with SimulatedDevice():
        yield DEVICE
