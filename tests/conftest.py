"""Shared settings: one torch thread, an event storage around each test, real data where present."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def event_storage():
    """Stock losses write to the current storage."""
    with EventStorage(0) as storage:
        yield storage


@pytest.fixture
def data_root() -> Path:
    """Folder with `coco/` and `BCCD/`, from DETECTRON2_DATASETS or beside the repository."""
    for folder in (os.environ.get("DETECTRON2_DATASETS"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "coco" / "annotations").is_dir():
            return Path(folder).resolve()
    pytest.skip("needs real images: set DETECTRON2_DATASETS to a folder with coco/ and BCCD/")
