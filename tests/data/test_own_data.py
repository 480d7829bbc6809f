"""Data of one's own: YOLO's layout converted, folders found by layout, problems listed."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2kd.checks import ConfigError
from d2kd.data.coco_json import write_coco
from d2kd.data.folder import Split, read_dataset_folder
from d2kd.data.problems import compare_classes, compare_splits, find_problems
from d2kd.data.yolo import image_root, yolo_to_coco
from tests.faults.conftest import FULL
from tests.helpers import d2kd


def yolo_set(root, labels=("0 0.5 0.5 0.5 0.5",), names="[cat, dog]", size=(40, 20)):
    """Two splits of one image each, 40 x 20 px, train with the given lines."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        Image.new("RGB", size).save(root / "images" / split / "a.png")
    (root / "labels" / "train" / "a.txt").write_text("\n".join(labels))
    (root / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n"
    )
    return root / "data.yaml"


def converted(data_yaml, output):
    return {k: json.loads(v.read_text()) for k, v in yolo_to_coco(data_yaml, output).items()}


def test_yolo_by_hand(tmp_path):
    """Centre (10, 15), size (4, 10) of 40 x 20 px; a triangle from (4, 2) to (20, 12)."""
    lines = ["1 0.25 0.75 0.1 0.5", "0 0.1 0.1 0.5 0.1 0.5 0.6"]
    found = converted(yolo_set(tmp_path / "set", lines), tmp_path / "out")
    train = found["train"]
    assert [c["name"] for c in train["categories"]] == ["cat", "dog"]
    assert train["images"] == [
        {"id": 1, "file_name": "images/train/a.png", "width": 40, "height": 20}
    ]
    boxes = [(a["category_id"], [round(x, 9) for x in a["bbox"]]) for a in train["annotations"]]
    assert boxes == [(2, [8, 10, 4, 10]), (1, [4, 2, 16, 10])]
    assert len(found["val"]["images"]) == 1 and not found["val"]["annotations"]  # no label file


def test_yolo_lists_and_names_by_number(tmp_path):
    path = yolo_set(tmp_path / "set", names="{1: dog, 0: cat}")
    (path.parent / "list.txt").write_text("./images/train/a.png\n\n")
    path.write_text(path.read_text().replace("images/train", "list.txt"))
    assert [c["name"] for c in converted(path, tmp_path / "out")["train"]["categories"]] == [
        "cat", "dog"]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), [
    ("2 0.5 0.5 0.5 0.5", "a.txt, line 1: class 2, but names has 0 to 1"),
    ("0.5 0.5 0.5 0.5 0.5", "class 0.5"),
    ("0 0.5 0.5 0.5", "expected class x y width height, or a polygon"),
    ("0 320 240 64 64", "not in parts of the image"),
    ("0 nan 0.5 0.5 0.5", "not in parts of the image"),
    ("cat 0.5 0.5 0.5 0.5", "holds something that is no number"),
])  # fmt: skip
def test_yolo_bad_lines(tmp_path, line, message):
    with pytest.raises(ConfigError, match=message):
        yolo_to_coco(yolo_set(tmp_path / "set", [line]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("old", "new", "message"), [
    ("names: [cat, dog]", "nc: 2", "names must list the classes, each once, not None"),
    ("names: [cat, dog]", "names: [cat, cat]", "each once"),
    ("train: images/train\nval: images/val", "x: 1", "names no images"),
    ("images/train", "nothing", "is no folder of images and no list"),
    ("images/train", "/etc", "holds no images|lies outside"),
    ("images/train", "labels/train", "holds no images"),
    ("path: .", "path: [", "is not valid yaml"),
    ("path: .", "path: !!python/object/apply:os.getcwd []", "is not valid yaml"),
])  # fmt: skip
def test_yolo_bad_yaml(tmp_path, old, new, message):
    path = yolo_set(tmp_path / "set")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        yolo_to_coco(path, tmp_path / "out")


def test_yolo_lists_stay_inside(tmp_path):
    path = yolo_set(tmp_path / "set")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (path.parent / "list.txt").write_text("../secret.png\n")
    path.write_text(path.read_text().replace("images/train", "list.txt"))
    with pytest.raises(ConfigError, match="lies outside of"):
        yolo_to_coco(path, tmp_path / "out")


FUZZ = settings(max_examples=600 if FULL else 60, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return yolo_set(tmp_path_factory.mktemp("fuzz") / "set")


@FUZZ
@given(text=st.text(alphabet="0123456789.-e naif\n\t,", max_size=60))
def test_fuzzed_labels(fuzzed, text):
    (fuzzed.parent / "labels" / "train" / "a.txt").write_text(text)
    try:
        found = yolo_to_coco(fuzzed, fuzzed.parent / "out")
    except ConfigError as error:
        assert "a.txt, line" in str(error)
        return
    boxes = [a["bbox"] for a in json.loads(found["train"].read_text())["annotations"]]
    assert all(-1 <= x <= 42 for box in boxes for x in box)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=4,
)


@FUZZ
@given(key=st.sampled_from(["names", "train", "val", "path"]), value=JUNK)
def test_fuzzed_yaml(fuzzed, key, value):
    data = {"path": ".", "train": "images/train", "names": ["cat"], key: value}
    other = fuzzed.parent / "other.yaml"
    other.write_text(yaml.safe_dump(data))
    (fuzzed.parent / "labels" / "train" / "a.txt").write_text("")
    try:
        yolo_to_coco(other, fuzzed.parent / "out")
    except ConfigError:
        pass


def test_convert_then_use(tmp_path):
    done = d2kd("convert", "yolo", yolo_set(tmp_path / "set"), tmp_path / "coco")
    assert done.exit_code == 0 and "1 images, 1 boxes (1 cat, 0 dog)" in done.output, done.output
    splits = read_dataset_folder(tmp_path / "coco")
    assert list(splits) == ["train", "val"] and splits["train"].classes == ["cat", "dog"]
    assert (splits["train"].images / "images/train/a.png").is_file()
    assert image_root(tmp_path / "set" / "data.yaml") == tmp_path / "set"
    assert find_problems(splits["train"]) == ["1 classes have no object: dog"]


def coco_image(folder, name="a.png"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(folder / name)
    return {"file_name": name, "width": 40, "height": 20, "boxes": [("cat", 1, 2, 3, 4)]}


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


def problems_of(tmp_path, change, read_images=True):
    """Problems of two images with a box each, after a change to the json."""
    images = [coco_image(tmp_path, name) for name in ("a.png", "b.png")]
    path = tmp_path / "train.json"
    write_coco(path, images, ["cat"])
    coco = json.loads(path.read_text())
    change(coco, tmp_path)
    path.write_text(json.dumps(coco))
    return find_problems(Split(path, tmp_path, ["cat"]), read_images)


PROBLEMS = {
    "1 images do not exist: a.png": lambda c, at: (at / "a.png").unlink(),
    "1 images cannot be read: b.png": lambda c, at: (at / "b.png").write_bytes(b"x"),
    "1 images have another size than stated: a.png": lambda c, at: c["images"][0].update(width=41),
    "1 boxes have no width or height, ids: 2": lambda c, at: c["annotations"][1].update(
        bbox=[1, 1, 0, 5]
    ),
    "1 boxes have NaN or infinite values, ids: 1": lambda c, at: c["annotations"][0].update(
        bbox=[float("nan"), 1, 2, 3]
    ),
    "1 boxes reach outside of their image and will be clipped, ids: 1": lambda c, at: c[
        "annotations"
    ][0].update(bbox=[30, 1, 11, 3]),
    "1 annotations are of images that are not listed, ids: 1": lambda c, at: c["annotations"][
        0
    ].update(image_id=9),
    "1 annotations are of classes that are not listed, ids: 2": lambda c, at: c["annotations"][
        1
    ].update(category_id=9),
    "1 annotation ids are used twice: 1": lambda c, at: c["annotations"][1].update(id=1),
    "1 image ids are used more than once: 1": lambda c, at: c["images"][1].update(id=1),
    "1 files are listed more than once: a.png": lambda c, at: c["images"][1].update(
        file_name="a.png"
    ),
    "1 classes have no object: dog": lambda c, at: c["categories"].append({"id": 2, "name": "dog"}),
    "1 images have no object, and training leaves them out: b.png": lambda c, at: c[
        "annotations"
    ].pop(),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem(tmp_path, problem):
    assert problem in problems_of(tmp_path, PROBLEMS[problem])


def test_no_problem(tmp_path):
    assert problems_of(tmp_path, lambda c, at: None) == []


def test_no_coco(tmp_path):
    for text in ("[]", "{", '{"images": [{}], "categories": []}', '{"images": 3, "categories": 1}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ConfigError, match="x.json is not in COCO's json format"):
            find_problems(Split(tmp_path / "x.json", tmp_path, []))


def test_splits_and_teachers(tmp_path):
    image = coco_image(tmp_path)
    paths = {name: tmp_path / f"{name}.json" for name in ("train", "val")}
    write_coco(paths["train"], [image], ["cat", "dog"])
    write_coco(paths["val"], [image], ["dog", "cat"])
    splits = {name: Split(path, tmp_path, ["cat", "dog"] if name == "train" else ["dog", "cat"])
              for name, path in paths.items()}  # fmt: skip
    found = compare_splits(splits)
    assert "the classes of val ['dog', 'cat'] are not those of train" in found[0]
    assert found[1].startswith("1 images are in train and in val: ")
    assert compare_classes(["cat", "dog"], 2) == compare_classes(["cat"], ["cat"]) == []
    assert "the teacher has 80 classes, the data set 2" in compare_classes(["cat", "dog"], 80)[0]
    assert compare_classes(["cat", "dog"], ["dog", "cat"])[0].startswith("2 classes differ")


def test_real_data(data_root):
    splits = read_dataset_folder(Path(data_root) / "coco")
    assert len(splits["train"].classes) == 80 and list(splits) == ["train", "val"]
    assert all("classes have no object" in x or "have no object" in x
               for x in find_problems(splits["val"]))  # fmt: skip
