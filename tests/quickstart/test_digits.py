"""The digits data set: the same files every time, boxes inside, no scan in two splits."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from d2kd.quickstart.digits import DigitsSpec, build_digits, split_scans

SPEC = DigitsSpec(num_train=6, num_test=3, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    assert build_digits(folder, SPEC)
    return folder


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_specs_give_equal_files_and_another_seed_does_not(root, tmp_path):
    build_digits(tmp_path / "same", SPEC)
    assert digest(tmp_path / "same") == digest(root)
    assert len(digest(root)) == 6 + 3 + 2 + 1
    build_digits(tmp_path / "other", DigitsSpec(num_train=6, num_test=3, seed=4))
    assert not set(digest(tmp_path / "other").values()) & set(digest(root).values())


def test_a_second_build_writes_nothing_and_repairs_what_is_missing(root):
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert not build_digits(root, SPEC)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == times
    before = digest(root)
    (root / "test" / "00001.jpg").unlink()
    assert build_digits(root, SPEC)
    assert digest(root) == before


def test_one_photograph_gives_other_files_and_both_are_described_as_before(root, tmp_path):
    for photo in (0, 1):
        build_digits(tmp_path / str(photo), DigitsSpec(2, 1, seed=3, photos=(photo,)))
    photos = [
        [np.asarray(Image.open(p)).mean((0, 1)) for p in sorted((tmp_path / str(i)).rglob("*.jpg"))]
        for i in (0, 1)
    ]
    blue = [np.mean([x[2] - x[0] for x in colors]) for colors in photos]
    assert blue[0] > blue[1] + 5  # sky over a temple, a red flower on green
    assert json.loads((tmp_path / "0" / "manifest.json").read_text())["spec"]["photos"] == [0]
    assert "photos" not in json.loads((root / "manifest.json").read_text())["spec"]


def test_a_smaller_spec_leaves_no_stale_image(tmp_path):
    build_digits(tmp_path, SPEC)
    assert build_digits(tmp_path, DigitsSpec(num_train=2, num_test=1, seed=3))
    assert len(list((tmp_path / "train").iterdir())) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_boxes_lie_inside_and_hold_their_digit(root, split):
    data = json.loads((root / f"{split}.json").read_text())
    assert [c["name"] for c in data["categories"]] == list("0123456789")
    counts = np.zeros(len(data["images"]), dtype=int)
    for box in data["annotations"]:
        x, y, w, h = box["bbox"]
        assert 0 <= x and 0 <= y and w >= 2 and h >= 2 and x + w <= 128 and y + h <= 128
        assert box["area"] == w * h and 1 <= box["category_id"] <= 10
        counts[box["image_id"] - 1] += 1
    assert counts.min() >= 3 and counts.max() <= 8
    assert len({box["id"] for box in data["annotations"]}) == counts.sum()
    for image in data["images"]:
        assert Image.open(root / split / image["file_name"]).size == (128, 128)


def test_train_and_test_share_no_scan():
    splits = split_scans(np.zeros(1797), seed=0)
    assert not set(splits["train"]) & set(splits["test"])
    assert sorted(np.concatenate(list(splits.values()))) == list(range(1797))
    assert len(splits["test"]) == 360


@pytest.mark.parametrize("split", ["train", "test"])
def test_masks_fill_their_boxes_and_lie_on_ink(root, split):
    data = json.loads((root / f"{split}.json").read_text())
    for digit in data["annotations"]:
        mask = rle.decode(digit["segmentation"])
        assert mask.shape == (128, 128)
        rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        x, y, w, h = digit["bbox"]
        assert (columns[0], rows[0]) == (x, y)
        assert (columns[-1] + 1 - x, rows[-1] + 1 - y) == (w, h)
        assert 0.1 * digit["area"] < mask.sum() < digit["area"]


def test_detectron2_reads_the_masks(root):
    from detectron2.data.datasets import load_coco_json

    records = load_coco_json(str(root / "train.json"), str(root / "train"))
    assert all("segmentation" in digit for x in records for digit in x["annotations"])
