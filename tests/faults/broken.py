"""Makers of broken and malicious weights files; each writes `path` from a good file's bytes."""

import functools
import io
import pickle
import random
import zipfile

import numpy as np
import torch
from safetensors.torch import save

from tests.helpers import detector


class Call:
    """Unpickled, it calls a function: what a malicious file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(mark):
    """Payloads that would create the file `mark`."""
    import os
    import subprocess

    write = f"open({str(mark)!r}, 'w').close()"
    inner = io.BytesIO()
    torch.save(Call(os.system, f"touch {mark}"), inner)
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "eval": Call(eval, f"__import__('builtins').{write}"),
        "exec": Call(exec, write),
        "subprocess": Call(subprocess.check_call, ["touch", str(mark)]),
        "torch.load": Call(
            functools.partial(torch.load, weights_only=False), io.BytesIO(inner.getvalue())
        ),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {mark}"))),
        "numpy.load": Call(np.load, str(mark), None, True),
    }


def good(suffix):
    """Bytes of a whole tiny detector in one of the three formats."""
    state = detector(seed=1).state_dict()
    if suffix == "safetensors":
        return save(state)
    buffer = io.BytesIO()
    if suffix == "pkl":
        pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}, buffer)
    else:
        torch.save({"model": state}, buffer)
    return buffer.getvalue()


def truncated(data, seed):
    return data[: random.Random(seed).randrange(1, len(data))]


def flipped(data, seed):
    """One bit in every 4 kB is another."""
    rng, changed = random.Random(seed), bytearray(data)
    for start in range(0, len(data), 4096):
        position = start + rng.randrange(min(4096, len(data) - start))
        changed[position] ^= 1 << rng.randrange(8)
    return bytes(changed)


def rezipped(data, change):
    """A torch archive whose entries went through `change(name, content) -> (name, content)`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return out.getvalue()


def zip_bomb(data):
    """An entry of 1 GB that takes 1 MB in the file."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data/bomb", "w") as entry:
            for _ in range(64):
                entry.write(bytes(2**24))
    return out.getvalue()


def path_traversal(data, target):
    return rezipped(data, lambda name, content: (f"../../..{target}" if name.endswith("/version")
                                                 else name, content))  # fmt: skip
