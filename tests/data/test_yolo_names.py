"""Suffixes of labels in any case, and where data.yaml says the data is."""

import pytest

from d2kd.data.yolo import yolo_to_coco
from tests.data.test_yolo_odd import LINE, converted, rewritten, with_names
from tests.own_sets import yolo_set


@pytest.mark.parametrize("suffix", [".TXT", ".Txt"])
@pytest.mark.parametrize("beside", [False, True])
def test_suffixes_of_labels_in_any_case(tmp_path, caplog, suffix, beside):
    """Of the image's own name, and of one that is written differently."""
    source = with_names(tmp_path, ["c d"], ["c_d"])
    for path in (source.parent / "labels" / "train").glob("*.txt"):
        folder = source.parent / "images" / "train" if beside else path.parent
        path.rename(folder / f"{path.stem}{suffix}")
    if beside:
        (source.parent / "images" / "train" / f"c_d{suffix}").rename(
            source.parent / "labels" / "train" / f"c_d{suffix}")  # fmt: skip
    assert len(converted(source, tmp_path / "out")["train"]["annotations"]) == 2
    assert f"written differently: c_d{suffix} for c d" in caplog.text
    assert "of 2 train images have no label file" not in caplog.text


def test_a_second_label_file_of_an_image_is_counted(tmp_path, caplog):
    source = yolo_set(tmp_path / "set")
    (source.parent / "labels" / "train" / "a.TXT").write_text(f"{LINE}\n1 0.5 0.5 0.1 0.1")
    assert len(converted(source, tmp_path / "out")["train"]["annotations"]) == 1
    assert "1 label files of train fit no image" in caplog.text and "a.TXT" in caplog.text


def test_the_suffix_of_a_list_in_any_case(tmp_path):
    source = rewritten(yolo_set(tmp_path / "set"), "images/val", "val.TXT")
    (source.parent / "val.TXT").write_text("images/val/a.png\n")
    assert set(yolo_to_coco(source, tmp_path / "out")) == {"train", "val"}


@pytest.mark.parametrize(("path", "warned"), [
    ("{here}", False), ("../set", False), ("''", False), ("./", False),
    ("/content/set", True), ("/content/cells", True), ("/nowhere", True),
])  # fmt: skip
def test_a_path_is_warned_of_only_where_it_is_no_folder(tmp_path, caplog, path, warned):
    source = yolo_set(tmp_path / "set")
    (source.parent / "labels" / "val" / "a.txt").write_text(LINE)
    if path.endswith("cells"):  # the end of the path is there
        for kind in ("images", "labels"):
            (source.parent / "cells").mkdir(exist_ok=True)
            (source.parent / kind).rename(source.parent / "cells" / kind)
    rewritten(source, "path: .", f"path: {path.format(here=source.parent)}")
    converted(source, tmp_path / "out")
    assert ("is taken as" in caplog.text) == warned
    assert warned or not caplog.text
