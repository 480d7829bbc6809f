"""Files of the teacher cache are used only if they are what was stored for that image."""

import errno
import multiprocessing
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from d2kd.teachers import cache as cache_module
from d2kd.teachers import store as store_module
from d2kd.teachers.store import TensorStore
from d2kd.testing import make_batch
from tests.helpers import pair
from tests.teachers.test_cache import cached, hits, losses_of


def zeroed(paths):
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def swapped(paths):
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def changed(change):
    def damage(paths):
        for path in paths:
            save_file(change(load_file(path)), path, {"checksum": "00000000"})

    return damage


def of_another_shape(tensors):
    return {name: x[..., :1].contiguous() for name, x in tensors.items()}


DAMAGES = {
    "zeroed": zeroed,
    "swapped": swapped,
    "missing": changed(lambda x: dict(list(x.items())[1:])),
    "empty": changed(lambda x: {}),
    "renamed": changed(lambda x: {f"{name}/0": value for name, value in x.items()}),
    "shape": changed(of_another_shape),
    "type": changed(lambda x: {name: value.double() for name, value in x.items()}),
    "no checksum": lambda paths: [save_file(load_file(p), p) for p in paths],
    "no file": lambda paths: [(p.unlink(), p.mkdir()) for p in paths],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_again(tmp_path, event_storage, caplog, damage):
    _, model = pair(heads=("PKD",))
    batch = make_batch()
    expected = losses_of(cached(model, tmp_path), batch)
    DAMAGES[damage](sorted(tmp_path.rglob("*.safetensors")))
    model = cached(model, tmp_path)
    assert_close(losses_of(model, batch), expected, rtol=0, atol=0)
    assert hits(event_storage) == 0
    assert event_storage.histories()["teacher_cache/damaged"].latest() == 2
    assert caplog.text.count("does not fit and is computed again") == 1
    if damage != "no file":
        losses_of(model, batch)
        assert hits(event_storage) == 1


def test_files_of_another_format_are_not_read(tmp_path, event_storage, monkeypatch):
    _, model = pair(heads=("PKD",))
    monkeypatch.setattr(cache_module, "_FORMAT", "1")
    losses_of(cached(model, tmp_path), make_batch())
    monkeypatch.undo()
    assert cache_module._FORMAT != "1"
    losses_of(cached(model, tmp_path), make_batch())
    assert hits(event_storage) == 0


def test_what_is_replaced_is_not_counted_twice(tmp_path):
    store, tensors = TensorStore(tmp_path, 10**6), {"x": torch.zeros(1000)}
    for _ in range(3):
        store.write("ab" * 20, tensors)
    assert store.size < 1.1 * TensorStore(tmp_path, 10**6).size


@pytest.mark.parametrize(("number", "full"), [(errno.EACCES, False), (errno.ENOSPC, True)])
def test_files_that_cannot_be_written(tmp_path, caplog, monkeypatch, number, full):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(number, os.strerror(number), str(path))

    store = TensorStore(tmp_path, 10**6)
    monkeypatch.setattr(store_module, "save_file", fail)
    for key in ("ab" * 20, "cd" * 20):
        store.write(key, {"x": torch.zeros(3)})
        assert store.read(key) is None
    assert store.full is full and not list(tmp_path.rglob("*.part")) and store.damaged == 0
    assert len(caplog.records) == 1 and os.strerror(number) in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions(tmp_path, caplog):
    store = TensorStore(tmp_path, 10**6)
    store.write("ab" * 20, {"x": torch.zeros(3)})
    (tmp_path / "ab").chmod(0o500)
    next((tmp_path / "ab").iterdir()).chmod(0)
    assert store.read("ab" * 20) is None
    store.write("ab" * 20, {"x": torch.zeros(3)})
    assert not store.full and len(caplog.records) == 2
    (tmp_path / "ab").chmod(0o700)


def _write_and_read(folder, seed, failures):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    keys = [f"{i:02d}" * 20 for i in range(5)]
    for _ in range(40):
        store = TensorStore(folder, 10**8)
        for i in torch.randperm(5).tolist():
            found = store.read(keys[i])
            if found is not None and not torch.equal(found["x"], torch.full((1000,), float(i))):
                failures.put(i)
            store.write(keys[i], {"x": torch.full((1000,), float(i))})
        if store.damaged or store.full:
            failures.put(-1)


def test_two_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    both = [context.Process(target=_write_and_read, args=(tmp_path, i, failures)) for i in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert failures.empty()
    assert len(list(tmp_path.rglob("*.*"))) == 5


def test_files_that_vanish_while_they_are_counted(tmp_path):
    (tmp_path / "gone.part").symlink_to(tmp_path / "nowhere")
    assert TensorStore(tmp_path, 10**6).size == 0
