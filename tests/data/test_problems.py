"""Problems of data sets, listed: each by itself, fuzzed, and of real data."""

import copy
import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2kd.data import clean_boxes, load_dataset
from d2kd.data.builtin import register_coco_format
from d2kd.data.coco_json import write_coco
from d2kd.data.folder import Split, read_dataset_folder
from d2kd.data.problems import compare_classes, compare_splits, find_problems
from d2kd.data.voc import voc_to_coco
from d2kd.errors import ConfigError
from tests.faults.conftest import FULL
from tests.own_sets import coco_image


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
    "1 images do not exist: a b": lambda c, at: c["images"][0].update(file_name="a\nb"),
    "1 images cannot be read or are cut off: b.png": lambda c, at: (at / "b.png").write_bytes(b"x"),
    "1 images have another size than stated: a.png": lambda c, at: c["images"][0].update(width=41),
    "1 boxes have no width or height and are left out, ids: 2": lambda c, at: c["annotations"][
        1
    ].update(bbox=[1, 1, 0, 5]),
    "1 boxes have NaN values and are left out, ids: 1": lambda c, at: c["annotations"][0].update(
        bbox=[float("nan"), 1, 2, 3]
    ),
    "1 boxes are not four numbers, ids: 2": lambda c, at: c["annotations"][1].update(
        bbox=[1, 1, 2, float("inf")]
    ),
    "2 boxes are not four numbers, ids: 1, 2": lambda c, at: [
        a.update(bbox=box) for a, box in zip(c["annotations"], ([1] * 5, None), strict=True)
    ],
    "1 boxes lie outside of their image and are left out, ids: 2": lambda c, at: c["annotations"][
        1
    ].update(bbox=[40, 1, 5, 5]),
    "1 images have no width and height above 0; those of the files are taken: b.png": (
        lambda c, at: c["images"][1].update(height=0)
    ),
    "1 class ids are used twice: 1": lambda c, at: c["categories"].append({"id": 1, "name": "x"}),
    "1 class names are used twice: cat": lambda c, at: c["categories"].append(
        {"id": 2, "name": "cat"}
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
    """Some lines also say what follows, in parentheses."""
    found = problems_of(tmp_path, PROBLEMS[problem])
    assert any(line == problem or line.startswith(f"{problem} (") for line in found), found


def test_boxes_are_in_one_line_each(tmp_path):
    found = problems_of(
        tmp_path, lambda c, at: c["annotations"][0].update(bbox=[-9, 1, 5, 5]), read_images=False
    )
    assert found == [
        "1 boxes lie outside of their image and are left out, ids: 1",
        "1 images have no object, and training leaves them out: a.png",
    ]


def test_no_problem(tmp_path):
    assert problems_of(tmp_path, lambda c, at: None) == []


BROKEN = {
    "[]": "it holds no images and categories",
    "{": "Expecting property name",
    "[" * 100_000: "nested too deep",
    '{"images": [{}], "categories": []}': r"images\[0\] has the id None",
    '{"images": 3, "categories": 1}': "it has no list of images",
    '{"images": [], "categories": []}': "it has no list of images",
    '{"images": [{"id": 1, "file_name": 3}]}': r"images\[0\] has the file_name 3",
    '{"images": [{"id": 1, "file_name": "a"}], "categories": ["a"]}': r"categories\[0\] is no dict",
}


@pytest.mark.parametrize("text", BROKEN)
def test_no_coco(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    split = Split(tmp_path / "train.json", tmp_path, [])
    for call in (
        lambda: find_problems(split),
        lambda: compare_splits({"train": split}),
        lambda: read_dataset_folder(tmp_path),
    ):
        with pytest.raises(ConfigError, match=f"train.json is not .*{BROKEN[text]}") as e:
            call()
        assert "\n" not in str(e.value)


def test_splits_and_teachers(tmp_path):
    image = coco_image(tmp_path)
    paths = {name: tmp_path / f"{name}.json" for name in ("train", "val")}
    write_coco(paths["train"], [image], ["cat", "dog"])
    write_coco(paths["val"], [image], ["dog", "cat"])
    splits = {name: Split(path, tmp_path, ["cat", "dog"] if name == "train" else ["dog", "cat"])
              for name, path in paths.items()}  # fmt: skip
    found = compare_splits(splits)
    assert "the classes of val ['dog', 'cat'] are not those of train" in found[0]
    assert found[1] == f"1 images are in train and in val: {tmp_path}/a.png"
    assert compare_classes(["cat", "dog"], 2) == compare_classes(["cat"], ["cat"]) == []
    assert "80 classes without names, the data set 2" in compare_classes(["cat", "dog"], 80)[0]
    assert compare_classes(["cat", "dog"], ["Dog", "cat", "cow"]) == []
    assert "the teacher does not know: 'cat'" in compare_classes(["cat", "dog"], ["dog"])[0]


def two_splits(tmp_path, train, val):
    """Splits with an object each, of the classes at these places of (cat, dog)."""
    splits, classes = {}, ["cat", "dog"]
    for name, used in (("train", train), ("val", val)):
        image = coco_image(tmp_path / name)
        image["boxes"] = [(classes[i], 1, 2, 3, 4) for i in used]
        write_coco(tmp_path / f"{name}.json", [image], classes)
        splits[name] = Split(tmp_path / f"{name}.json", tmp_path / name, classes)
    return splits


def test_classes_that_train_never_shows(tmp_path):
    splits = two_splits(tmp_path, [0], [0, 1])
    (tmp_path / "val" / "a.png").write_bytes(b"x")
    assert compare_splits(splits) == ["1 classes have objects in val and none in train: dog"]


def test_copies_of_images(tmp_path):
    """The same name alone is no copy: every camera starts at 0001.jpg."""
    splits = two_splits(tmp_path, [0, 1], [0])
    train, val = (tmp_path / name / "a.png" for name in ("train", "val"))
    expected = f"1 images are in train and in val: {val}"
    assert compare_splits(splits) == [expected]
    content = bytearray(train.read_bytes())
    content[-1] ^= 1  # of the same length
    val.write_bytes(content)
    assert compare_splits(splits) == []
    shutil.copy(train, val)
    assert compare_splits(splits) == [expected]


def test_cut_off_images(data_root, tmp_path):
    """A photo without its end has its header, and its size; only decoding tells."""
    photo = next((data_root / "coco" / "val2017").glob("*.jpg"))
    image = coco_image(tmp_path, "b.png") | {"file_name": "a.jpg"}
    (tmp_path / "a.jpg").write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    write_coco(tmp_path / "t.json", [image], ["cat"])
    split = Split(tmp_path / "t.json", tmp_path, ["cat"])
    assert find_problems(split) == ["1 images cannot be read or are cut off: a.jpg"]
    assert find_problems(split, read_images=False) == []


JUNK = st.sampled_from(
    [None, "", "x", -1, 0, 3, 1e300, -(2**70), 2**2000, True, [], [1], {}, float("nan"),
     float("inf"), "../../etc", "a\0", "a" * 5000, [None] * 4, [1] * 5, ["1", 2, 3, 4]]
)  # fmt: skip


def places(node):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)


@settings(max_examples=1500 if FULL else 150, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(data=st.data())
def test_fuzzed_coco(squares, tmp_path_factory, data):
    """Problems are listed in lines, or the file is refused in one; training says the same."""
    coco = json.loads((squares / "squares.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(coco))))
        if data.draw(st.booleans()):
            del container[key]
        else:
            container[key] = copy.deepcopy(data.draw(JUNK))
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(coco))
    split = Split(path, squares, ["red", "green"])
    problems: list[str] | None = None
    try:
        problems = find_problems(split) + compare_splits({"train": split, "val": split})[:-1]
    except ConfigError as error:
        assert path.name in str(error) and "\n" not in str(error)
    assert not any("\n" in line for line in problems or ())
    stops = problems is None or any("training stops" in line for line in problems)
    register_coco_format("fuzzed", str(path), str(squares), "coco")
    try:
        assert clean_boxes(load_dataset("fuzzed")) and not stops
    except ConfigError as error:
        said = str(error)
        assert stops or "does not exist" in said or "and no annotation" in said, said
        assert "DATASETS.TRAIN: 'fuzzed'" in said and "\n" not in said
    finally:
        DatasetCatalog.remove("fuzzed")
        MetadataCatalog.remove("fuzzed")


def test_real_cells(data_root, tmp_path):
    if not (data_root / "BCCD").is_dir():
        pytest.skip("needs BCCD")
    paths = voc_to_coco(data_root / "BCCD", tmp_path)
    splits = {name: Split(path, data_root / "BCCD" / "JPEGImages", ["Platelets", "RBC", "WBC"])
              for name, path in paths.items()}  # fmt: skip
    assert [find_problems(split) for split in splits.values()] == [[], [], []]
    assert compare_splits(splits) == []
    mixed = {"train": splits["train"], "test": splits["train"]}
    assert compare_splits(mixed)[0].startswith("205 images are in train and in test: ")


def test_real_data(data_root):
    splits = read_dataset_folder(data_root / "coco")
    assert len(splits["train"].classes) == 80 and list(splits) == ["train", "val"]
    assert all("classes have no object" in x or "have no object" in x
               for x in find_problems(splits["val"]))  # fmt: skip
