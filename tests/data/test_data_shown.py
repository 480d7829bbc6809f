"""What `d2kd data` shows of a data set: counts, small boxes, names, pictures."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2kd.data.brief import check_data
from d2kd.data.builtin import register_coco_format
from d2kd.data.class_names import similar
from d2kd.data.class_table import class_table
from d2kd.data.folder import read_dataset_folder
from d2kd.data.image_files import list_images
from tests.data.small_coco import small_coco
from tests.helpers import d2kd


@pytest.fixture
def cells(tmp_path):
    """Three images of 40 x 24 px for train, one of them for val, with boxes of 10 x 8 px."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (40, 24), ("white", "snow", "ivory", "azure")[i]).save(folder / f"{i}.png")
    (folder / "train.json").write_text(json.dumps(small_coco()))
    val = small_coco(1)
    val["images"][0]["file_name"] = "3.png"
    val["annotations"].pop()
    (folder / "val.json").write_text(json.dumps(val))
    return folder


def test_counts_and_smallest_boxes(cells):
    splits = read_dataset_folder(cells)
    assert class_table(splits, None) == [
        {"class": "cell", "train: objects (images)": "3 (3)", "val: objects (images)": "1 (1)"},
        {"class": "debris", "train: objects (images)": "3 (3)", "val: objects (images)": "0 (0)"},
    ]
    rows = class_table(splits, 12)  # half of the images' own size
    assert [rows[0][f"{x} at 12 px"] for x in ("smallest", "10 % below")] == ["4.0 px", "4.0 px"]


def test_the_command_shows_them_and_draws(cells, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    done = d2kd("data", cells, "--size", 12, "--pictures", sheet)
    assert "debris   3 (3)" in done.output and "4.0 px" in done.output
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    assert (pixels.max(2) - pixels.min(2) > 50).sum() > 100  # boxes in colours on white images
    assert list_images(sheet.parent).images == []  # a drawing is no image of a data set
    (cells / "0.png").write_bytes(b"x")  # the first of both classes
    assert d2kd("data", cells, "--pictures", sheet).output.count("wrote ") == 1
    (cells / "4.png").write_bytes((cells / "3.png").read_bytes())
    for name in (cells / "4.png", tmp_path / "a.jpg"):
        done = d2kd("data", cells, "--pictures", name)
        assert done.exit_code == 1 and f"--pictures {name}: name a new .png" in done.output
    assert (cells / "4.png").read_bytes() == (cells / "3.png").read_bytes()


def test_the_command_converts_and_divides(cells, tmp_path):
    (cells / "val.json").unlink()
    done = d2kd("data", cells, "--output", tmp_path / "new", "--val", 0.4, "--seed", 3)
    assert [*read_dataset_folder(tmp_path / "new")] == ["train", "val"], done.output


@pytest.mark.parametrize(("names", "found"), [
    (["car", "bus", "Car", "cars"], ["'car' and 'Car' and 'cars'"]),
    (["traffic light", "traffic_lights"], ["'traffic light' and 'traffic_lights'"]),
    (["boxes", "box"], ["'boxes' and 'box'"]),
    (["glass", "grass", "bus", "person", "people", "car", "cart"], []),
])  # fmt: skip
def test_names_that_may_be_one_class(names, found):
    assert similar(names) == found


def test_the_command_points_them_out(cells):
    data = small_coco()
    data["categories"][1]["name"] = "Cells"
    (cells / "train.json").write_text(json.dumps(data))
    (cells / "val.json").unlink()
    done = d2kd("data", cells)
    assert "1 class names may be the same: 'cell' and 'Cells'" in done.output
    assert done.exit_code == 0


def test_avif_is_skipped_where_pillow_cannot_read_it(tmp_path, monkeypatch):
    for name in ("a.png", "b.avif", "c.heic"):
        (tmp_path / name).touch()
    assert [x.name for x in list_images(tmp_path).images] == ["a.png", "b.avif"]
    monkeypatch.setattr("d2kd.data.image_files.features.check", lambda _: False)
    found, left_out = list_images(tmp_path)
    assert [x.name for x in found] == ["a.png"]
    assert left_out[0].startswith("2 files are of formats that are not read (") and (
        "heif-convert HEIC, Pillow 12 AVIF" in left_out[0]
    )


def test_the_brief_check(cells, monkeypatch):
    names = {"brief_train": "train.json", "brief_val": "val.json", "brief_test": "test.json"}
    test = small_coco(2)
    for a in test["annotations"][2:]:
        a["iscrowd"] = 1
    (cells / "test.json").write_text(json.dumps(test))
    for name, file in names.items():
        register_coco_format(name, str(cells / file), str(cells), "coco")
    DatasetCatalog.register("brief_function", list)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("brief_train",), ("brief_val", "brief_function")
    (cells / "2.png").write_bytes(b"")
    try:
        for name in names:
            DatasetCatalog.get(name)
        assert [*check_data(cfg)] == [
            "Data brief_train: 1 images cannot be read or are cut off: 2.png",
            "Data brief_val: 1 classes have no object: debris",
            "Data brief_function: not checked, for a function gives it",
        ]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("brief_val", "brief_train"), ("brief_test",)
        assert "Data brief_test: 1 images have no object: 1.png" in [*check_data(cfg)]
        copy = "images are in brief_train and in brief_test: "
        assert [x for x in check_data(cfg) if x.startswith("Data: ")] == [
            f"Data: 2 {copy}{cells}/0.png, {cells}/1.png"
        ]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("brief_train",), ("brief_val", "brief_function")
        monkeypatch.setattr("d2kd.data.brief._MOST", 2)
        assert [*check_data(cfg)][:2] == [
            "Data brief_train: no problem found",
            "Data brief_train: images are not opened, for there are many: d2kd data does",
        ]
    finally:
        for name in (*names, "brief_function"):
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
