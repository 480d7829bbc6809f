"""CrowdHuman's converter, on a folder made here."""

import json
import sys

import pytest
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


def run(root, monkeypatch, *options):
    arguments = ["prepare_crowdhuman.py", "--root", str(root), "--splits", "val", *options]
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
    ([{"ID": "b", "gtboxes": [box([1, 2])]}], ("b",), r"line 1: IndexError"),
    ([{"ID": "b", "gtboxes": None}], ("b",), r"line 1: TypeError"),
    (RECORDS, ("b",), r"1 of 2 images are not in .*Images, the first a,1.jpg"),
])  # fmt: skip
def test_errors_name_the_place_and_write_nothing(tmp_path, monkeypatch, lines, images, message):
    with pytest.raises(SystemExit, match=message):
        run(folder(tmp_path, lines, images), monkeypatch)
    assert not list((tmp_path / "annotations").glob("*"))


def test_no_odgt_file(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"annotation_val\.odgt"):
        run(tmp_path, monkeypatch)
