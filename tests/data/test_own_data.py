"""Data of one's own: folders found by layout, and what is said about the others."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2kd.data.coco_json import write_coco
from d2kd.data.folder import read_dataset_folder, write_index
from d2kd.data.problems import find_problems
from d2kd.data.yolo import image_root, yolo_to_coco
from d2kd.errors import ConfigError
from tests.faults.conftest import FULL
from tests.helpers import d2kd
from tests.own_sets import coco_image, yolo_set


def test_convert_then_use(tmp_path):
    done = d2kd("convert", "yolo", yolo_set(tmp_path / "set"), tmp_path / "coco")
    assert done.exit_code == 0 and "1 images, 1 boxes (1 cat, 0 dog)" in done.output, done.output
    splits = read_dataset_folder(tmp_path / "coco")
    assert list(splits) == ["train", "val"] and splits["train"].classes == ["cat", "dog"]
    assert (splits["train"].images / "images/train/a.png").is_file()
    assert image_root(tmp_path / "set" / "data.yaml") == tmp_path / "set"
    assert find_problems(splits["train"]) == ["1 classes have no object: dog"]


@pytest.mark.parametrize(("file", "images"), [
    ("annotations/instances_train2017.json", "train2017"),
    ("annotations/instances_train.json", "images"),
    ("annotations/instances_train.json", "JPEGImages"),
    ("train.json", "train"),
    ("train.json", "images/train"),
    ("train.json", "images"),
    ("train.json", "."),
    ("train/_annotations.coco.json", "train"),
])  # fmt: skip
def test_layouts(tmp_path, file, images):
    image = coco_image(tmp_path / images)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    write_coco(tmp_path / file, [image], ["cat"])
    found = read_dataset_folder(tmp_path)
    assert list(found) == ["train"] and found["train"].json == tmp_path / file
    assert found["train"].images.resolve() == (tmp_path / images).resolve()


def test_valid_is_val_and_other_files_are_none(tmp_path):
    image = coco_image(tmp_path / "valid")
    write_coco(tmp_path / "valid" / "_annotations.coco.json", [image], ["cat"])
    write_coco(tmp_path / "training_notes.json", [image], ["cat"])
    assert list(read_dataset_folder(tmp_path)) == ["val"]


@pytest.mark.parametrize("place", ["cells/images", "elsewhere"])
def test_absolute_file_names(tmp_path, monkeypatch, place):
    """With a relative folder, as it is typed; the folder that is named is the one that is used."""
    image = coco_image(tmp_path / place)
    image["file_name"] = str(tmp_path / place / "a.png")
    (tmp_path / "cells").mkdir(exist_ok=True)
    write_coco(tmp_path / "cells" / "train.json", [image], ["cat"])
    monkeypatch.chdir(tmp_path)
    split = read_dataset_folder(Path("cells"))["train"]
    assert split.images == tmp_path / place and find_problems(split) == []


def test_first_images_missing(tmp_path):
    """The image folder is found by the images that exist; the check lists the others."""
    images = [coco_image(tmp_path / "images", name) for name in ("a.png", "b.png")]
    write_coco(tmp_path / "train.json", images, ["cat"])
    (tmp_path / "images" / "a.png").unlink()
    assert find_problems(read_dataset_folder(tmp_path)["train"]) == ["1 images do not exist: a.png"]
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(ConfigError, match="names the image 'a.png', which is in none of"):
        read_dataset_folder(tmp_path)


def test_two_files_for_a_split(tmp_path):
    image = coco_image(tmp_path / "images")
    for name in ("train_small", "train_2017"):
        write_coco(tmp_path / f"{name}.json", [image], ["cat"])
    with pytest.raises(
        ConfigError, match=r"train_2017.json and train_small.json may both be train"
    ):
        read_dataset_folder(tmp_path)
    (tmp_path / "dataset.yaml").write_text("train: {json: train_small.json, images: images}")
    assert read_dataset_folder(tmp_path)["train"].json.name == "train_small.json"
    assert read_dataset_folder(tmp_path / "dataset.yaml")["train"].classes == ["cat"]
    (tmp_path / "dataset.yaml").unlink()
    write_coco(tmp_path / "train.json", [image], ["cat"])
    assert read_dataset_folder(tmp_path)["train"].json.name == "train.json"


def said(folder):
    with pytest.raises(ConfigError) as error:
        read_dataset_folder(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["data.yaml", "coco8.yaml", "dataset.yaml"])
def test_command_for_yolo(tmp_path, name):
    path = yolo_set(tmp_path / "my cells")
    path = path.rename(path.with_name(name))
    for source in (path, path.parent):
        assert f"d2kd convert yolo '{path}' 'my cells_coco', and give" in said(source)
    assert yolo_to_coco(path.parent, tmp_path / "out").keys() == {"train", "val"}
    path.unlink()
    assert "has no data.yaml. Write one, for example {train: images/train, val: " in said(
        path.parent
    )


def test_command_for_voc(tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2007" / "Annotations").mkdir(parents=True)
    for folder in (tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2007"):
        command = f"d2kd convert voc {tmp_path}/VOCdevkit/VOC2007 VOC2007_coco, and give --data"
        assert command in said(folder)
    (tmp_path / "empty").mkdir()
    assert "holds no data set" in said(tmp_path / "empty")


def test_the_users_dataset_yaml_is_kept(tmp_path):
    path = yolo_set(tmp_path / "set")
    path = path.rename(path.with_name("dataset.yaml"))
    before = path.read_bytes()
    done = d2kd("convert", "yolo", path, path.parent)
    assert done.exit_code == 1 and "exists and is not d2kd's: choose another" in done.output
    assert path.read_bytes() == before
    index = write_index(tmp_path, {"train": tmp_path / "train.json"}, tmp_path)
    assert write_index(tmp_path, {"train": tmp_path / "new.json"}, tmp_path) == index


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("train.json"),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(
        st.sampled_from(["json", "images", "names", "x"]), x, max_size=3),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=600 if FULL else 60, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(data=JUNK | st.dictionaries(st.sampled_from(["train", "val", "x"]), JUNK, max_size=3))
def test_fuzzed_index(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "index"
    folder.mkdir(exist_ok=True)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(data))
    assert "train.json" in (text := said(folder)) or "dataset.yaml" in text or "cannot be" in text
