"""Broken annotation files: read, or refused with one line that names the file; nothing else."""

import copy
import json
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import build_train_loader, register_custom_datasets
from d2kd.data.voc import voc_to_coco
from tests.conftest import ROOT
from tests.data.test_prepare_crowdhuman import RECORDS, folder
from tests.faults.conftest import FULL

sys.path.insert(0, str(ROOT / "datasets"))
import prepare_crowdhuman  # noqa: E402

FUZZ = settings(max_examples=600 if FULL else 60, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))  # fmt: skip
JUNK = st.sampled_from(
    [None, "", "x", -1, 0, 3, 1e300, -(2**70), True, [], [1], {}, {"a": 1}, float("nan"),
     float("inf"), "../../etc", [None] * 4, ["1", 2, 3, 4]]
)  # fmt: skip
TEXT = st.sampled_from(
    [b"", b"\x00", b"{", b"}", b",", b"]", b'"', b"\xff\xfe", b"NaN", b"<", b">"]
)


def places(node):
    """Every (container, key) below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def mutated(data, record):
    """A copy with one value replaced or removed."""
    record = copy.deepcopy(record)
    container, key = data.draw(st.sampled_from(list(places(record))))
    if data.draw(st.booleans()) and isinstance(container, dict):
        del container[key]
    else:
        container[key] = data.draw(JUNK)
    return record


def cut(data, content):
    """Bytes with a part replaced by junk."""
    start = data.draw(st.integers(0, len(content)))
    end = min(len(content), start + data.draw(st.integers(0, 40)))
    return content[:start] + data.draw(TEXT) + content[end:]


def explained(call, *names):
    """A call returns, or its error has one line with one of the names."""
    try:
        call()
    except (ValueError, FileNotFoundError) as error:
        assert any(name in str(error) for name in names), error
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def odgt(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("odgt"), RECORDS)


@FUZZ
@given(data=st.data())
def test_odgt(odgt, data):
    path = odgt / "annotation_val.odgt"
    lines = [json.dumps(mutated(data, RECORDS[0])).encode(), json.dumps(RECORDS[1]).encode()]
    content = b"\n".join(lines)
    path.write_bytes(cut(data, content) if data.draw(st.booleans()) else content)
    explained(lambda: prepare_crowdhuman.convert(odgt, "val"), path.name, "Images")


VOC = b"""<annotation><size><width>60</width><height>50</height><depth>3</depth></size>
<object><name>cell</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax>
<ymax>30</ymax></bndbox></object></annotation>"""
LAUGHS = (
    b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">"""
    + b"".join(b'<!ENTITY %c "%s">' % (97 + i, b"&%c;" % (96 + i) * 10) for i in range(1, 12))
    + b"""]><annotation><object><name>&l;</name></object></annotation>"""
)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (60, 50)).save(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    return root


@FUZZ
@given(data=st.data())
def test_voc(voc, data):
    path = voc / "Annotations" / "a.xml"
    content = VOC
    for word in (b"60", b"cell", b"<xmin>3", b"20", b"bndbox"):
        if data.draw(st.booleans()):
            junk = [b"", b"nan", b"1e999", b"-7", b"x", b"&lt;", b"9" * 400]
            content = content.replace(word, data.draw(st.sampled_from(junk)))
    path.write_bytes(cut(data, content) if data.draw(st.booleans()) else content)
    explained(lambda: voc_to_coco(voc, voc / "out"), path.name)


def test_an_xml_that_explodes_is_refused(voc):
    (voc / "Annotations" / "a.xml").write_bytes(LAUGHS)
    with pytest.raises(ValueError, match="a.xml"):
        voc_to_coco(voc, voc / "out")


@FUZZ
@given(data=st.data())
def test_coco(squares, tmp_path_factory, data):
    """Up to the first batch that training would get."""
    record = mutated(data, json.loads((squares / "squares.json").read_text()))
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    content = json.dumps(record).encode()
    path.write_bytes(cut(data, content) if data.draw(st.integers(0, 3)) == 0 else content)
    cfg = get_d2kd_cfg()
    cfg.DATASETS.CUSTOM = [["mutated", str(path), str(squares)]]
    cfg.DATASETS.TRAIN = ("mutated",)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 0, 12, 1
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    try:
        explained(lambda: first_batch(cfg), path.name, "mutated", squares.name)
    finally:
        if "mutated" in DatasetCatalog:
            DatasetCatalog.remove("mutated")
            MetadataCatalog.remove("mutated")


def first_batch(cfg):
    register_custom_datasets(cfg)
    return next(iter(build_train_loader(cfg)))
