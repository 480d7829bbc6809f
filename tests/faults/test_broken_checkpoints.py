"""No weights file runs code, and each broken one is refused with one line that says why."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2kd.checkpoint import SafeCheckpointer, load_detector
from d2kd.checkpoint.weights_file import TRUSTED, write_safetensors
from d2kd.convert.reader import read_mmdet
from d2kd.file_io import sha256_of
from tests.faults.broken import (
    flipped,
    gadgets,
    good,
    path_traversal,
    rezipped,
    truncated,
    zip_bomb,
)
from tests.faults.conftest import FULL
from tests.helpers import detector

FORMATS = ("pth", "pkl", "safetensors")
OFFSETS = 40 if FULL else 4


def refused(path, match="", error=ValueError):
    """Loading fails with one line that names the file."""
    with pytest.raises(error, match=match) as info:
        load_detector(detector(), str(path), "KEY")
    assert "\n" not in str(info.value) and str(info.value).startswith(f"KEY: {path}: ")
    return str(info.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_at_any_offset(tmp_path, suffix):
    data, path = good(suffix), tmp_path / f"x.{suffix}"
    for seed in range(OFFSETS):
        path.write_bytes(truncated(data, seed))
        refused(path, "not a readable checkpoint.*truncated")
    path.write_bytes(b"")
    refused(path, "not a readable checkpoint")


@pytest.mark.parametrize("suffix", FORMATS)
def test_flipped_bits_are_seen_or_change_nothing_but_numbers(tmp_path, suffix):
    """A .pth archive has checksums; the other formats do not, which is what pins are for."""
    data, path = good(suffix), tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    pin = f"{path}#sha256={sha256_of(path)}"
    load_detector(detector(), pin, "KEY")
    for seed in range(OFFSETS):
        path.write_bytes(flipped(data, seed))
        if suffix == "pth":
            refused(path)
        with pytest.raises(ValueError, match="another file than the pinned one, or damaged"):
            load_detector(detector(), pin, "KEY")


@pytest.mark.parametrize("suffix", ["pth", "pkl", "old pth"])
@pytest.mark.parametrize("gadget", list(gadgets("")))
def test_no_code_runs(tmp_path, suffix, gadget):
    mark, path = tmp_path / "ran", tmp_path / f"evil.{suffix[-3:]}"
    payload = {"model": {"head.weight": gadgets(mark)[gadget]}}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=suffix == "pth")
    refused(path, "objects other than arrays, which are refused because they can run code")
    with pytest.raises(ValueError):
        read_mmdet(str(path))  # the converter of mmdetection's files
    with pytest.raises(ValueError):
        SafeCheckpointer(detector()).load(str(path))
    assert not mark.exists()


def test_a_trusted_file_may_hold_objects(tmp_path, monkeypatch):
    """The gadgets do work where they are allowed, so the tests above can fail."""
    mark, path = tmp_path / "ran", tmp_path / "mine.pth"
    payload = {"model": detector(seed=1).state_dict(), "args": gadgets(mark)["os.system"]}
    torch.save(payload, path)
    refused(path, TRUSTED)
    assert not mark.exists()
    monkeypatch.setenv(TRUSTED, f"/elsewhere.pth:{path}")
    load_detector(detector(), str(path), "KEY")
    assert mark.exists()


def test_bombs_and_paths_in_archives(tmp_path):
    data, path, target = good("pth"), tmp_path / "x.pth", tmp_path / "out"
    path.write_bytes(zip_bomb(data))
    refused(path, "is compressed, a possible zip bomb")
    path.write_bytes(path_traversal(data, target))
    refused(path, "points out of the archive")
    assert not target.exists()
    bomb = np.lib.stride_tricks.as_strided(np.zeros(1), (10**7,) * 2, (0, 0))
    path = tmp_path / "x.pkl"
    header = pickle.dumps({"model": {"a": np.zeros(1)}})
    path.write_bytes(
        header.replace(b"K\x01\x85", b"J" + (2**31 - 1).to_bytes(4, "little") + b"\x85")
    )
    assert bomb.shape == (10**7, 10**7)
    refused(path)


def test_archives_of_other_things(tmp_path):
    path = tmp_path / "script.pth"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    refused(path)
    path.write_bytes(rezipped(good("pth"), lambda name, x: (name.replace(".pkl", ".txt"), x)))
    refused(path)
    path.write_text("<html>404 not found</html>")
    refused(path)
    path.mkdir if path.unlink() else path.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="KEY"):
        load_detector(detector(), str(path), "KEY")


def test_wrong_contents(tmp_path):
    state, path = detector(seed=1).state_dict(), tmp_path / "x.pth"
    name = "head.cls_score.weight"
    wrong = {
        "complex: head.cls_score.weight": {**state, name: state[name] * 1j},
        "NaN or infinite values: head.cls_score.weight": {**state, name: state[name] * torch.nan},
        r"other things than tensors by name: epoch \(int\)": {**state, "epoch": 3},
        "no dictionary of tensors, but list": list(state.values()),
        "none of its 1 tensors fits the model": {"fc.weight": torch.ones(1)},
        "have another shape": detector(channels=12).state_dict(),
        "tensors are missing": {k: v for k, v in state.items() if "bbox" not in k},
    }  # fmt: skip
    for match, model in wrong.items():
        torch.save({"model": model}, path)
        refused(path, match)
    torch.save({"model": {k: v.double() for k, v in state.items()}}, path)
    load_detector(detector(), str(path), "KEY")


def test_a_pin_that_is_none(tmp_path):
    for pin in ("md5=abc", "sha256=12", ""):
        with pytest.raises(ValueError, match="expected #sha256= and 64 hexadecimal digits"):
            load_detector(detector(), f"{tmp_path}/x.pth#{pin}", "KEY")


def test_safetensors_are_written_for_stock_use(tmp_path):
    source = detector(seed=1)
    write_safetensors(source.state_dict(), tmp_path / "x.safetensors")
    target = detector(seed=2)
    load_detector(target, str(tmp_path / "x.safetensors"), "KEY")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


FULL_DISK = """
import resource, signal, sys
import torch
from d2kd.checkpoint import SafeCheckpointer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model, folder, limit = torch.nn.Linear(512, 512), sys.argv[1], int(sys.argv[2])
checkpointer = SafeCheckpointer(model, folder)
checkpointer.save("good", iteration=3)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    checkpointer.save("bad")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1, 4096, 2**19, 2**20] if FULL else [0, 2**19])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, limit):
    """Files cannot grow over the limit, as if the disk was full there."""
    command = [sys.executable, "-W", "ignore", "-c", FULL_DISK, str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bad.pth could not be written: " in done.stdout, done
    assert f"The last good checkpoint: {tmp_path}/good.pth" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.pth", "last_checkpoint"]
    fresh = torch.nn.Linear(512, 512)
    assert DetectionCheckpointer(fresh, str(tmp_path)).resume_or_load("")["iteration"] == 3


FULL_TMPFS = """
import sys, pathlib
import torch
from d2kd.checkpoint import SafeCheckpointer
folder = pathlib.Path(sys.argv[1])
model = torch.nn.Linear(512, 512)
checkpointer = SafeCheckpointer(model, str(folder))
checkpointer.save("good", iteration=3)
for name in ("bad", "worse"):
    try:
        checkpointer.save(name)
    except OSError as error:
        print(error)
print(sorted(p.name for p in folder.iterdir()))
print(checkpointer.resume_or_load("")["iteration"])
"""


def test_a_full_tmpfs_keeps_the_last_good_checkpoint(tmp_path):
    """A file system of 1.5 MiB in a namespace of its own, where the second MiB does not fit."""
    inside = 'mount -t tmpfs -o size=1536k tmpfs "$1" && exec "$2" -W ignore -c "$3" "$1"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*namespace, "mount -t tmpfs tmpfs /mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    command = [*namespace, inside, "sh", str(tmp_path), sys.executable, FULL_TMPFS]
    done = subprocess.run(command, capture_output=True, text=True)
    for name in ("bad", "worse"):
        assert f"{name}.pth could not be written: 0.0 MB are free there" in done.stdout, done
    assert f"The last good checkpoint: {tmp_path}/good.pth" in done.stdout
    assert done.stdout.endswith("['good.pth', 'last_checkpoint']\n3\n"), done


def test_a_kill_in_a_write_leaves_the_old_file(tmp_path, monkeypatch):
    """What a kill leaves behind is a temporary file, which the next checkpoint overwrites."""
    model = torch.nn.Linear(2, 2)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("x", iteration=1)
    (tmp_path / "x.pth.tmp").write_bytes(b"half")
    (tmp_path / "last_checkpoint.tmp").write_bytes(b"")
    assert checkpointer.resume_or_load("")["iteration"] == 1
    checkpointer.save("x", iteration=2)
    assert checkpointer.resume_or_load("")["iteration"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "x.pth"]


def test_a_folder_that_cannot_be_written(tmp_path):
    """Root may write everywhere, so the folder is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written: .*--resume.*none yet"):
        SafeCheckpointer(torch.nn.Linear(2, 2), str(tmp_path / "file")).save("x")


def test_bytes_of_the_good_files_load(tmp_path):
    for suffix in FORMATS:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(good(suffix))
        load_detector(detector(), str(path), "KEY")
    assert io.BytesIO(good("pth")).read(2) == b"PK"
