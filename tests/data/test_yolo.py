"""YOLO's layout, converted: by hand, from odd and broken files, fuzzed, and real data."""

import json
import os
import struct
import zlib

import pytest
import torch
import yaml
from detectron2.data.datasets import load_coco_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2kd.data.folder import Split
from d2kd.data.problems import find_problems
from d2kd.data.voc import voc_to_coco
from d2kd.data.yolo import image_root, yolo_to_coco
from d2kd.errors import ConfigError
from tests.faults.conftest import FULL
from tests.own_sets import yolo_set


def converted(data_yaml, output):
    return {k: json.loads(v.read_text()) for k, v in yolo_to_coco(data_yaml, output).items()}


def test_yolo_by_hand(tmp_path):
    """Centre (10, 15), size (4, 10) of 40 x 20 px; a triangle (4, 2), (20, 2), (20, 12)."""
    lines = ["1 0.25 0.75 0.1 0.5", "0 0.1 0.1 0.5 0.1 0.5 0.6"]
    found = converted(yolo_set(tmp_path / "set", lines), tmp_path / "out")
    train = found["train"]
    assert [c["name"] for c in train["categories"]] == ["cat", "dog"]
    assert train["images"] == [
        {"id": 1, "file_name": "images/train/a.png", "width": 40, "height": 20}
    ]
    boxes = [(a["category_id"], [round(x, 9) for x in a["bbox"]]) for a in train["annotations"]]
    assert boxes == [(2, [8, 10, 4, 10]), (1, [4, 2, 16, 10])]
    box, triangle = train["annotations"]
    assert "segmentation" not in box and box["area"] == pytest.approx(40)
    assert triangle["segmentation"] == [pytest.approx([4, 2, 20, 2, 20, 12])]
    assert triangle["area"] == pytest.approx(80)  # half of its box
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
    ("0 0.5 0.5 0.5", "expected class x y width height, or a polygon, not 3 numbers"),
    ("0 0.5 0.5 0.5 0.5 0.9", "or a polygon, not 5 numbers"),
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
    ("images/train", "x" * 5000, "File name too long|is no folder of images"),
    ("images/train", '"a\\0b"', "is no folder of images and no list"),
    ("names: [cat, dog]", "names: [no, yes]", "needs quotes around words such as no"),
    ("names: [cat, dog]", "names: {0: cat, 2: dog}", "each once"),
    ("names: [cat, dog]", "names: [cat, dog]\nnc: 3", "nc is 3, but names has 2 classes"),
    ("images/train", "labels/train", "holds no images"),
    ("path: .", "path: [", "is not valid yaml"),
    ("path: .", "path: !!python/object/apply:os.getcwd []", "yaml tag that can run code"),
])  # fmt: skip
def test_yolo_bad_yaml(tmp_path, old, new, message):
    path = yolo_set(tmp_path / "set")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        yolo_to_coco(path, tmp_path / "out")


def test_train_without_any_label_file(tmp_path):
    path = yolo_set(tmp_path / "set")
    (path.parent / "labels" / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"none of the 1 images of train .*labels/train/a.txt"):
        yolo_to_coco(path, tmp_path / "out")


def test_an_image_that_explodes_is_refused(tmp_path):
    """A PNG of a few bytes whose header says 60,000 x 60,000 px."""
    path = yolo_set(tmp_path / "set")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    image = path.parent / "images" / "val" / "a.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\x35\xaf\x06\x1e")
    with pytest.raises(ConfigError, match="val/a.png cannot be read: Image size .* exceeds limit"):
        yolo_to_coco(path, tmp_path / "out")


def test_key_points_are_no_polygon(tmp_path):
    path = yolo_set(tmp_path / "set", ["0 0.5 0.5 0.2 0.2 0.9 0.9 2 0.1 0.1 1"])
    path.write_text(path.read_text() + "kpt_shape: [2, 3]\n")
    (found,) = converted(path, tmp_path / "out")["train"]["annotations"]
    assert found["bbox"] == pytest.approx([16, 8, 8, 4]) and "segmentation" not in found


def test_files_from_windows(tmp_path):
    path = yolo_set(tmp_path / "set", ["\ufeff1 0.5 0.5 0.5 0.5\r", "0 0.5 0.5 0.5 0.5\r"])
    (path.parent / "list.txt").write_text("\ufeff./images/train/a.png\r\n")
    path.write_text(path.read_text().replace("images/train", "list.txt"))
    found = converted(path, tmp_path / "out")["train"]["annotations"]
    assert [a["category_id"] for a in found] == [2, 1]


def test_places_that_exports_name(tmp_path):
    """Roboflow's ../train/images beside data.yaml; a path that is of another machine."""
    path = yolo_set(tmp_path / "set")
    for kind in ("images", "labels"):
        (path.parent / "train").mkdir(exist_ok=True)
        (path.parent / kind / "train").rename(path.parent / "train" / kind)
    path.write_text("path: /content/cells\ntrain: ../train/images\nnames: {'0': cat, '1': dog}\n")
    train = converted(path.rename(path.with_name("cells.yaml")).parent, tmp_path / "out")["train"]
    assert train["images"][0]["file_name"] == "train/images/a.png" and train["annotations"]
    assert image_root(path.parent) == path.parent


def test_list_in_a_folder_of_its_own(tmp_path):
    path = yolo_set(tmp_path / "set")
    (path.parent / "lists").mkdir()
    (path.parent / "lists" / "a.txt").write_text("../images/train/a.png\nimages/val/a.png\n")
    path.write_text(path.read_text().replace("images/train", "lists/a.txt"))
    names = [x["file_name"] for x in converted(path, tmp_path / "out")["train"]["images"]]
    assert names == ["images/train/a.png", "images/val/a.png"]


@pytest.mark.parametrize("entry", ["images/train", "list.txt"])
def test_absolute_paths_through_a_link(tmp_path, entry):
    """As below a home that is a link: the data.yaml's folder is known without it."""
    path = yolo_set(tmp_path / "set")
    (tmp_path / "home").symlink_to(tmp_path / "set")
    (path.parent / "list.txt").write_text(f"{tmp_path}/home/images/train/a.png")
    path.write_text(path.read_text().replace("images/train", f"{tmp_path}/home/{entry}"))
    found = converted(tmp_path / "home" / "data.yaml", tmp_path / "out")["train"]
    assert found["images"][0]["file_name"] == "images/train/a.png" and found["annotations"]


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


@FUZZ
@given(content=st.binary(max_size=60) | st.text(alphabet="./a\0\n images", max_size=60))
def test_fuzzed_lists(fuzzed, content):
    other = fuzzed.with_name("listed.yaml")
    other.write_text("train: list.txt\nnames: [cat, dog]\n")
    data = content if isinstance(content, bytes) else content.encode()
    (fuzzed.parent / "list.txt").write_bytes(data)
    with pytest.raises(ConfigError) as error:
        yolo_to_coco(other, fuzzed.parent / "out")
    assert "\n" not in str(error.value)


@FUZZ
@given(content=st.binary(max_size=80), at=st.integers(0, 60))
def test_fuzzed_images(fuzzed, content, at):
    path = fuzzed.parent / "images" / "val" / "a.png"
    before = path.read_bytes()
    (fuzzed.parent / "labels" / "train" / "a.txt").write_text("")
    path.write_bytes(before[:at] + content)
    try:
        assert yolo_to_coco(fuzzed, fuzzed.parent / "out").keys() == {"train", "val"}
    except ConfigError as error:
        assert "a.png cannot be read: " in str(error) and "\n" not in str(error)
    finally:
        path.write_bytes(before)


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


def write_yolo(root, coco, images, lines):
    """A YOLO set with the images of a COCO json's folder, linked, and these lines per image id."""
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to(images)
    for image in coco["images"]:
        name = f"{os.path.splitext(image['file_name'])[0]}.txt"
        (root / "labels" / name).write_text("\n".join(lines[image["id"]]))
    listed = "\n".join(f"images/{x['file_name']}" for x in coco["images"])
    (root / "list.txt").write_text(listed)
    names = [x["name"] for x in coco["categories"]]
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "list.txt", "names": names}))
    return root / "data.yaml"


def test_real_cells_there_and_back(data_root, tmp_path):
    """BCCD's boxes, written as YOLO's lines, come back."""
    if not (data_root / "BCCD").is_dir():
        pytest.skip("needs BCCD")
    voc = json.loads(voc_to_coco(data_root / "BCCD", tmp_path / "voc")["val"].read_text())
    sizes = {x["id"]: (x["width"], x["height"]) for x in voc["images"]}
    lines = {x["id"]: [] for x in voc["images"]}
    for a in voc["annotations"]:
        (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
        values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        lines[a["image_id"]].append(" ".join(map(str, [a["category_id"] - 1, *values])))
    source = write_yolo(tmp_path / "set", voc, data_root / "BCCD" / "JPEGImages", lines)
    path = yolo_to_coco(source, tmp_path / "out")["train"]
    found = json.loads(path.read_text())
    names = {x["id"]: x["file_name"] for x in found["images"]}
    before = {x["id"]: f"images/{x['file_name']}" for x in voc["images"]}
    ours, theirs = (
        {name: [(a["category_id"], a["bbox"]) for a in coco["annotations"]
                if files[a["image_id"]] == name] for name in files.values()}
        for coco, files in ((found, names), (voc, before))
    )  # fmt: skip
    assert len(ours) == 87 and sum(map(len, ours.values())) == 1138
    for name, objects in theirs.items():
        assert [c for c, _ in ours[name]] == [c for c, _ in objects]
        boxes = [
            torch.tensor([b for _, b in x], dtype=torch.float64) for x in (ours[name], objects)
        ]
        torch.testing.assert_close(*boxes, rtol=0, atol=1e-6)
    assert find_problems(Split(path, tmp_path / "set", [])) == []


def test_real_polygons_there_and_back(data_root, tmp_path):
    """COCO's polygons, written as YOLO's lines, are masks that Detectron2 reads."""
    coco = json.loads((data_root / "coco/annotations/instances_val2017.json").read_text())
    coco["images"] = sorted(coco["images"], key=lambda x: x["file_name"])
    sizes = {x["id"]: (x["width"], x["height"]) for x in coco["images"]}
    order = [x["id"] for x in coco["categories"]]
    lines, kept = {x["id"]: [] for x in coco["images"]}, {x["id"]: [] for x in coco["images"]}
    for a in coco["annotations"]:
        if not a["iscrowd"] and len(a["segmentation"]) == 1:
            polygon, sides = a["segmentation"][0], sizes[a["image_id"]]
            values = [v / sides[i % 2] for i, v in enumerate(polygon)]
            lines[a["image_id"]].append(
                " ".join(map(str, [order.index(a["category_id"]), *values]))
            )
            kept[a["image_id"]].append(a)
    source = write_yolo(tmp_path / "set", coco, data_root / "coco" / "val2017", lines)
    path = yolo_to_coco(source, tmp_path / "out")["train"]
    written = json.loads(path.read_text())["annotations"]
    records = load_coco_json(str(path), str(tmp_path / "set"), "yolo_polygons")
    expected = [a for x in coco["images"] for a in kept[x["id"]]]
    found = [a for record in records for a in record["annotations"]]
    assert len(found) == len(written) == len(expected) > 500
    for ours, area, theirs in zip(found, written, expected, strict=True):
        assert ours["segmentation"] == [pytest.approx(theirs["segmentation"][0], abs=1e-6)]
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.02)
        assert area["area"] == pytest.approx(theirs["area"], rel=0.02, abs=20)
