"""Boxes below the stride, and test sets on which AP is chance."""

import logging
import shutil

from detectron2.structures import BoxMode

from d2kd.data import register_custom_datasets
from d2kd.data.loader import build_train_loader
from d2kd.data.small_boxes import advice, small_boxes
from d2kd.testing import tiny_cfg
from tests.helpers import d2kd


def record(boxes, width=400, height=200, mode=BoxMode.XYWH_ABS):
    return {"width": width, "height": height,
            "annotations": [{"bbox": b, "bbox_mode": mode} for b in boxes]}  # fmt: skip


def test_share_and_size_worked_out_by_hand():
    """At 100 px the image is halved; sides of 10 and 40 px become 5 and 20 px."""
    found = small_boxes([record([[0, 0, 10, 90], [5, 5, 40, 50]])], 100, 200, 8)
    assert (found.share, found.total) == (0.5, 2)
    # 160 px make the first one 8 px, 40 px the second; the 90 % quantile of 40 and 160 is 148
    assert found.size == 160
    assert small_boxes([record([[0, 0, 10, 90]])], 160, 320, 8).share == 0.0
    assert (
        small_boxes([record([[0, 0, 10, 90]])], 160, 300, 8).share == 1.0
    )  # the longest side rules


def test_modes_and_images_without_boxes():
    corners = record([[10, 10, 20, 60]], mode=BoxMode.XYXY_ABS)
    strange = record([[1, 2, 3, 4, 90]], mode=BoxMode.XYWHA_ABS)
    found = small_boxes([corners, record([]), strange, {"annotations": []}], 100, 200, 8)
    assert (found.share, found.total) == (1.0, 1)
    assert small_boxes([record([])], 100, 200, 8).total == 0


def test_said_once_before_training_with_what_to_type(tmp_path, squares, caplog):
    """Squares of 12 to 23 px on images of 64 px are below 8 px at 24 px, and above it at 64 px."""
    cfg = tiny_cfg("GFL", classes=2)
    cfg.DATASETS.CUSTOM = [["small_squares", str(squares / "squares.json"), str(squares)]]
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = ("small_squares",), (64,)
    register_custom_datasets(cfg)
    with caplog.at_level(logging.WARNING):
        build_train_loader(cfg)
        assert "finest stride" not in caplog.text
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (24,), 40
        build_train_loader(cfg)
        build_train_loader(cfg)
    lines = [r.getMessage() for r in caplog.records if "finest stride" in r.getMessage()]
    assert len(lines) == 1 and "below 8 px" in lines[0] and "MIN_SIZE_TRAIN 24" in lines[0]
    assert 'INPUT.MIN_SIZE_TRAIN "(64,)" INPUT.MAX_SIZE_TRAIN 107' in lines[0]


def test_the_command_says_it_too_and_counts_no_problem(tmp_path, squares):
    (tmp_path / "images").mkdir()
    for path in squares.glob("*.png"):
        shutil.copy(path, tmp_path / "images")
    shutil.copy(squares / "squares.json", tmp_path / "train.json")
    done = d2kd("data", tmp_path, "--size", 24)
    assert "boxes have a side below 8 px" in done.output and "larger at 64 px" in done.output
    assert "No problem found." in done.output and done.exit_code == 0
    (tmp_path / "train.json").rename(tmp_path / "val.json")
    done = d2kd("data", tmp_path, "--skip-images")
    assert "12 images: on fewer than 50, AP moves by several points" in done.output


def test_advice_can_be_typed():
    text = advice(160, 4 / 3)
    assert text == ('INPUT.MIN_SIZE_TRAIN "(160,)" INPUT.MAX_SIZE_TRAIN 214 '
                    "INPUT.MIN_SIZE_TEST 160 INPUT.MAX_SIZE_TEST 214")  # fmt: skip
