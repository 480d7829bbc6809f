"""CrowdHuman's converter, on a folder made here."""

import json
import math
import sys

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import read_image
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "datasets"))
import prepare_crowdhuman  # noqa: E402


def box(fbox, tag="person", **extra):
    return {"tag": tag, "fbox": fbox, "vbox": [0, 0, 1, 1], "hbox": [0, 0, 1, 1], "extra": extra}


RECORDS = [
    {"ID": "a,1", "gtboxes": [
        box([1, 2, 30, 40]), box([-5, -6, 20, 30], ignore=0), box([3, 4, 5, 6], ignore=1),
        box([7, 8, 9, 10], tag="mask"), box([1, 1, 0, 5]), box([1, 1, 5, -2]),
    ]},
    {"ID": "b", "gtboxes": []},
]  # fmt: skip


def folder(root, lines, images=("a,1", "b")):
    (root / "Images").mkdir(exist_ok=True)
    for name in images:
        Image.new("RGB", (60, 50)).save(root / "Images" / f"{name}.jpg")
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    (root / "annotation_val.odgt").write_text(text)
    return root


def run(root, monkeypatch, *options, splits=("val",)):
    arguments = ["prepare_crowdhuman.py", "--root", str(root), "--splits", *splits, *options]
    monkeypatch.setattr(sys, "argv", arguments)
    prepare_crowdhuman.main()
    return json.loads((root / "annotations" / "crowdhuman_val.json").read_text())


def test_full_boxes_and_ignore_regions(tmp_path, monkeypatch, capsys):
    coco = run(folder(tmp_path, [*RECORDS, ""]), monkeypatch)
    assert [(x["file_name"], x["width"], x["height"]) for x in coco["images"]] == [
        ("a,1.jpg", 60, 50), ("b.jpg", 60, 50),
    ]  # fmt: skip
    found = [(x["bbox"], x["iscrowd"], x["image_id"]) for x in coco["annotations"]]
    assert found == [
        ([1, 2, 30, 40], 0, 1), ([-5, -6, 20, 30], 0, 1), ([3, 4, 5, 6], 1, 1),
        ([7, 8, 9, 10], 1, 1),
    ]  # fmt: skip
    assert [x["id"] for x in coco["annotations"]] == [1, 2, 3, 4]
    assert coco["categories"] == [{"id": 1, "name": "person"}]
    text = capsys.readouterr().out
    assert "2 images, 2 persons, 2 ignore regions" in text
    assert "1 images without annotations, kept: b.jpg" in text


@pytest.mark.parametrize(("lines", "images", "message"), [
    (["{"], ("b",), r"annotation_val.odgt, line 1 is not json"),
    ([RECORDS[1], {"ID": "b"}], ("b",), r"line 2: KeyError: 'gtboxes'. Each line needs ID"),
    ([{"ID": "b", "gtboxes": [{"tag": "person"}]}], ("b",), r"line 1: KeyError: 'fbox'"),
    ([{"ID": "b", "gtboxes": [box([1, 2])]}], ("b",), r"line 1: ValueError: not enough"),
    ([{"ID": "b", "gtboxes": None}], ("b",), r"line 1: TypeError"),
    ([{"ID": "b", "gtboxes": [{"fbox": [1, 2, 3, 4]}]}], ("b",), r"line 1: KeyError: 'tag'"),
    ([{"ID": "b", "gtboxes": [box([1, 2, 3, 4, 5])]}], ("b",), r"line 1: ValueError: too many"),
    ([{"ID": "b", "gtboxes": [box(["1", 2, 3, 4])]}], ("b",), r"line 1: TypeError: must be real"),
    ([{"ID": "b", "gtboxes": [box([math.nan, 2, 3, 4])]}], ("b",), r"line 1: .*fbox is \[nan, 2"),
    ([{"ID": "b", "gtboxes": [{**box([1, 2, 3, 4]), "extra": None}]}], ("b",), r"line 1: Attribut"),
    (["[1]"], ("b",), r"line 1: TypeError"),
    ([{"gtboxes": []}], ("b",), r"line 1: KeyError: 'ID'"),
    (["", " "], ("b",), r"annotation_val.odgt is empty"),
    (RECORDS, ("b",), r"1 of 2 images are not in .*Images, the first a,1.jpg"),
    (RECORDS, (), r"2 of 2 images are not in .*Images, the first a,1.jpg, b.jpg"),
])  # fmt: skip
def test_errors_name_the_place_and_write_nothing(tmp_path, monkeypatch, lines, images, message):
    with pytest.raises(SystemExit, match=message):
        run(folder(tmp_path, lines, images), monkeypatch)
    assert not list((tmp_path / "annotations").glob("*"))


def test_bytes_that_are_not_text(tmp_path, monkeypatch):
    folder(tmp_path, [])
    (tmp_path / "annotation_val.odgt").write_bytes(b'{"ID": "b", "gtboxes": []}\n"\xff"')
    with pytest.raises(SystemExit, match=r"annotation_val.odgt, line 2 is not json"):
        run(tmp_path, monkeypatch)


def test_a_bad_split_leaves_the_other_unwritten(tmp_path, monkeypatch):
    folder(tmp_path, ["{"])
    (tmp_path / "annotation_train.odgt").write_text(json.dumps(RECORDS[1]))
    with pytest.raises(SystemExit, match="annotation_val.odgt, line 1"):
        run(tmp_path, monkeypatch, splits=("train", "val"))
    assert not list((tmp_path / "annotations").glob("*"))


def test_an_old_file_survives_an_error(tmp_path, monkeypatch):
    before = run(folder(tmp_path, RECORDS), monkeypatch)
    folder(tmp_path, ["{"])
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch)
    path = tmp_path / "annotations" / "crowdhuman_val.json"
    assert json.loads(path.read_text()) == before and list(path.parent.iterdir()) == [path]


def test_sizes_are_those_of_the_image_as_detectron2_reads_it(tmp_path, monkeypatch):
    folder(tmp_path, RECORDS[1:], ())
    exif, path = Image.Exif(), tmp_path / "Images" / "b.jpg"
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (60, 50)).save(path, exif=exif)
    image = run(tmp_path, monkeypatch)["images"][0]
    assert (image["height"], image["width"]) == read_image(str(path)).shape[:2] == (60, 50)
    path.write_bytes(b"not a picture")
    with pytest.raises(SystemExit, match=r"b\.jpg cannot be read: it is no image"):
        run(tmp_path, monkeypatch)


def test_detectron2_reads_the_result(tmp_path, monkeypatch):
    run(folder(tmp_path, RECORDS), monkeypatch)
    json_file = tmp_path / "annotations" / "crowdhuman_val.json"
    first, second = load_coco_json(str(json_file), str(tmp_path / "Images"))
    assert [x["iscrowd"] for x in first["annotations"]] == [0, 0, 1, 1]
    assert first["file_name"].endswith("Images/a,1.jpg") and second["annotations"] == []


def test_no_odgt_file(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"annotation_val\.odgt"):
        run(tmp_path, monkeypatch)
