"""YOLO's layout as tools and other machines leave it: read, or counted and named."""

import json
import time

import pytest
from PIL import Image

from d2kd.data.yolo import yolo_to_coco
from d2kd.errors import ConfigError
from tests.helpers import d2kd
from tests.own_sets import yolo_set

LINE = "0 0.5 0.5 0.5 0.5"


def converted(data_yaml, output):
    return {k: json.loads(v.read_text()) for k, v in yolo_to_coco(data_yaml, output).items()}


def boxes(tmp_path, *lines, names="[cat, dog]"):
    source = yolo_set(tmp_path / "set", lines, names)
    return converted(source, tmp_path / "out")["train"]["annotations"]


def rewritten(path, old, new):
    path.write_text(path.read_text().replace(old, new))
    return path


def with_names(tmp_path, images, labels):
    """A set whose train has more images and label files of these names."""
    source = yolo_set(tmp_path / "set")
    for name in images:
        Image.new("RGB", (8, 8)).save(source.parent / "images" / "train" / f"{name}.png")
    for name in labels:
        (source.parent / "labels" / "train" / f"{name}.txt").write_text(LINE)
    return source


@pytest.mark.parametrize(("image", "label"), [
    ("d\u00e9 1", "d%C3%A9%201"), ("d\u00e9", "de\u0301"), ("de\u0301", "d\u00e9"),
    ("IMG_1", "img_1"), ("b", "b.png"), ("two words", "two_words"),
])  # fmt: skip
def test_names_that_are_written_differently(tmp_path, caplog, image, label):
    found = converted(with_names(tmp_path, [image], [label]), tmp_path / "out")["train"]
    assert len(found["annotations"]) == 2
    assert "train: 1 label files are taken whose names are written differently" in caplog.text
    assert "no label file" not in caplog.text.replace("1 of 1 val images have no label file", "")


def test_a_name_like_two_others_is_not_guessed(tmp_path, caplog):
    source = with_names(tmp_path, ["IMG", "Img"], ["img"])
    assert len(converted(source, tmp_path / "out")["train"]["annotations"]) == 1
    assert ("2 of 3 train images have no label file (background); 1 label files fit no image, for "
            f"example {source.parent}/labels/train/img.txt") in caplog.text  # fmt: skip


def test_orphans_are_counted_once(tmp_path, caplog):
    source = with_names(tmp_path, ["b"], ["b", "gone"])
    (source.parent / "labels" / "train" / "deep").mkdir()
    (source.parent / "labels" / "train" / "deep" / "c.txt").write_text(LINE)
    (source.parent / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    (source.parent / "labels" / "train" / "notes.txt").write_text("1 day of work\n")
    (source.parent / "list.txt").write_text("images/train/a.png\n")  # b is there, though not listed
    rewritten(source, "val: images/val", "val: list.txt")
    rewritten(source, "train: images/train", "train: list.txt")
    converted(source, tmp_path / "out")
    assert caplog.text.count("fit no image") == 1 and "2 label files of train fit no" in caplog.text
    assert "1 images are in train and in val" in caplog.text


def test_images_in_other_formats_are_counted(tmp_path, caplog):
    source = with_names(tmp_path, [], ["p0"])
    (source.parent / "images" / "train" / "p0.heic").write_bytes(b"x")
    converted(source, tmp_path / "out")
    assert "1 files are of formats that are not read" in caplog.text and "p0.heic" in caplog.text
    assert "1 label files of train fit no image" in caplog.text and "p0.txt" in caplog.text


@pytest.mark.parametrize(("key", "message"), [
    ("valid", "valid is taken as val"), ("validation", "validation is taken as val"),
    ("val:\nx", "val names nothing and is left out"),
    ("vall", r"1 keys are not known: vall (did you mean val?)"),
])  # fmt: skip
def test_keys_of_splits(tmp_path, caplog, key, message):
    source = rewritten(yolo_set(tmp_path / "set"), "val:", f"{key}:")
    found = converted(source, tmp_path / "out")
    assert ("val" in found) == key.startswith("valid") and message in caplog.text


def test_keys_of_exports_are_known(tmp_path, caplog):
    source = yolo_set(tmp_path / "set")
    source.write_text(source.read_text() + "nc: 2\ndownload: x\nroboflow: {workspace: y}\n")
    (source.parent / "labels" / "val" / "a.txt").write_text(LINE)
    converted(source, tmp_path / "out")
    assert not caplog.text


@pytest.mark.parametrize("empty", [False, True])
def test_a_test_split_that_is_not_there_costs_a_warning(tmp_path, caplog, empty):
    source = yolo_set(tmp_path / "set")
    source.write_text(source.read_text() + "test: ../test/images\n")
    if empty:
        (source.parent / "test" / "images").mkdir(parents=True)
    done = d2kd("convert", "yolo", source, tmp_path / "out")
    assert done.exit_code == 0 and "test is left out: " in caplog.text
    assert f"use it with --data {tmp_path / 'out'}" in done.output
    rewritten(source, "images/val", "nothing")
    with pytest.raises(ConfigError, match=r"data.yaml, val: .*nothing is no folder of images"):
        yolo_to_coco(source, tmp_path / "out")


def test_paths_of_another_machine(tmp_path, caplog):
    """Folders and lists are found by the ends of their paths; what is taken is said."""
    source = rewritten(yolo_set(tmp_path / "set"), "images/val", "val.txt")
    rewritten(source, "images/train", "/content/cells/images/train")
    (source.parent / "val.txt").write_text("/content/cells/images/val/a.png\nC:\\x\\val\\a.png\n")
    rewritten(source, "path: .", "path: /content/cells")
    with pytest.raises(ConfigError, match="val.txt: 1 images do not exist"):
        yolo_to_coco(source, tmp_path / "out")
    rewritten(source.parent / "val.txt", "\\val", "\\images\\val")
    found = converted(source, tmp_path / "out")
    assert [x["images"][0]["file_name"] for x in found.values()] == [
        "images/train/a.png", "images/val/a.png"]  # fmt: skip
    assert found["train"]["annotations"] and len(found["val"]["images"]) == 1
    for text in ("path: /content/cells is taken as", "/content/cells/images/train does not exist",
                 "2 images are of another machine"):  # fmt: skip
        assert text in caplog.text


def test_a_folder_named_images_alone_is_not_guessed(tmp_path):
    source = rewritten(yolo_set(tmp_path / "set"), "images/train", "/content/train/images")
    with pytest.raises(ConfigError, match="train: /content/train/images is no folder"):
        yolo_to_coco(source, tmp_path / "out")


@pytest.mark.parametrize("case", ["beside", "upper"])
def test_labels_in_other_places(tmp_path, case):
    source = yolo_set(tmp_path / "set")
    folder = source.parent
    if case == "beside":
        (folder / "labels/train/a.txt").rename(folder / "images/train/a.txt")
    else:
        (folder / "images").rename(folder / "Images")
        (folder / "labels").rename(folder / "Labels")
        rewritten(source, "images", "Images")
    assert len(converted(source, tmp_path / "out")["train"]["annotations"]) == 1


def test_labels_in_one_folder_are_hinted_at(tmp_path):
    source = yolo_set(tmp_path / "set")
    (source.parent / "labels/train/a.txt").rename(source.parent / "labels/a.txt")
    with pytest.raises(ConfigError, match=r"does not exist, for example. .*labels/a.txt has its"):
        yolo_to_coco(source, tmp_path / "out")


@pytest.mark.parametrize("line", [
    "0.0 0.5 0.5 0.5 0.5  ", "0,0.5,0.5,0.5,0.5", "0, 0.5, 0.5, 0.5, 0.5", "0\t.5\t.5\t.5\t5e-1\r",
    "0 0,5 0,5 0,5 0,5",
])  # fmt: skip
def test_lines_that_are_read(tmp_path, line):
    (found,) = boxes(tmp_path, line)
    assert found["bbox"] == [10, 5, 20, 10]


def test_what_is_said_of_lines(tmp_path, caplog):
    turned = "1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2"
    found = boxes(tmp_path, LINE, LINE, "0,0.5,0.5,0.1,0.1", turned)
    assert len(found) == 3 and len(found[2]["segmentation"][0]) == 8
    for text in ("1 label lines are there twice", "1 label lines have commas",
                 "1 objects have 4 corners, as turned boxes have"):  # fmt: skip
        assert text in caplog.text


@pytest.mark.parametrize(("lines", "message"), [
    (["0 0.5 0.5 0.1 0.1 0.9"], "not 5 numbers .* may be a confidence or a track"),
    (["0 0.5 0.5 0.1 0.1 0.9 1"], "1 lines of more than a box have 6 numbers .* track"),
    (["cat 0.5 0.5 0.1 0.1"], "holds something that is no number. Write 0 for cat"),
    (["7 0.5 0.5 0.1 0.1", LINE, "0 9 9 9 9", "x"], "line 1: class 7, .* 2 more lines cannot"),
])  # fmt: skip
def test_lines_that_are_refused(tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message):
        boxes(tmp_path, *lines)


def test_names_in_a_file_of_their_own(tmp_path):
    source = yolo_set(tmp_path / "set", names="classes.txt")
    (source.parent / "classes.txt").write_text("\ufeffcat\r\nbig dog\r\n\r\n")
    found = converted(source, tmp_path / "out")["train"]
    assert [x["name"] for x in found["categories"]] == ["cat", "big dog"]


BOMBS = {
    "aliases": "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}x]\n" for i in range(1, 12)).replace(
        "*a0", "x") + "names: *a11\n",
    "a train of aliases": "t: &t [images/train, images/val]\ntrain: [" + "*t, " * 2000 + "]\n",
    "nested": "names: " + "[" * 400 + "]" * 400 + "\n",
    "a long name": "names: [" + "x" * 20_000 + "]\n",
    "an endless alias": "names: &n [*n]\n",
    "a large number": "names: {0: cat, 999999999999: dog}\n",
    "large counts": "names: [cat, dog]\nnc: 999999999999\n",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_yaml_that_asks_for_much_is_refused_at_once(tmp_path, bomb):
    source = yolo_set(tmp_path / "set")
    text = source.read_text().replace("names: [cat, dog]\n", "") if "names" in BOMBS[bomb] else ""
    source.write_text(text + BOMBS[bomb] + ("" if "names" in BOMBS[bomb] else "names: [cat]\n"))
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="data.yaml") as error:
        yolo_to_coco(source, tmp_path / "out")
    assert "\n" not in str(error.value) and time.perf_counter() - start < 5


def test_files_too_large_for_what_they_are(tmp_path):
    source = yolo_set(tmp_path / "set")
    with open(source.parent / "labels/train/a.txt", "wb") as file:
        file.truncate(2**25)
    with pytest.raises(ConfigError, match="a.txt is larger than 16 MB, too large for labels"):
        yolo_to_coco(source, tmp_path / "out")


DRAFTS = {
    "Label Studio's": (
        {"images/a.png": None, "labels/a.txt": LINE, "classes.txt": "cat\ndog\n"},
        "{train: images, names: classes.txt}"),
    "CVAT's": (
        {"obj_train_data/a.png": None, "obj_train_data/a.txt": LINE, "obj.names": "cat\n",
         "train.txt": "data/obj_train_data/a.png\n", "obj.data": "classes = 1\n"},
        "{train: train.txt, names: obj.names}"),
    "labelImg's": (
        {"a.png": None, "a.txt": LINE, "classes.txt": "cat\n"}, "{train: ., names: classes.txt}"),
    "folders of splits": (
        {"train/images/a.png": None, "train/labels/a.txt": LINE, "valid/images/b.png": None,
         "names.names": "cat\n"},
        "{train: train/images, val: valid/images, names: names.names}"),
}  # fmt: skip


@pytest.mark.parametrize("tool", DRAFTS)
def test_the_data_yaml_that_is_proposed_works(tmp_path, tool):
    files, yaml = DRAFTS[tool]
    folder = tmp_path / "set"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (8, 8)).save(folder / name)
        else:
            (folder / name).write_text(text)
    for said in (d2kd("data", folder), d2kd("convert", "yolo", folder, tmp_path / "out")):
        assert said.exit_code == 1 and f"for example {yaml}" in said.output, said.output
    (folder / "data.yaml").write_text(yaml)
    assert len(converted(folder, tmp_path / "out")["train"]["annotations"]) == 1
    assert f"d2kd convert yolo {folder}/data.yaml set_coco" in d2kd("data", folder).output
