"""Json files as labelling tools name and place them: found, or listed with what to write."""

import os

import pytest

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.shortcuts import use_data
from d2kd.data.coco_json import write_coco
from d2kd.data.folder import read_dataset_folder
from d2kd.data.prepare import prepare_folder
from d2kd.data.split_names import split_of
from d2kd.engine.command_line import argument_parser, resolve_config
from d2kd.errors import ConfigError
from tests.helpers import d2kd
from tests.own_sets import coco_image


def add(root, file, images, name="a.png", listed=None):
    """A json file with one image, which it may call by a longer name than its folder has."""
    image = coco_image(root / images, name) | {"file_name": listed or name}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    write_coco(root / file, [image], ["cat"])


@pytest.mark.parametrize(("name", "split"), [
    ("train", "train"), ("instances_Train", "train"), ("TRAIN", "train"), ("train2017", "train"),
    ("train_small", "train"), ("cells_train", "train"), ("trainSet", "train"),
    ("training", "train"), ("Validation", "val"), ("instances_valid", "val"), ("dev", "val"),
    ("cells-val-2", "val"), ("testing", "test"), ("instances_trainval", "trainval"),
    ("train_val", "trainval"), ("training_notes", ""), ("train_test", ""), ("trained", ""),
    ("my_devices", ""), ("labels", ""), ("", ""), ("2017", ""),
])  # fmt: skip
def test_split_names(name, split):
    assert split_of(name) == split


LAYOUTS = {
    "CVAT's subsets": [
        ("train", "annotations/instances_Train.json", "images/Train"),
        ("val", "annotations/instances_Validation.json", "images/Validation"),
    ],
    "FiftyOne's splits": [
        ("train", "train/labels.json", "train/data"),
        ("val", "validation/labels.json", "validation/data"),
    ],
    "json among the images": [
        ("train", "train/images/annotation.json", "train/images"),
        ("val", "valid/images/annotation.json", "valid/images"),
    ],
    "dev": [("train", "train.json", "images"), ("val", "dev.json", "images")],
    "an archive in a folder of its own": [
        ("train", "cells-1/train/_annotations.coco.json", "cells-1/train"),
        ("val", "cells-1/valid/_annotations.coco.json", "cells-1/valid"),
    ],
    "two places": [
        ("train", "annotations/instances_train.json", "images"), ("val", "val.json", "images"),
    ],
    "in upper case": [("train", "TRAIN.JSON", "IMG"), ("test", "TEST.JSON", "IMG")],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_of_labelling_tools(tmp_path, layout):
    for split, file, images in LAYOUTS[layout]:
        add(tmp_path, file, images, f"{split}.png")
    found = read_dataset_folder(tmp_path)
    assert {(split, x.json, x.images) for split, x in found.items()} == {
        (split, tmp_path / file, tmp_path / images) for split, file, images in LAYOUTS[layout]
    }


@pytest.mark.parametrize(("file", "images", "listed", "at"), [
    ("annotations/instances_default.json", "images/default", None, "images/default"),
    ("labels.json", "data", None, "data"),
    ("result.json", "images", "images/a.png", ""),
    ("_annotations.coco.json", ".", None, ""),
    ("annotations/instances_default.json", "images/x/Data", "Data/a.png", "images/x"),
])  # fmt: skip
def test_one_file_without_a_split_is_train(tmp_path, caplog, file, images, listed, at):
    add(tmp_path, file, images, listed=listed)
    found = read_dataset_folder(tmp_path)
    assert list(found) == ["train"] and found["train"].images == tmp_path / at
    assert f"{file} names no split: all of it is train" in caplog.text


def test_trainval_is_train_unless_there_is_one(tmp_path, caplog):
    for name in ("trainval", "test"):
        add(tmp_path, f"instances_{name}.json", "images")
    assert list(read_dataset_folder(tmp_path)) == ["train", "test"]
    assert "instances_trainval.json is taken as train" in caplog.text
    add(tmp_path, "train.json", "images")
    caplog.clear()
    assert read_dataset_folder(tmp_path)["train"].json.name == "train.json"
    assert "1 json files are not read: instances_trainval.json" in caplog.text


def test_companions_of_coco_are_passed_over(tmp_path, caplog):
    for name in ("instances_train2017", "captions_train2017", "image_info_test2017"):
        add(tmp_path, f"annotations/{name}.json", "train2017")
    assert list(read_dataset_folder(tmp_path)) == ["train"] and not caplog.text


def test_same_file_names_in_every_split(tmp_path):
    """Each split gets the images beside it, though the other folder has the same names."""
    for split in ("train", "test"):
        add(tmp_path, f"{split}.json", f"{split}/data")
    found = read_dataset_folder(tmp_path)
    assert [x.images.parent.name for x in found.values()] == ["train", "test"]


def test_files_that_say_nothing_are_listed_with_the_yaml_that_would(tmp_path):
    for name in ("part_a", "part_b"):
        add(tmp_path, f"{name}.json", "pictures")
    with pytest.raises(ConfigError, match="2 json files of COCO, and no name says") as error:
        read_dataset_folder(tmp_path)
    text = str(error.value)
    assert "\n" not in text and "part_a.json, part_b.json" in text
    (tmp_path / "dataset.yaml").write_text(text.split("for example ")[1])
    assert list(read_dataset_folder(tmp_path)) == ["train", "val"]
    assert d2kd("data", tmp_path, "--skip-images").exit_code == 1  # a.png is in both


@pytest.mark.parametrize(("files", "message"), [
    ({"a.json": "{}", "b.jpg": ""}, r"found 1 .json, 1 .jpg. a.json is neither COCO's nor"),
    ({"ann/a.jpg.json": "{}", "ann/b.jpg.json": "{}", "img/a.jpg": "", "img/b.jpg": ""},
     "2 .json in ann, 2 .jpg in img. A json file for each image is no COCO: export as COCO"),
    ({}, "found no file"),
])  # fmt: skip
def test_what_is_not_understood_is_described(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_dataset_folder(tmp_path)


def test_a_link_to_itself_ends(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    add(tmp_path, "train.json", "images")
    assert list(read_dataset_folder(tmp_path)) == ["train"]


def test_a_hint_where_the_image_is_elsewhere(tmp_path):
    add(tmp_path, "train.json", "images", listed="C:\\work\\a.png")
    with pytest.raises(ConfigError, match=r"images/a.png has its name: correct file_name"):
        read_dataset_folder(tmp_path)


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "notes.json")
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "a.xml")
    assert d2kd("data", tmp_path).exit_code == 1


def test_the_option_is_named_where_it_was_given_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells, many = tmp_path / "cells", tmp_path / "many"
    add(cells, "labels.json", "images")
    use_data(get_d2kd_cfg(), cells)
    undivided = "no split 'val' or 'test': nothing to test on until d2kd distill"
    assert undivided in caplog.text and caplog.text.count("nothing to test on") == 1
    assert "no split val or test: nothing to test on" in d2kd("data", cells).output
    caplog.clear()
    with pytest.raises(ConfigError, match="training images are too few"):
        prepare_folder(cells, tmp_path / "cache")  # as d2kd distill does, which divides
    assert "nothing to test on" not in caplog.text
    for name in ("a.json", "b.json"):
        add(many, name, "images")
    for read in (read_dataset_folder, lambda x: prepare_folder(x, tmp_path / "cache")):
        with pytest.raises(ConfigError, match="^(?!.*--data).*no name says which is train"):
            read(many)
    with pytest.raises(ConfigError, match="--data: .*no name says which is train"):
        use_data(get_d2kd_cfg(), many)


def test_an_evaluation_needs_no_split_to_train_on(tmp_path):
    add(tmp_path, "val.json", "images")
    words = ["--data", str(tmp_path), "--config-file", "own/student.yaml"]
    cfg = resolve_config(argument_parser().parse_args([*words, "--eval-only"]))
    assert cfg.DATASETS.TEST == (f"{tmp_path.name}_val",) and cfg.DATASETS.TRAIN == ()
    assert cfg.MODEL.RETINANET.NUM_CLASSES == len(read_dataset_folder(tmp_path)["val"].classes)
    with pytest.raises(ConfigError, match="has no split 'train', only val"):
        resolve_config(argument_parser().parse_args(words))
