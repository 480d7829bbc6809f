"""Makers of small files that claim much, in opcodes of pickle that no library would write."""

import io
import pickle
import struct
import zipfile

import numpy as np
import torch

HUGE = 40 * 10**9
ONE = struct.pack("<f", 1.0)
MAGIC = 0x1950A86A20F9469CFC6C


def text(x):
    return b"X" + struct.pack("<I", len(x.encode())) + x.encode()


def value(x):
    return pickle.dumps(x, 2)[2:-1]


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + value(arguments) + b"R"


def pickled(body):
    return b"\x80\x02" + body + b"."


def model(body):
    """A pickle of {"model": {"w": body}}."""
    return pickled(b"}" + text("model") + b"}" + text("w") + body + b"ss")


def storage(count=1, kind="FloatStorage", legacy=False):
    end = b"NtQ" if legacy else b"tQ"
    kind = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + kind + text("0") + text("cpu") + value(count) + end


def tensor(stored, offset, shape, stride):
    rest = value(offset) + value(shape) + value(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + rest + b"tR"


def archive(pickle_bytes, content=ONE):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickle_bytes)
        file.writestr("archive/data/0", content)
    return out.getvalue()


def legacy(pickle_bytes, count, keys=("0",)):
    head = [pickle.dumps(x, 2) for x in (MAGIC, 1001, {"little_endian": True})]
    end = [pickle.dumps(list(keys), 2), struct.pack("<q", count), ONE]
    return b"".join([*head, pickle_bytes, *end])


def lying_directory():
    """An archive whose directory says that its one number is 160 GB long."""
    data = archive(model(tensor(storage(HUGE), 0, (HUGE,), (1,))))
    at = data.rindex(b"PK\x01\x02")
    size = struct.pack("<I", 2**32 - 2)
    return data[: at + 20] + size + size + data[at + 28 :]


def saved(x, **options):
    out = io.BytesIO()
    torch.save({"model": {"w": x}}, out, **options)
    return out.getvalue()


def wide_key(levels):
    """A tuple of 100 references to a tuple of 100 references to one, and so on."""
    return b"".join(b"0(" + (b"h" + bytes([i])) * 100 + b"tq" + bytes([i + 1])
                    for i in range(levels))  # fmt: skip


def claims():
    """Name of a file to its few bytes: each asks for gigabytes, or for the end of the process."""
    numbers, inside = tensor(storage(HUGE), 0, (HUGE,), (1,)), storage()
    wide = b"}(" + b"".join(text(str(i)) + b"N" for i in range(9999)) + b"uq\x000]("
    long = text("x" * 10**6) + b"q\x000]("
    return {
        "storage.pth": archive(model(numbers)),
        "type.pth": archive(model(tensor(storage(2, "DoubleStorage"), 0, (2,), (1,)))),
        "directory.pth": lying_directory(),
        "expanded.pth": archive(model(tensor(inside, 0, (10**5, 4 * 10**5), (0, 0)))),
        "stride.pth": archive(model(tensor(inside, 0, (10**5,), (1,)))),
        "offset.pth": archive(model(tensor(inside, 10**9, (1,), (1,)))),
        "before.pth": archive(model(tensor(inside, -1, (1,), (1,)))),
        "backwards.pth": archive(model(tensor(inside, 0, (2,), (-1,)))),
        "dimensions.pth": archive(model(tensor(inside, 0, (1,) * 999, (1,) * 999))),
        "call.pth": archive(model(call("torch", "Tensor", 10**5, 10**6))),
        "bytearray.pth": archive(model(call("builtins", "bytearray", 10**12))),
        "legacy.pth": legacy(model(tensor(storage(HUGE, legacy=True), 0, (HUGE,), (1,))), HUGE),
        "short.pth": legacy(model(tensor(storage(3, legacy=True), 0, (1,), (1,))), 3),
        "unfilled.pth": legacy(model(tensor(storage(1, legacy=True), 0, (1,), (1,))), 1, ()),
        "memo.pkl": b"\x80\x02}r\xff\xff\xff\x7f" + model(b"N")[2:],
        "bytes.pkl": b"\x80\x04\x8e" + struct.pack("<Q", 10**14) + b"abc.",
        "mutable_bytes.pkl": b"\x80\x05\x96" + struct.pack("<Q", 10**14) + b"abc.",
        "frame.pkl": b"\x80\x04\x95" + struct.pack("<Q", 10**14) + b"abc.",
        "array.pkl": model(b"cnumpy\nndarray\n(" + value(HUGE) + b"tR"),
        "copies.pth": archive(
            pickled(wide + b"ccollections\nOrderedDict\nh\x00\x85R" * 9999 + b"e")
        ),
        "encoded.pth": archive(
            pickled(long + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 9999 + b"e")
        ),
        "deep.pkl": model(b")" + b"\x85" * 10**6),
        "deep_key.pth": archive(pickled(b"})" + b"\x85" * 10**6 + b"Ns")),
        "wide_key.pth": archive(pickled(b"}(NNNtq\x00" + wide_key(6) + b"Ns")),
        "deep_lists.pkl": pickled(b"]" * 10**5 + b"a" * (10**5 - 1)),
        "deep_dicts.pkl": pickled((b"}" + text("a")) * 10**4 + b"N" + b"s" * 10**4),
        "itself.pkl": pickled(b"}q\x00" + text("model") + b"h\x00s"),
        "state.pth": archive(model(tensor(inside, 0, (1,), (1,)) + b"(NNNNtb")),
        "methods.pth": archive(model(b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb")),
    }  # fmt: skip


def other_types():
    """Name of a file to a tensor or array that is no dense array of numbers."""
    arrays = {
        "objects": np.array([None], dtype=object), "letters": np.array(["a"]),
        "fields": np.zeros(2, dtype=[("a", "f4")]), "masked": np.ma.array([1.0]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    }  # fmt: skip
    tensors = {
        "sparse": torch.eye(2).to_sparse(), "rows": torch.eye(2).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
        "meta": torch.ones(2, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "module": torch.nn.Linear(1, 1), "nothing": None, "list": [torch.ones(1)],
    }  # fmt: skip
    files = {f"{name}.pkl": pickle.dumps({"model": {"w": x}}) for name, x in arrays.items()}
    return {**files, **{f"{name}.pth": saved(x) for name, x in tensors.items()}}
