"""What claims to be weights: sizes before memory is asked for, types, numbers, names."""

import io
import math
import pickle
import random
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from d2kd.checkpoint import SafeCheckpointer, convert_weights, load_detector, read_weights
from d2kd.checkpoint.torch_file import read_torch
from d2kd.errors import ConfigError
from tests.faults.broken import good
from tests.faults.conftest import FULL
from tests.faults.hostile import archive, claims, model, other_types, saved, storage, tensor
from tests.helpers import clone, d2kd, detector

READ = """
import resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from torch import nn
from d2kd.checkpoint import SafeCheckpointer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        SafeCheckpointer(nn.Linear(1, 1)).load(str(path))
        print(path.name, "loaded")
    except ValueError as error:
        print(path.name, "refused", repr(str(error)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_small_files_do_not_ask_for_much_memory(tmp_path):
    """In a process of its own, where a crash would be seen."""
    files = claims()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 2**21
    command = [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, kilobytes = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(files)
    for line in lines:
        assert line.split()[1] == "refused" and f"{tmp_path}/" in line and "\\n" not in line, line
    assert int(kilobytes) < 200_000, kilobytes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(other_types()))
def test_types_that_are_no_dense_numbers(tmp_path, monkeypatch, name):
    """Refused by the reader; and by the gate behind it, where a file is trusted."""
    path = tmp_path / name
    path.write_bytes(other_types()[name])
    for trusted in ("", str(path)):
        monkeypatch.setenv("D2KD_TRUSTED_FILES", trusted)
        with pytest.raises(ConfigError, match=f"KEY: {path}: ") as info:
            load_detector(detector(), str(path), "KEY")
        assert "\n" not in str(info.value)
    assert "other things than tensors by name: w (" in str(info.value) or "complex" in str(
        info.value
    )


@pytest.mark.parametrize("seed", range(3000 if FULL else 60))
def test_mutated_pickles(tmp_path, seed):
    """Any bytes give data or one error; pickles are where a parser acts on what it reads."""
    rng = random.Random(seed)
    bodies = [pickle.dumps({"model": {"w": np.ones(3)}}, rng.choice([2, 4, 5])),
              model(tensor(storage(), 0, (1,), (1,)))]  # fmt: skip
    data = bytearray(rng.choice(bodies))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(2, len(data))] = rng.randrange(256)
    path = tmp_path / "x.pth"
    path.write_bytes(rng.choice([archive, bytes])(bytes(data)))
    try:
        SafeCheckpointer(detector()).load(str(path))
    except ConfigError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        pytest.fail("one array fits no detector")


def test_what_torch_reads_beside_the_weights(tmp_path):
    side = [bytearray(b"a\xff"), bytearray(), 1 + 2j, torch.strided]
    for protocol in (2, 4):
        torch.save({"model": {}, "side": side}, tmp_path / "x.pth", pickle_protocol=protocol)
        assert read_torch(str(tmp_path / "x.pth"))["side"] == side


def test_a_full_gpu_is_no_damage(tmp_path):
    class Full(torch.nn.Linear):
        def load_state_dict(self, *args, **options):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    model = Full(1, 1)
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(torch.OutOfMemoryError):
        SafeCheckpointer(model).load(str(tmp_path / "x.pth"))


WRONG = {
    "zeros": (torch.zeros_like, "nothing but zeros.*head.cls_score.weight"),
    "tiny": (lambda x: torch.full_like(x, 1e-300, dtype=torch.float64), "nothing but zeros"),
    "bytes": (lambda x: x.to(torch.int8), "whole numbers where a detector has fractions"),
    "integers": (lambda x: (100 * x).long(), "whole numbers where a detector has fractions"),
    "overflow": (lambda x: x.double() * 1e300, "infinite values in float32: .*head.cls_score.weig"),
    "infinite": (lambda x: x / 0, "NaN or infinite values: .*head.cls_score.weight"),
}


@pytest.mark.parametrize("case", list(WRONG))
@pytest.mark.parametrize("prefix", ["", "module."])
def test_numbers_that_no_detector_has(tmp_path, case, prefix):
    change, match = WRONG[case]
    state = detector(seed=1).state_dict()
    state["head.cls_score.weight"] = change(state["head.cls_score.weight"])
    torch.save({"model": {prefix + k: v for k, v in state.items()}}, tmp_path / "x.pth")
    model = detector()
    before = clone(model.state_dict())
    for load in (lambda path: load_detector(model, path, "KEY"), SafeCheckpointer(model).load):
        with pytest.raises(ConfigError, match=f"x.pth: tensors .*{match}"):
            load(str(tmp_path / "x.pth"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_zeros_that_are_meant(tmp_path):
    """A bias, a scale of a norm, and what a new detector has at zero."""
    model = detector("GFL", 32, MODEL__GFL__NORM="GN")
    torch.nn.init.zeros_(model.head.bbox_pred.weight)
    state = clone(model.state_dict())
    for name in state:
        if name.endswith(("bias", "subnet.1.weight")):
            state[name] = torch.zeros_like(state[name])
    torch.save({"model": state}, tmp_path / "x.pth")
    load_detector(model, str(tmp_path / "x.pth"), "KEY")


def test_a_variance_below_zero(tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    for variance, match in (
        (-torch.ones(2), "variances below zero"),
        (torch.zeros(2), "but zeros"),
    ):
        state = {**model.state_dict(), "0.running_var": variance}
        torch.save({"model": state}, tmp_path / "x.pth")
        with pytest.raises(ConfigError, match=f"{match}.*0.running_var"):
            SafeCheckpointer(model).load(str(tmp_path / "x.pth"))


def test_half_precision_that_overflows(tmp_path):
    torch.save({"model": {"a": torch.ones(2), "b": torch.full((2,), 1e5)}}, tmp_path / "x.pth")
    target = tmp_path / "x.safetensors"
    convert_weights(str(tmp_path / "x.pth"), target)
    target.unlink()
    with pytest.raises(ConfigError, match="x.pth: tensors with infinite values in float16: b;"):
        convert_weights(str(tmp_path / "x.pth"), target, half=True)
    assert not target.exists()


def test_weights_with_names_of_another_toolbox_are_not_converted(tmp_path):
    """Nothing in a .safetensors says that they are to be matched."""
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"conv1_w": np.ones(3)}))
    done = d2kd("convert", "weights", tmp_path / "R-50.pkl", tmp_path / "x.safetensors")
    assert done.exit_code == 1 and "names of Caffe2 or pycls" in done.output
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("files", ["weights {}.pth {}.safetensors", "mmdet {}.pth ."])
def test_nothing_is_converted_over_a_file(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}}, "x.pth")
    Path("x.safetensors").write_text("mine")
    command = ["convert", *files.format("x", "x").split()]
    done = d2kd(*command)
    assert done.exit_code == 1 and re.search(r"x\.\w+ exists: name another, or", done.output)
    assert Path("x.safetensors").read_text() == "mine"
    assert "exists" not in d2kd(*command, "--overwrite").output


def test_what_a_new_model_has_too(tmp_path):
    """Masks of attention: booleans, and infinite values, which are no damage where they stand."""
    model = detector()
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("bias", torch.tensor([0.0, -math.inf]))
    SafeCheckpointer(model, str(tmp_path)).save("x")
    path, state = str(tmp_path / "x.pth"), model.state_dict()
    load_detector(model, path, "KEY")
    for name, x in (("bias", -state["bias"]), ("bias", state["mask"]),
                    ("head.cls_score.bias", state["head.cls_score.bias"] > 0)):  # fmt: skip
        torch.save({"model": {**state, name: x}}, path)
        with pytest.raises(ConfigError, match=rf"x.pth: tensors .*{name}"):
            load_detector(model, path, "KEY")


OTHERS = {
    "a web page": b"\n <!DOCTYPE html><html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
    "is empty": b"",
    "is compressed": b"\x1f\x8b\x08abc",
    "a tar archive": b"a" * 257 + b"ustar\0" + b"\0" * 300,
    "an ONNX graph": b"\x08\x08\x12\x07pytorch\x1a\x052.5.0:\x98\x01",
    "a JSON text": b'{"model": {}}',
    "an array of NumPy": b"\x93NUMPY\x01\x00v\x00",
    "neither a zip archive nor a pickle": b"hello",
    "its end is missing": archive(b"")[:40],
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_other_files_are_named(tmp_path, what):
    path = tmp_path / "x.pth"
    path.write_bytes(OTHERS[what])
    out = str(tmp_path / "x.safetensors")
    for command in (("weights", path, out), ("mmdet", path, tmp_path / "out")):
        done = d2kd("convert", *command)
        assert done.exit_code == 1 and f"{path} is not a readable checkpoint: it" in done.output
        assert what in done.output and "Traceback" not in done.output


@pytest.mark.filterwarnings("ignore")
def test_programs_are_named(tmp_path):
    path, layer = tmp_path / "x.pth", torch.nn.Linear(2, 2)
    torch.jit.script(layer).save(str(path))
    with pytest.raises(ConfigError, match="it is a TorchScript program"):
        read_weights(str(path))
    torch.export.save(torch.export.export(layer, (torch.ones(1, 2),)), str(path))
    with pytest.raises(ConfigError, match=r"a program of torch.export: .* give the checkpoint"):
        read_weights(str(path))
    with pytest.raises(ConfigError, match="it is a folder"):
        read_weights(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is a folder"):
        SafeCheckpointer(layer).load(str(tmp_path))


def test_a_state_dict_of_another_toolbox(tmp_path):
    torch.save({"meta": {}, "state_dict": detector().state_dict()}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"under state_dict.*`d2kd convert mmdet FILE FOLDER`"):
        SafeCheckpointer(detector()).load(str(tmp_path / "x.pth"))


def test_names_are_fit_for_a_terminal(tmp_path, caplog):
    state = detector(seed=1).state_dict()
    names = ["", "a..b", ".", "x" * 10**6, "\udcff", "\x1b[31mred\n", *map(str, range(300))]
    torch.save({"model": {**state, **{k: torch.ones(1) for k in names}}}, tmp_path / "x.pth")
    SafeCheckpointer(detector()).load(str(tmp_path / "x.pth"))
    assert r"\udcff" in caplog.text and r"\x1b[31mred\n" in caplog.text and "more)" in caplog.text
    assert "\udcff" not in caplog.text and "\x1b[31mred" not in caplog.text
    assert len(caplog.text) < 10_000
    for name in (*names[3:6], 3, None, ("a",)):
        torch.save({"model": {**state, name: 1}}, tmp_path / "x.pth")
        with pytest.raises(ConfigError, match="other things than tensors by name") as info:
            SafeCheckpointer(detector()).load(str(tmp_path / "x.pth"))
        assert len(str(info.value)) < 500 and str(info.value).isprintable()


def test_what_is_read_is_what_was_saved(tmp_path):
    """Tied tensors stay tied, slices stay slices; types, order of memory and versions are kept."""
    whole = torch.arange(24.0).reshape(2, 3, 4)
    content = OrderedDict(
        a=whole, b=whole, c=whole[1, 1:, ::2], d=whole.transpose(0, 2), e=torch.empty(0, 3),
        f=torch.tensor(3), g=torch.nn.Parameter(torch.ones(2)), h=torch.ones(2).bfloat16(),
        i=torch.ones(3).to(torch.float8_e4m3fn), j=torch.ones(2, dtype=torch.bool),
        k=[(1, 2.5, "x", b"y", None, True, 2**70)], l={1: {2}}, m=torch.ones(1).expand(2),
    )  # fmt: skip
    content._metadata = OrderedDict({"": {"version": 2}})
    for new in (True, False):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        found = read_torch(str(tmp_path / "x.pth"))
        assert list(found) == list(content) and found._metadata == content._metadata
        for name, value in content.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name].double(), value.double())
                assert found[name].dtype == value.dtype and found[name].stride() == value.stride()
            else:
                assert found[name] == value
        assert found["a"].data_ptr() == found["b"].data_ptr()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_protocol_and_order_of_bytes(tmp_path, protocol):
    state = detector(seed=1).state_dict()
    arrays = {k: np.asfortranarray(v.numpy()) for k, v in state.items()}
    arrays["head.bbox_pred.bias"] = arrays["head.bbox_pred.bias"].astype(">f8")
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "best": np.float64(3)}, protocol))
    assert read_weights(str(path))["best"] == 3
    model = detector()
    load_detector(model, str(path), "KEY")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_content_decides_on_the_format(tmp_path):
    state = detector(seed=1).state_dict()
    files = {"a.pth": save(state), "b.safetensors": good("pth"), "c.pt": good("pth"),
             "d.ckpt": good("pkl"), "e.pkl": good("pth")}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        model = detector()
        load_detector(model, str(tmp_path / name), "KEY")
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), name


def test_one_name_for_two_entries(tmp_path):
    out = io.BytesIO(saved(torch.ones(2)))
    with zipfile.ZipFile(out, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", b"")
    (tmp_path / "x.pth").write_bytes(out.getvalue())
    with pytest.raises(ConfigError, match="several of its entries have one name"):
        read_weights(str(tmp_path / "x.pth"))
