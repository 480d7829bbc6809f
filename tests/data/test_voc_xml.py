"""Annotation files in Pascal VOC's format: encodings, odd content, and files made to harm."""

import json
import logging
import time

import pytest
from PIL import Image

from d2kd.data.voc import voc_to_coco
from d2kd.data.voc.annotation import read_xml
from d2kd.errors import ConfigError

BOX = "<bndbox><xmin>2</xmin><ymin>3.5</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


def xml(*names, before="", size="", box=BOX):
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
    return f"{before}<annotation>{size}{objects}</annotation>"


def read(tmp_path, content):
    path = tmp_path / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_xml(path)


@pytest.mark.parametrize(("encoding", "declared"), [
    ("utf-8", None), ("utf-8-sig", None), ("utf-8", "UTF-8"), ("utf-16", "UTF-16"),
    ("latin-1", "ISO-8859-1"), ("cp1252", "windows-1252"), ("cp1251", "windows-1251"),
    ("gbk", "gb2312"),
])  # fmt: skip
def test_encodings(tmp_path, encoding, declared):
    name = "\u043a\u043e\u0442" if encoding in ("cp1251", "gbk") else "\u00e9pi"
    before = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    (box,) = read(tmp_path, xml(name, before=before).encode(encoding)).boxes
    assert box == (name, 1, 2.5, 8, 5.5)


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_a_path_in_an_encoding_that_is_not_stated(tmp_path, encoding):
    """Windows' tools write the image's path so; only a class name must be right."""
    letters = "\u4e2d\u6587" if encoding == "gbk" else "\u00e9"
    path = f"<path>C:\\{letters}\\a.jpg</path>"
    assert read(tmp_path, xml("cell", size=path).encode(encoding)).boxes[0][0] == "cell"
    with pytest.raises(ConfigError, match="is in an encoding that the file does not state"):
        read(tmp_path, xml(letters).encode(encoding))


@pytest.mark.parametrize(("content", "boxes"), [
    (xml(" a b ", "a/b", "$x$", "x" * 300), 4),
    (xml("a", size="<size><width>20.0</width><height>x</height></size>"), 1),
    (xml("a", box=BOX + "<part><name>head</name>" + BOX + "</part>"), 1),
    (xml("a", box=BOX.replace("3.5", " 3.5\n")), 1),
    (xml("a", before="<!DOCTYPE annotation><!-- labelImg -->"), 1),
    (xml(), 0), ("<annotation/>", 0), ("<other>" + xml("a") + "</other>", 0),
])  # fmt: skip
def test_odd_content(tmp_path, content, boxes):
    assert len(read(tmp_path, content).boxes) == boxes


ENTITY = "<!DOCTYPE annotation [<!ENTITY {}>]>"
LAUGHS = ENTITY.format('a "' + "x" * 1000 + '"') + "<annotation>" + "&a;" * 10 + "</annotation>"


@pytest.mark.parametrize(("content", "message"), [
    (LAUGHS, "it declares entities"),
    (LAUGHS.encode("utf-16"), "it declares entities"),
    (xml("&x;", before=ENTITY.format('x SYSTEM "file:///etc/passwd"')), "it declares entities"),
    (xml("&x;", before=ENTITY.format('% x SYSTEM "http://127.0.0.1/"')), "it declares entities"),
    (xml("a", before='<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">').replace("a</", "&x;</"),
     "undefined entity|a.xml: not a VOC"),
    ("<a>" * 200_000, "nested too deep"), ("", "no element found"), ("{}", "not well-formed"),
    (b"\0" * 50, "a.xml"),
    (xml("a", before='<?xml version="1.0" encoding="none"?>'), "unknown encoding"),
    (xml("a", box=BOX + BOX), "has several bndbox"),
    (xml("a", box="<robndbox/>"), "a turned box"),
    (xml("a", box=BOX.replace(">9<", ">inf<")), "a corner that is no number"),
    (xml("a", box=BOX.replace(">9<", ">nan<")), "a corner that is no number"),
])  # fmt: skip
def test_what_is_refused_in_one_line(tmp_path, content, message):
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path, content)
    assert "a.xml" in str(error.value) and "\n" not in str(error.value)
    assert time.perf_counter() - start < 2


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "a.xml", "wb") as file:
        file.truncate(2**25)
    with pytest.raises(ConfigError, match="a.xml is larger than 16 MB"):
        read_xml(tmp_path / "a.xml")


def test_what_is_said_of_all_files(tmp_path, caplog):
    """Polygons, boxes before pixel 1, names that differ in case: one line each."""
    polygon = BOX.replace(">2<", ">0<") + "<polygon><x1>1</x1></polygon>"
    for name, content in {"a": xml("Cat", box=polygon), "b": xml("cat", "dog")}.items():
        (tmp_path / f"{name}.xml").write_text(content)
        Image.new("RGB", (20, 10)).save(tmp_path / f"{name}.jpg")
    with caplog.at_level(logging.WARNING):
        voc_to_coco(tmp_path, tmp_path / "out")
    for text in ("1 xml files have polygons that cannot be read, of whose objects the boxes are "
                 "taken: a.xml",
                 "1 xml files have boxes before pixel 1", "1 class names may be the same: "
                 "'Cat' and 'cat'"):  # fmt: skip
        assert caplog.text.count(text) == 1


@pytest.mark.parametrize("polygon", [
    "<x1>3</x1><y1>2</y1><x2>11</x2><y2>2</y2><x3>11</x3><y3>9</y3>",
    "<pt><x>3</x><y>2</y></pt><pt><x>11</x><y>2</y></pt><pt><x>11</x><y>9</y></pt>",
])  # fmt: skip
def test_polygons_are_kept(tmp_path, polygon):
    """Roboflow's and LabelMe's, from pixel 1 as the boxes; an object without one has its box."""
    first = xml("cat", box=f"{BOX}<polygon>{polygon}</polygon>")
    (tmp_path / "a.xml").write_text(
        first.replace("</annotation>", "") + xml("dog").replace("<annotation>", "")
    )
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    path = voc_to_coco(tmp_path, tmp_path / "out")["train"]
    cat, dog = json.loads(path.read_text())["annotations"]
    assert cat["segmentation"] == [[2, 1, 10, 1, 10, 8]] and cat["area"] == 28
    assert "segmentation" not in dog
