"""What a config or a run's folder may name as weights, and where a download lies."""

import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from torch import nn

from d2kd.backbones.extractor import load_weights
from d2kd.checkpoint import SafeCheckpointer, address, load_detector
from d2kd.checkpoint.address import local_file
from d2kd.errors import ConfigError, MissingFileError
from tests.helpers import detector

REFUSED = ["https://example.org/../../../.venv/x.pth", "https://example.org/a/../x.pth",
           "https://example.org/a//x.pth", "https://example.org/", "https://example.org/..",
           "https:///x.pth", "https://user:word@example.org/x.pth", "https://a\\b/x.pth",
           "https://example.org/a\\..\\x.pth", "https://example.org/.../x.pth",
           "detectron2://../../x.pth", "detectron2://a/../../x.pth", "catalog://../x.pth",
           "ftp://example.org/x.pth", "file:///etc/passwd", "manifold://x.pth", "s3://a/x.pth",
           "HTTPS://example.org/x.pth", "x://"]  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "deep" / "er" / "cache"))
    return tmp_path / "deep" / "er" / "cache"


@pytest.fixture
def server(tmp_path):
    """A host with one checkpoint; gives its port."""
    (tmp_path / "www" / "zoo").mkdir(parents=True)
    torch.save({"model": detector(seed=1).state_dict()}, tmp_path / "www" / "zoo" / "x.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with HTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield host.server_port
        host.shutdown()


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_none_or_lead_out_of_the_cache(address, cache):
    with pytest.raises(ConfigError, match="KEY: .*(no address of a file|give a path)"):
        load_detector(detector(), address, "KEY")
    assert not cache.parent.exists() or [x.name for x in cache.parent.iterdir()] == ["cache"]


def test_hosts_do_not_provide_the_files_of_others(server, cache):
    found = [local_file(f"http://{host}:{server}/zoo/x.pth") for host in ("127.0.0.1", "localhost")]
    assert found == [str(cache / "hosts" / f"{host}:{server}" / "zoo" / "x.pth")
                     for host in ("127.0.0.1", "localhost")]  # fmt: skip
    load_detector(detector(), f"http://127.0.0.1:{server}/zoo/x.pth", "KEY")
    with pytest.raises(
        MissingFileError, match="KEY: http://.* cannot be downloaded: .*404"
    ) as said:
        load_detector(detector(), f"http://127.0.0.1:{server}/zoo/y.pth", "KEY")
    place = Path(str(said.value).rpartition("put it to ")[2].rstrip("."))
    torch.save({"model": detector().state_dict()}, place)
    load_detector(detector(), f"http://127.0.0.1:{server}/zoo/y.pth", "KEY")


def test_trunks_are_not_downloaded(server):
    with pytest.raises(ConfigError, match="MODEL.TIMM.CHECKPOINT: .* is not downloaded"):
        load_weights(nn.Linear(1, 1), f"http://127.0.0.1:{server}/zoo/x.pth")


def test_files_of_a_clone_are_found_from_everywhere_and_those_here_first(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "CONFIGS", tmp_path / "clone" / "configs")
    monkeypatch.chdir(tmp_path)
    name, clone = "datasets/weights/x.pth", tmp_path / "clone" / "datasets" / "weights" / "x.pth"
    assert local_file(name) == name
    clone.parent.mkdir(parents=True)
    clone.touch()
    assert local_file(name) == str(clone)
    assert local_file("configs/../datasets/weights/x.pth").startswith("configs")
    (tmp_path / "datasets" / "weights").mkdir(parents=True)
    (tmp_path / name).touch()
    assert local_file(name) == name


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/x.pth", "https://example.org/x.pth",
                                  "sub/x.pth", "..", "", "x.pth/../../y.pth"])  # fmt: skip
def test_last_checkpoint_names_a_file_of_its_folder(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path(".")):
        (folder / "last_checkpoint").write_text(name)
        with pytest.raises(ConfigError, match="last_checkpoint names .* no file of that folder"):
            SafeCheckpointer(nn.Linear(1, 1), str(folder)).resume_or_load("")


def test_last_checkpoint_in_any_spelling_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for folder in ("run", "run/", "./run", str(tmp_path / "run"), "run/../run"):
        checkpointer = SafeCheckpointer(nn.Linear(1, 1), folder)
        checkpointer.save("x", iteration=3)
        assert checkpointer.resume_or_load("")["iteration"] == 3
    monkeypatch.chdir("run")
    assert SafeCheckpointer(nn.Linear(1, 1), "").resume_or_load("")["iteration"] == 3
