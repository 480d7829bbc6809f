"""Shared settings: one torch thread, an event storage around each test, real data where present."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils import logger
from detectron2.utils.events import EventStorage
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def untouched_torchscript():
    """A process that has trained nothing: what TorchScript once optimized rounds differently."""
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(autouse=True)
def event_storage():
    """Stock losses write to the current storage."""
    with EventStorage(0) as storage:
        yield storage


@pytest.fixture(autouse=True)
def fresh_logging():
    """A command that a test runs logs to its own folder and output, not to those of the last."""
    loggers = [logging.getLogger(name) for name in ("d2kd", "detectron2", "fvcore")]
    for log in loggers:
        log.propagate = False  # as a run leaves it; caplog follows what does not propagate already
    yield
    for log in loggers:
        log.handlers.clear()
    logger.setup_logger.cache_clear()
    logger._cached_log_stream.cache_clear()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    """The path of a `python` that has imported what d2kd needs, for `sys.executable`."""
    from tests import ranks, warm  # their imports are seconds, which few tests need

    folder = tmp_path_factory.mktemp("warm")
    ready = ranks.CLEAN.Event()
    server = ranks.CLEAN.Process(target=warm.serve, args=(str(folder / "socket"), ready))
    server.start()
    assert ready.wait(60)
    yield warm.write_program(folder)
    server.terminate()


@pytest.fixture
def quick_starts(warm_python, monkeypatch):
    """What starts `sys.executable` waits for no imports."""
    monkeypatch.setattr(sys, "executable", warm_python)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs of Slurm in `tmp_path`, see `tests.slurm`."""
    from tests.slurm import install

    install(tmp_path, monkeypatch)


@pytest.fixture
def data_root() -> Path:
    """Folder with `coco/` and `BCCD/`, from DETECTRON2_DATASETS or beside the repository."""
    for folder in (os.environ.get("DETECTRON2_DATASETS"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "coco" / "annotations").is_dir():
            return Path(folder).resolve()
    pytest.skip("needs real images: set DETECTRON2_DATASETS to a folder with coco/ and BCCD/")


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """12 images of 64 x 64 with one to three bright squares of two classes, in COCO format."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    images, boxes = [], []
    for i in range(12):
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for _ in range(rng.integers(1, 4)):
            x, y, size = (int(v) for v in (*rng.integers(0, 40, 2), rng.integers(12, 24)))
            label = int(rng.integers(0, 2))
            pixels[y : y + size, x : x + size, label] = 250
            box = {"bbox": [x, y, size, size], "area": size * size, "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": label + 1, **box})
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
    names = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    (folder / "squares.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": names})
    )
    return folder
