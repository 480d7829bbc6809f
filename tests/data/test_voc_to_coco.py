"""The VOC converter: on a folder made here, and on the real BCCD data where it is present."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from d2kd.data.pixels import EXIF_ORIENTATION, image_size
from d2kd.data.voc import voc_to_coco

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "datasets"))
import prepare_bccd  # noqa: E402


def obj(name, *corners):
    """One <object>; corners are xmin, ymin, xmax, ymax, 1-based px."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{box}</bndbox></object>"


def add_image(root, split, name, size=(20, 10), objects="", stated=None, extension="png"):
    """Add an image with its xml file and its line in the split's list."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / "JPEGImages" / f"{name}.{extension}")
    width, height = stated or size
    size_xml = f"<size><width>{width}</width><height>{height}</height></size>"
    xml = f"<annotation>{size_xml}{objects}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(xml)
    with open(root / "ImageSets" / "Main" / f"{split}.txt", "a") as f:
        f.write(f"{name}\n\n")


def convert(root, **kwargs):
    paths = voc_to_coco(root, root / "out", **kwargs)
    return {split: json.loads(path.read_text()) for split, path in paths.items()}


def test_boxes_ids_and_classes(tmp_path):
    add_image(tmp_path, "train", "b", objects=obj("dog", 1, 1, 20, 10) + obj("cat", 5, 5, 5, 5))
    add_image(tmp_path, "train", "a")
    add_image(tmp_path, "test", "c", objects=obj("ant", 2, 3, 25, 4), extension="jpg")
    coco = convert(tmp_path)
    assert list(coco) == ["train", "test"]
    categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert coco["train"]["categories"] == coco["test"]["categories"] == categories
    assert coco["train"]["images"] == [
        {"id": 1, "file_name": "b.png", "width": 20, "height": 10},
        {"id": 2, "file_name": "a.png", "width": 20, "height": 10},
    ]
    whole, pixel = coco["train"]["annotations"]  # the whole image, and a box of one pixel
    assert whole["bbox"] == [0, 0, 20, 10] and whole["area"] == 200
    assert pixel["bbox"] == [4, 4, 1, 1] and pixel["id"] == 2
    assert [a["category_id"] for a in (whole, pixel)] == [3, 2]
    assert whole["image_id"] == 1 and whole["iscrowd"] == 0  # difficult is not crowd
    assert coco["test"]["annotations"][0]["bbox"] == [1, 2, 24, 2]  # clipped in training only


def test_same_bytes_twice(tmp_path):
    add_image(tmp_path, "val", "a", objects=obj("x", 1, 1, 2, 2))
    first = voc_to_coco(tmp_path, tmp_path / "1")["val"].read_bytes()
    assert first == voc_to_coco(tmp_path, tmp_path / "2")["val"].read_bytes()


def test_given_classes_keep_their_order(tmp_path):
    add_image(tmp_path, "train", "a", objects=obj("x", 1, 1, 2, 2))
    coco = convert(tmp_path, classes=["y", "x"])["train"]
    assert [c["name"] for c in coco["categories"]] == ["y", "x"]
    with pytest.raises(ValueError, match=r"\['x'\] are not among the classes y"):
        convert(tmp_path, classes=["y"])


def test_image_size_is_the_files(tmp_path, caplog):
    add_image(tmp_path, "train", "a", objects=obj("x", 1, 1, 2, 2), stated=(0, 0))
    image = convert(tmp_path)["train"]["images"][0]
    assert (image["width"], image["height"]) == (20, 10)
    assert "train: 1 xml files state no size above 0, and the image file's is taken" in caplog.text


def test_images_of_another_size_are_left_out(tmp_path, caplog):
    add_image(tmp_path, "train", "a", objects=obj("x", 1, 1, 2, 2), stated=(40, 20))
    with pytest.raises(ValueError, match="train: no image has the size that its xml .*: a.xml"):
        convert(tmp_path)
    add_image(tmp_path, "train", "b", objects=obj("x", 1, 1, 2, 2))
    assert [x["file_name"] for x in convert(tmp_path)["train"]["images"]] == ["b.png"]
    assert "train: 1 xml files state another size than their images have, which are" in caplog.text


def test_turned_image(tmp_path):
    add_image(tmp_path, "train", "a", size=(20, 10), stated=(10, 20), extension="jpg")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    path = tmp_path / "JPEGImages" / "a.jpg"
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert image_size(path) == (10, 20)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("<object>", "mismatched tag"),
        ("<object><name>x</name></object>", "lacks its name or a corner"),
        (obj("x", 5, 1, 2, 2), "corners in the wrong order"),
        (obj("x", "one", 1, 2, 2), "could not convert"),
    ],
)
def test_malformed_xml_names_the_file(tmp_path, objects, message):
    add_image(tmp_path, "train", "bad", objects=objects)
    with pytest.raises(ValueError, match=rf"bad\.xml: not a VOC annotation: .*{message}"):
        convert(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="is this a VOC folder"):
        convert(tmp_path)
    add_image(tmp_path, "train", "a")
    (tmp_path / "JPEGImages" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="train.txt names a, which .*JPEGImages lacks"):
        convert(tmp_path)


def find_bccd():
    """The BCCD folder: under DETECTRON2_DATASETS, or beside the repository."""
    roots = [os.environ.get("DETECTRON2_DATASETS", ""), REPO.parent / "shared" / "data"]
    folders = (Path(root) / "BCCD" for root in roots if root)
    return next((folder for folder in folders if (folder / "Annotations").is_dir()), None)


@pytest.mark.skipif(find_bccd() is None, reason="needs BCCD under DETECTRON2_DATASETS")
def test_bccd(tmp_path, monkeypatch, capsys):
    argv = ["prepare_bccd.py", "--root", str(find_bccd()), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    prepare_bccd.main()  # exits with an error unless all numbers are as expected
    assert "4,155 RBC, 372 WBC, 361 Platelets" in capsys.readouterr().out
    boxes, images = [], 0
    for path in sorted(tmp_path.iterdir()):
        coco = json.loads(path.read_text())
        sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
        images += len(sizes)
        for a in coco["annotations"]:
            (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
            assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
            boxes.append((w, h))
    assert (images, len(boxes)) == (364, 4888)
    assert sum(min(box) <= 1 for box in boxes) == 2  # one pixel wide: real, and kept
