"""Folders like Pascal VOC's: every list and layout that is converted, and what is said of it."""

import json

import pytest
from PIL import Image

from d2kd.data.folder import read_dataset_folder
from d2kd.data.voc import image_root, voc_to_coco
from d2kd.errors import ConfigError
from tests.helpers import d2kd
from tests.own_sets import yolo_set

XML = (
    "<annotation><filename>{}</filename><object><name>cell</name><bndbox><xmin>2</xmin>"
    "<ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
)
IDS = {"train": ("p0", "p1"), "val": ("q0",)}


def add(root, image, xml, filename="x.jpg"):
    for path in (root / image, root / xml):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(root / image)
    (root / xml).write_text(XML.format(filename))


def voc(root, **lists):
    """p0, p1 and q0, and lists of these texts."""
    for name in ("p0", "p1", "q0"):
        add(root, f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def converted(root, output, **options):
    return {
        split: tuple(x["file_name"] for x in json.loads(path.read_text())["images"])
        for split, path in voc_to_coco(root, output, **options).items()
    }


LINES = {
    "ids": "{0}", "flags": "{0} -1", "aligned flags": "{0}  1", "image names": "{0}.jpg",
    "xml names": "{0}.xml", "pairs": "JPEGImages/{0}.jpg Annotations/{0}.xml",
    "pairs from here": "./JPEGImages/{0}.jpg,./Annotations/{0}.xml",
    "segmentation's pairs": "/JPEGImages/{0}.jpg /SegmentationClass/{0}.png",
    "another machine": "/content/VOC/JPEGImages/{0}.jpg", "Windows": "D:\\VOC\\JPEGImages\\{0}.jpg",
    "quotes": '"{0}"', "other case": "{0}.JPG",
}  # fmt: skip


@pytest.mark.parametrize("kind", LINES)
def test_lines_of_lists(tmp_path, kind):
    text = "\ufeff" + "\r\n".join(LINES[kind].format(x) for x in IDS["train"]) + "\r\n"
    root = voc(tmp_path / "set", train=text, val="q0")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg", "p1.jpg"), "val": ("q0.jpg",)}


def test_names_with_spaces_dots_and_other_letters(tmp_path):
    names = ["a b", "a b 1", "c.d.jpg", "e\u0301"]
    root = tmp_path / "set"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name in names:
        add(root, f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml")
    text = '"a b"\na b 1\nc.d.jpg\n\u00e9\n'
    (root / "ImageSets" / "Main" / "train.txt").write_text(text)
    found = converted(root, tmp_path / "out")["train"]
    assert list(found) == [f"{name}.jpg" for name in names]


def test_trainval_is_train_where_there_is_none(tmp_path, caplog):
    root = voc(tmp_path / "set", trainval="p0\np1\nq0", val="q0")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg", "p1.jpg"), "val": ("q0.jpg",)}
    assert "train is what trainval.txt names and no other list" in caplog.text


def test_what_trainval_has_alone_is_counted(tmp_path, caplog):
    root = voc(tmp_path / "set", trainval="p0\np1\nq0", train="p0", val="q0")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg",), "val": ("q0.jpg",)}
    assert "1 images of trainval are in no other list and left out: p1.jpg" in caplog.text
    assert "1 xml files are named by no list that is read: p1.xml" in caplog.text


@pytest.mark.parametrize(
    "splits", ["trainval", "train=trainval", "val=q,train=trainval", "my_train"]
)
def test_what_convert_says_works(tmp_path, splits):
    root = voc(tmp_path / "set", trainval="p0\np1", q="q0", my_train="p0\np1")
    done = d2kd("convert", "voc", root, tmp_path / "out", "--splits", splits)
    assert f"use it with --data {tmp_path / 'out'}" in done.output, done.output
    assert read_dataset_folder(tmp_path / "out")["train"].json.is_file()
    assert d2kd("data", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(("splits", "message"), [
    ("q", "--splits q: say which split it is, once: train=q"),
    ("train=q,train=trainval", "--splits train=trainval: say which"),
    ("nothing", "--splits nothing: there is no .*nothing.txt"),
])  # fmt: skip
def test_lists_that_are_no_split(tmp_path, splits, message):
    root = voc(tmp_path / "set", trainval="p0\np1", q="q0")
    with pytest.raises(ConfigError, match=message):
        voc_to_coco(root, tmp_path / "out", splits=splits.split(","))


LAYOUTS = {
    "Roboflow's": ("{split}/{id}.jpg", "{split}/{id}.xml"),
    "labelImg's": ("{split}/images/{id}.jpg", "{split}/annotations/{id}.xml"),
    "labelImg's, by kind": ("images/{split}/{id}.JPG", "annotations/{split}/{id}.xml"),
    "VOC's in folders": ("JPEGImages/{split}/{id}.png", "Annotations/{split}/{id}.xml"),
    "two levels down": ("cells/{split}/img/{id}.jpg", "cells/{split}/xml/{id}.XML"),
}


@pytest.mark.parametrize("same_names", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_without_lists(tmp_path, layout, same_names):
    """The command that `d2kd data` gives works, and what it writes has every box."""
    image, xml = LAYOUTS[layout]
    for split, ids in {"train": IDS["train"], "valid": IDS["val"]}.items():
        for index, name in enumerate(ids):
            name = f"p{index}" if same_names else name
            add(tmp_path / "set", image.format(split=split, id=name),
                xml.format(split=split, id=name))  # fmt: skip
    said = d2kd("data", tmp_path / "set").output
    assert f"d2kd convert voc {tmp_path / 'set'} set_coco" in said, said
    done = d2kd("convert", "voc", tmp_path / "set", tmp_path / "out")
    assert "instances_train.json: 2 images, 2 boxes" in done.output, done.output
    assert "instances_val.json: 1 images, 1 boxes" in done.output
    checked = d2kd("data", tmp_path / "out")
    assert checked.exit_code == int(same_names), checked.output  # the pictures are all alike


def test_without_any_split_all_is_train(tmp_path, caplog):
    root = voc(tmp_path / "set")
    (root / "Annotations" / "alone.xml").write_text(XML.format("gone.jpg"))
    Image.new("RGB", (4, 4)).save(root / "JPEGImages" / "bare.jpg")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg", "p1.jpg", "q0.jpg")}
    for text in ("all 3 images are train.",
                 "1 xml files fit no image: alone",
                 "1 images have no xml file and are left out: bare.jpg"):  # fmt: skip
        assert text in caplog.text


def test_filename_counts_where_the_stem_fits_none(tmp_path):
    add(tmp_path / "set", "images/photo 1.jpg", "annotations/0001.xml", "photo 1.jpg")
    assert converted(tmp_path / "set", tmp_path / "out")["train"] == ("images/photo 1.jpg",)
    assert image_root(tmp_path / "set") == tmp_path / "set"


def test_devkit(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2007", train="p0")
    assert converted(tmp_path / "VOCdevkit", tmp_path / "out") == {"train": ("p0.jpg",)}
    assert image_root(tmp_path / "VOCdevkit") == tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"
    voc(tmp_path / "VOCdevkit" / "VOC2012", train="p0")
    with pytest.raises(ConfigError, match=r"holds several .* one of .*VOC2007 and .*VOC2012"):
        voc_to_coco(tmp_path / "VOCdevkit", tmp_path / "out")


def test_a_listed_image_without_xml_is_named(tmp_path):
    root = voc(tmp_path / "set", train="p0\np1")
    (root / "Annotations" / "p1.xml").unlink()
    with pytest.raises(ConfigError, match="names the xml file of p1, which .*Annotations"):
        voc_to_coco(root, tmp_path / "out")


def test_an_empty_list_is_left_out(tmp_path, caplog):
    root = voc(tmp_path / "set", train="p0", test="\n")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg",)}
    assert "test is left out: test names no image" in caplog.text


def test_images_without_any_object_are_refused_before_anything_is_written(tmp_path):
    root = voc(tmp_path / "set", train="p0")
    (root / "Annotations" / "p0.xml").write_text("<annotation/>")
    with pytest.raises(ConfigError, match="none of the xml files, such as .*p0.xml, has an object"):
        voc_to_coco(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert set(voc_to_coco(root, tmp_path / "out", ["cell"])) == {"train"}


def test_the_output_is_a_folder(tmp_path):
    (tmp_path / "out").touch()
    done = d2kd("convert", "voc", voc(tmp_path / "set", train="p0"), tmp_path / "out")
    assert done.exit_code == 1 and "out is a file" in done.output


@pytest.mark.parametrize("name", ["instances_val.json", "dataset.yaml"])
@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_files_of_the_user_stay(tmp_path, kind, name):
    """Also those that would be written before; a second conversion replaces the first."""
    source = voc(tmp_path / "set", train="p0", val="q0") if kind == "voc" else yolo_set(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("names: [mine]")
    done = d2kd("convert", kind, source, tmp_path / "out")
    assert done.exit_code == 1 and f"{name} exists and is not d2kd's" in done.output, done.output
    assert [x.read_text() for x in (tmp_path / "out").iterdir()] == ["names: [mine]"]
    for _ in range(2):
        assert d2kd("convert", kind, source, tmp_path / "new").exit_code == 0


def test_a_missing_image_is_not_taken_for_one_whose_name_it_begins_with(tmp_path):
    root = voc(tmp_path / "set", train="p0\np1 12")
    with pytest.raises(ConfigError, match="train.txt names p1 12, which .*JPEGImages lacks"):
        voc_to_coco(root, tmp_path / "out")


@pytest.mark.parametrize("line", ["", "0001", "train/0001"])
def test_a_missing_image_is_not_taken_from_another_split(tmp_path, line):
    """Without lists its xml file fits no image, and val's image keeps its own xml file."""
    root = tmp_path / "train"  # a word above the data set says nothing
    for split in ("train", "val"):
        for name in ("0001", "0002"):
            add(root, f"JPEGImages/{split}/{name}.jpg", f"Annotations/{split}/{name}.xml")
    (root / "JPEGImages/train/0001.jpg").unlink()
    if not line:
        found = {"train": ("train/0002.jpg",), "val": ("val/0001.jpg", "val/0002.jpg")}
        assert converted(root, tmp_path / "out") == found
        return
    (root / "ImageSets").mkdir()
    (root / "ImageSets/train.txt").write_text(f"{line}\ntrain/0002")
    (root / "ImageSets/val.txt").write_text("0001")
    with pytest.raises(ConfigError, match=f"train.txt names {line}, which .*JPEGImages lacks"):
        voc_to_coco(root, tmp_path / "out")
    assert converted(root, tmp_path / "out", splits=["val"]) == {"val": ("val/0001.jpg",)}
    (root / "ImageSets/trainval.txt").write_text("val/0002\n0001")
    found = converted(root, tmp_path / "out", splits=["train=trainval"])
    assert found == {"train": ("val/0002.jpg", "val/0001.jpg")}


@pytest.mark.parametrize(("line", "taken", "said"), [
    ("p0", "p0.png", "1 images are left out for others whose suffix alone differs: p0.png, not p0"),
    ("p0.jpg", "p0.jpg", ""), ("x/p0.jpg", "p0.jpg", ""), ("p0.png", "p0.png", "p0.png, not p0"),
    ("P0", "p0.png", "1 images are taken whose names are written differently: p0.png for P0"),
])  # fmt: skip
def test_names_that_may_mean_another_are_counted(tmp_path, caplog, line, taken, said):
    root = voc(tmp_path / "set", train=line)
    Image.new("RGB", (20, 10)).save(root / "JPEGImages" / "p0.png")
    assert converted(root, tmp_path / "out") == {"train": (taken,)}
    assert said in caplog.text
    assert ("images are left out" in caplog.text) == (taken == "p0.png")


@pytest.mark.parametrize("place", ["ImageSets/first.txt", "first.txt", "ImageSets/Main/first.TXT"])
def test_lists_are_asked_for_wherever_they_are_found(tmp_path, place):
    root = voc(tmp_path / "set", train="p0\np1", val="q0")
    (root / place).write_text("p1")
    found = converted(root, tmp_path / "out", splits=["train=first", "val"])
    assert found == {"train": ("p1.jpg",), "val": ("q0.jpg",)}


def test_the_suffix_of_a_list_in_any_case(tmp_path):
    root = voc(tmp_path / "set", train="p0")
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/train.TXT")
    assert converted(root, tmp_path / "out") == {"train": ("p0.jpg",)}
