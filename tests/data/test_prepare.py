"""A labelled folder in any layout becomes json files with a validation split."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw

from d2kd.data.coco_json import read_coco, to_coco
from d2kd.data.folder import read_dataset_folder
from d2kd.data.near_duplicates import _labels
from d2kd.data.prepare import forget_prepared, prepare_folder
from d2kd.errors import ConfigError

CLASSES = ["cell", "debris"]
COUNT = 10


def picture(path, seed):
    """A photograph of its own: blurred noise."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC).save(path)


def boxes(i):
    """Both classes in every third image, the first alone in the others."""
    return [("cell", 8, 6, 24, 18), ("debris", 40, 30, 16, 12)][: 1 + (i % 3 == 0)]


def coco_of(names, start=0):
    """The json file of images of 80 x 60 px, whose objects have triangles as masks."""
    triangle = [8.0, 6.0, 32.0, 6.0, 32.0, 24.0]
    images = [{"file_name": name, "width": 80, "height": 60, "boxes": boxes(i + start),
               "polygons": [triangle] * len(boxes(i + start))}
              for i, name in enumerate(names)]  # fmt: skip
    return to_coco(images, CLASSES)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))


def coco(root, file, images, listed="", count=COUNT, start=0):
    names = [f"{start + i}.png" for i in range(count)]
    for i, name in enumerate(names):
        picture(root / images / name, start + i)
    write(root / file, coco_of([listed + name for name in names], start))


def voc(root, images, xmls):
    entry = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"  # noqa: E501
    for i in range(COUNT):
        picture(root / images / f"{i}.png", i)
        found = [entry.format(n, x + 1, y + 1, x + w, y + h) for n, x, y, w, h in boxes(i)]
        write(root / xmls / f"{i}.xml", f"<annotation>{''.join(found)}</annotation>")


def yolo(root, images, labels, start=0):
    for i in range(start, start + COUNT):
        picture(root / images / f"{i}.png", i)
        lines = [f"{CLASSES.index(n)} {(x + w / 2) / 80} {(y + h / 2) / 60} {w / 80} {h / 60}"
                 for n, x, y, w, h in boxes(i)]  # fmt: skip
        write(root / labels / f"{i}.txt", "\n".join(lines))


def roboflow(root):
    yolo(root, "train/images", "train/labels")
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\n"
                              "names: [cell, debris]\n")  # fmt: skip


def cvat_yolo(root):
    yolo(root, "obj_train_data", "obj_train_data")
    write(root / "obj.names", "cell\ndebris\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{i}.png\n" for i in range(COUNT)))


def label_studio_yolo(root, names="classes.txt"):
    yolo(root, "images", "labels")
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    write(root / "notes.json", {"categories": categories, "info": {"version": "1.0"}})
    if names:
        write(root / names, "\n".join(CLASSES))


def in_subfolders(root):
    coco(root, "labels.json", "photos", count=COUNT)
    for i in range(COUNT):
        target = root / "photos" / f"day{i % 2}" / f"{i}.png"
        target.parent.mkdir(exist_ok=True)
        (root / "photos" / f"{i}.png").rename(target)


def yolo_in_subfolders(root):
    yolo(root, "images/day1", "labels/day1")
    yolo(root, "images/day2", "labels/day2", COUNT)
    shutil.rmtree(root / "images" / "day2")
    for i in range(COUNT, COUNT + 2):
        picture(root / "images" / "day2" / f"{i}.png", i)
    for i in range(2):
        (root / "images" / "day1" / f"{i}.png").unlink()
    write(root / "classes.txt", "\n".join(CLASSES))


LAYOUTS = {
    "CVAT's COCO": lambda r: coco(r, "annotations/instances_default.json", "images/default"),
    "Label Studio's COCO": lambda r: coco(r, "result.json", "images", "images/"),
    "another machine's": lambda r: coco(r, "result.json", "images", "../../home/me/media/"),
    "COCO in subfolders": in_subfolders,
    "Roboflow's COCO": lambda r: coco(r, "train/_annotations.coco.json", "train"),
    "labelImg's VOC": lambda r: voc(r, "images", "annotations"),
    "xml beside": lambda r: voc(r, "photos", "photos"),
    "VOC": lambda r: voc(r, "JPEGImages", "Annotations"),
    "Roboflow's YOLO": roboflow,
    "CVAT's YOLO": cvat_yolo,
    "Label Studio's YOLO": label_studio_yolo,
    "Label Studio's, notes alone": lambda r: label_studio_yolo(r, ""),
    "labelImg's YOLO": lambda r: (yolo(r, ".", "."), write(r / "classes.txt", "cell\ndebris")),
    "YOLO in subfolders": yolo_in_subfolders,
}


def contents(folder):
    return {x: x.read_bytes() for x in sorted(folder.rglob("*")) if x.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_divided(tmp_path, layout):
    folder, cache = tmp_path / "photos 1", tmp_path / "cache"
    LAYOUTS[layout](folder)
    before = contents(folder)
    splits = prepare_folder(folder, cache, 0.2, 1)
    assert contents(folder) == before
    cocos = {name: read_coco(x.json) for name, x in splits.items()}
    assert {k: len(x["images"]) for k, x in cocos.items()} == {"train": COUNT - 2, "val": 2}
    assert all(x.classes == CLASSES for x in splits.values())
    for name, found in cocos.items():
        seeds = {x["id"]: int(x["file_name"].split("/")[-1][:-4]) for x in found["images"]}
        assert all((splits[name].images / x["file_name"]).is_file() for x in found["images"])
        assert {a["category_id"] for a in found["annotations"]} == {1, 2}
        for image, seed in seeds.items():
            own = [a["bbox"] for a in found["annotations"] if a["image_id"] == image]
            np.testing.assert_allclose(own, [x[1:] for x in boxes(seed)], atol=1e-6)
    written = contents(cache)
    assert prepare_folder(folder, cache, 0.2, 1) == splits == read_dataset_folder(cache)
    prepare_folder(folder, tmp_path / "again", 0.2, 1)
    assert [*contents(tmp_path / "again").values()] == [*written.values()]
    assert contents(cache) == written


def test_masks_are_carried_through(tmp_path):
    coco(tmp_path / "a", "labels.json", "images")
    data = read_coco(tmp_path / "a" / "labels.json")
    rle = {"size": [60, 80], "counts": [100, 50, 4650]}
    data["annotations"][0]["segmentation"] = rle
    write(tmp_path / "a" / "labels.json", data)
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    found = [a["segmentation"] for x in splits.values() for a in read_coco(x.json)["annotations"]]
    assert rle in found and len(found) == len(data["annotations"])
    assert sum(x != rle and len(x[0]) == 6 for x in found) == len(found) - 1


def test_a_split_val_stays_and_one_of_the_images_of_train_does_not(tmp_path, caplog):
    coco(tmp_path / "a", "train.json", "images")
    coco(tmp_path / "a", "val.json", "images", count=3, start=COUNT)
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    assert [len(read_coco(x.json)["images"]) for x in splits.values()] == [COUNT, 3]
    assert not caplog.text
    shutil.copy(tmp_path / "a" / "train.json", tmp_path / "a" / "val.json")
    splits = prepare_folder(tmp_path / "a", tmp_path / "c")
    assert [len(read_coco(x.json)["images"]) for x in splits.values()] == [COUNT - 2, 2]
    assert "val has the images of train: 2 of 10 training images are val now" in caplog.text


def test_test_alone_is_kept_and_said(tmp_path, caplog):
    coco(tmp_path / "a", "train.json", "images")
    coco(tmp_path / "a", "test.json", "images", count=3, start=COUNT)
    splits = prepare_folder(tmp_path / "a", tmp_path / "b", 0.3, 2)
    assert [len(read_coco(x.json)["images"]) for x in splits.values()] == [7, 3, 3]
    assert "are val now (seed 2); the test split stays as it is." in caplog.text


def test_near_duplicates_stay_together(tmp_path, caplog):
    """Every image twice, the second one smaller, brighter and as JPEG."""
    coco(tmp_path / "a", "labels.json", "images")
    for i in range(COUNT):
        copy = Image.open(tmp_path / "a" / "images" / f"{i}.png").resize((64, 48))
        copy.point(lambda x: min(255, x + 12)).save(tmp_path / f"a/images/{i + 20}.jpg", quality=60)
    data = read_coco(tmp_path / "a" / "labels.json")
    copies = [{"id": x["id"] + 20, "file_name": f"{i + 20}.jpg"}
              for i, x in enumerate(data["images"])]  # fmt: skip
    data["images"] += copies
    write(tmp_path / "a" / "labels.json", data)
    for seed in range(5):
        splits = prepare_folder(tmp_path / "a", tmp_path / f"b{seed}", 0.3, seed)
        ids = [{x["id"] % 20 for x in read_coco(s.json)["images"]} for s in splits.values()]
        assert len(ids[0]) == 7 and len(ids[1]) == 3 and not ids[0] & ids[1]
    assert "20 that look alike on the same side" in caplog.text


def test_images_of_a_fixed_camera_are_divided(tmp_path, caplog):
    coco(tmp_path / "a", "labels.json", "images")
    background = Image.open(tmp_path / "a" / "images" / "0.png")
    for i in range(COUNT):
        image = background.copy()
        ImageDraw.Draw(image).rectangle((5 * i, 20, 5 * i + 24, 44), "red")
        image.save(tmp_path / "a" / "images" / f"{i}.png")
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    assert len(read_coco(splits["val"].json)["images"]) >= 1
    assert "images look alike, as those of a fixed camera do" in caplog.text


def test_without_imagehash_it_is_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    coco(tmp_path / "a", "labels.json", "images")
    prepare_folder(tmp_path / "a", tmp_path / "b")
    assert caplog.text.count("near-duplicates are not looked for: pip install imagehash") == 1


def test_what_cannot_be_trained_on_is_left_out_and_counted(tmp_path, caplog):
    coco(tmp_path / "a", "labels.json", "images")
    images = tmp_path / "a" / "images"
    (images / "0.png").unlink()
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:300])
    Image.new("RGB", (60, 80)).save(images / "2.png")
    Image.new("I", (80, 60)).save(images / "3.tif")
    (images / "3.tif").rename(images / "3.png")
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    found = {x["file_name"][7:] for s in splits.values() for x in read_coco(s.json)["images"]}
    assert found == {f"{i}.png" for i in range(4, COUNT)}
    for text in (
        "1 images do not exist, and are left out: 0.png",
        "1 images cannot be read or are cut off, and are left out: 1.png",
        "1 images have another size than stated, and are left out: 2.png",
        "1 images hold values of which white is not known, such as 12-bit or floating-point ones, "
        "and are left out: 3.png",
    ):
        assert caplog.text.count(text) == 1  # fmt: skip


@pytest.mark.parametrize("listed", ["", "/content/photos/train/"])
def test_a_missing_image_is_not_taken_from_another_split(tmp_path, caplog, listed):
    """Both splits count from 0.png, and val's has its own labels."""
    for split in ("train", "val"):
        coco(tmp_path / "a", f"{split}.json", split, listed if split == "train" else "", 3)
    (tmp_path / "a" / "train" / "1.png").unlink()
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    files = [[x["file_name"] for x in read_coco(s.json)["images"]] for s in splits.values()]
    assert files == [["train/0.png", "train/2.png"], [f"val/{i}.png" for i in range(3)]]
    assert f"train: 1 images do not exist, and are left out: {listed}1.png" in caplog.text


def test_links_to_image_files_keep_their_names(tmp_path):
    """As a hub's cache has them: the file has another name, without suffix."""
    coco(tmp_path / "a", "train.json", "images", count=4)
    (tmp_path / "blobs").mkdir()
    for i, path in enumerate(sorted((tmp_path / "a" / "images").iterdir())):
        path.rename(tmp_path / "blobs" / f"{i:09}")
        path.symlink_to(tmp_path / "blobs" / f"{i:09}")
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    names = [x["file_name"] for s in splits.values() for x in read_coco(s.json)["images"]]
    assert sorted(names) == [f"images/{i}.png" for i in range(4)]


def test_images_that_all_look_alike_need_little_memory():
    codes = np.arange(2**11, dtype=np.uint64)
    tracemalloc.start()
    labels = _labels(np.concatenate([codes, codes, codes[:1] + (2**60 - 2**12)]))
    assert tracemalloc.get_traced_memory()[1] < 2e6  # bytes; a table of pairs has 16e6
    tracemalloc.stop()
    assert set(labels[:-1]) == {0} and labels[-1] != 0


@pytest.mark.parametrize("layout", [voc, yolo])
def test_an_unreadable_image_of_voc_and_yolo_is_left_out(layout, tmp_path, caplog):
    layout(tmp_path / "a", "images", "labels")
    if layout is yolo:
        write(tmp_path / "a" / "data.yaml", "train: images\nnames: [cell, debris]\n")
    (tmp_path / "a" / "images" / "1.png").write_bytes(b"no image")
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    found = {x["file_name"][7:] for s in splits.values() for x in read_coco(s.json)["images"]}
    assert found == {f"{i}.png" for i in (0, *range(2, COUNT))}
    assert caplog.text.count("train: 1 images cannot be read, and are left out: ") == 1
    for i in range(COUNT):
        (tmp_path / "a" / "images" / f"{i}.png").write_bytes(b"no image")
    assert "train: no image can be read. " in said(tmp_path / "a", tmp_path / "c")


def said(*arguments):
    with pytest.raises(ConfigError) as error:
        prepare_folder(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_errors_are_one_line(tmp_path):
    assert "there is no such folder" in said(tmp_path / "none", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    assert "holds no data set" in said(tmp_path / "empty", tmp_path / "b")
    coco(tmp_path / "test", "test.json", "images")
    assert "has test, but no train to learn from" in said(tmp_path / "test", tmp_path / "b")
    coco(tmp_path / "one", "train.json", "images", count=1)
    assert "its 1 training images are too few" in said(tmp_path / "one", tmp_path / "b")
    coco(tmp_path / "ids", "train.json", "images")
    data = read_coco(tmp_path / "ids" / "train.json")
    data["images"][1]["id"] = data["images"][0]["id"]
    write(tmp_path / "ids" / "train.json", data)
    assert "1 image ids are used more than once" in said(tmp_path / "ids", tmp_path / "b")
    label_studio_yolo(tmp_path / "yolo", "")
    (tmp_path / "yolo" / "notes.json").unlink()
    assert "no file names its classes: write " in said(tmp_path / "yolo", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (tmp_path / "file").touch()
    assert "is a file: give the folder" in said(tmp_path / "file", tmp_path / "b")
    for cache in (tmp_path / "file", tmp_path / "file" / "b"):
        assert f"--output {cache} is " in said(tmp_path / "one", cache)
    coco(tmp_path / "a", "train.json", "images")
    inside = tmp_path / "a" / "cache"
    assert "is inside of" in said(tmp_path / "a", inside) and not inside.exists()
    prepare_folder(tmp_path / "a", tmp_path / "b")
    assert "'seed': 1" in said(tmp_path / "a", tmp_path / "b", 0.2, 3)
    (tmp_path / "b" / "prepared.yaml").unlink()
    assert "holds data from elsewhere" in said(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "instances_train.json").write_text("mine")
    assert "c holds other files, which stay there" in said(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c" / "instances_train.json").read_text() == "mine"


def test_a_call_that_was_cut_off_is_made_again(tmp_path):
    coco(tmp_path / "a", "train.json", "images")
    splits = prepare_folder(tmp_path / "a", tmp_path / "b")
    written = contents(tmp_path / "b")
    (tmp_path / "b" / "dataset.yaml").unlink()
    splits["val"].json.write_text("{")
    assert prepare_folder(tmp_path / "a", tmp_path / "b") == splits
    assert contents(tmp_path / "b") == written
    (tmp_path / "b" / "instances_mine.json").write_text("mine")
    forget_prepared(tmp_path / "b")
    assert [x.name for x in (tmp_path / "b").iterdir()] == ["instances_mine.json"]
