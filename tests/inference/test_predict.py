"""`d2kd predict` on folders as users have them: it goes on, loses nothing and says what it left."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import d2kd, detector, write_config
from tests.inference.test_video import video

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, squares):
    at = tmp_path_factory.mktemp("predict")
    torch.save(
        {"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()}, at / "weights.pth"
    )
    return write_config(at, squares), "--weights", at / "weights.pth"


@pytest.fixture
def photos(tmp_path):
    """Two images of one name, and a turned one in a folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("a.jpg", {}), ("a.png", {}), ("more/turned.jpg", {"exif": exif})):
        Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
            folder / name, **options
        )
    return folder


def predict(trained, source, output, *options):
    config, *weights = trained
    return d2kd("predict", config, source, *weights, "--output", output, "--threshold", 0, *options)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_done(trained, photos, tmp_path):
    (photos / "b.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-200])
    (photos / "b2.png").touch()
    (photos / "._a.jpg").write_bytes(b"mac")
    (photos / "c.heic").touch()
    (photos / "d.mp4").touch()
    Image.fromarray(RNG.random((40, 60), dtype=np.float32)).save(photos / "e.tif")
    Image.new("RGB", (6000, 1)).save(photos / "f.png")
    (photos / "g.jpg").symlink_to("nowhere.jpg")
    done = predict(trained, photos, tmp_path / "out", "--coco", tmp_path / "found.json")
    assert done.exit_code == 1
    for name, reason in {
        "b.jpg": "cannot be read", "b2.png": "cannot be read", "e.tif": "holds floating-point",
        "f.png: 6000 x 1 px": "are too narrow", "g.jpg": "cannot be read: No such file",
    }.items():  # fmt: skip
        assert f"{photos / name} {reason}" in done.output, done.output
    for line in ("1 hidden files are left out", "1 videos are left out", "wrote 3 images",
                 "1 files are of formats that are not read"):  # fmt: skip
        assert line in done.output
    coco = json.loads((tmp_path / "found.json").read_text())
    assert [(x["id"], x["file_name"], x["width"], x["height"]) for x in coco["images"]] == [
        (1, "a.jpg", 60, 40), (2, "a.png", 60, 40), (3, "more/turned.jpg", 40, 60)
    ]  # fmt: skip
    assert {x["image_id"] for x in coco["annotations"]} <= {1, 2, 3}
    written = sorted(x.relative_to(tmp_path / "out") for x in (tmp_path / "out").rglob("*.png"))
    assert [str(x) for x in written] == ["a.jpg.png", "a.png.png", "more/turned.png"]
    assert Image.open(tmp_path / "out" / "more" / "turned.png").size == (40, 60)


def test_classes_are_those_of_the_record_beside_the_weights(trained, photos, tmp_path):
    config, weights = trained[0], tmp_path / "run" / "weights.pth"
    weights.parent.mkdir()
    weights.write_bytes(trained[2].read_bytes())
    for classes, names in ((["cell", "debris"], ["cell", "debris"]), (["cell"], ["red", "green"])):
        record = json.dumps({"d2kd": "0.1.0", "classes": classes})
        (weights.parent / "run.json").write_text(record)
        done = predict((config, "--weights", weights), photos / "a.jpg", tmp_path / "out", "--coco",
                       tmp_path / "found.json")  # fmt: skip
        assert done.exit_code == 0, done.output
        found = json.loads((tmp_path / "found.json").read_text())["categories"]
        assert [x["name"] for x in found] == names


def test_where_nothing_is_found_the_highest_score_is_said(trained, photos, tmp_path):
    few = "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"
    for source in (photos / "a.jpg", video(tmp_path / "x.mp4", frames=2)):
        done = predict(trained, source, tmp_path / "out", "--threshold", 0.9, *few)
        assert "no score reaches the threshold of 0.900; the highest is 0.0" in done.output
        assert done.output.rstrip().endswith(": give a lower --threshold")
    assert "no score" not in predict(trained, photos / "a.jpg", tmp_path / "out", *few).output


def test_a_second_run_reads_no_drawings(trained, photos):
    before = {path: path.read_bytes() for path in photos.rglob("*.*g")}
    for _ in range(2):
        done = predict(trained, photos, photos / "out", "--coco", photos / "train.json")
        assert done.exit_code == 0, done.output
        assert "wrote 3 images" in done.output
    assert "3 pictures that d2kd predict drew are left out" in done.output
    done = predict(trained, photos, photos / "elsewhere")
    assert "wrote 3 images" in done.output
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("", ["--output", "{photos}"], "is the folder of the images"),
        ("a.jpg", ["--output", "{photos}"], "is the folder of the images"),
        ("a.jpg", ["--output", "{photos}/a.png"], "is a file: name a folder"),
        ("", ["--coco", "{photos}"], "is a folder: name a file"),
        ("", ["--coco", "{photos}/mine.json"], "holds no pseudo-labels of d2kd predict"),
        ("", ["--coco", "{photos}/a.png"], "holds no pseudo-labels of d2kd predict"),
        ("clip.mp4", ["--coco", "{photos}/new.json"], "--coco takes images"),
        ("clip.mp4", ["--output", "{photos}"], "is the folder of the video"),
        ("clip.mp4", [], "OpenCV finds no frame"),
        ("empty", [], "holds no image"),
    ],
)
def test_nothing_of_the_users_is_overwritten(trained, photos, tmp_path, source, options, message):
    (photos / "mine.json").write_text(json.dumps({"images": [], "annotations": []}))
    (photos / "clip.mp4").write_bytes(b"no video")
    (photos / "empty").mkdir()
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    options = [x.format(photos=photos) for x in options]
    done = predict(trained, photos / source, tmp_path / "out", *options)
    assert done.exit_code != 0 and message in done.output and "Traceback" not in done.output
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
    assert not (tmp_path / "out").exists()


def test_a_video_that_ends_early_is_drawn(trained, tmp_path):
    source = video(tmp_path / "a.avi", 4, "MJPG")
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    done = predict(trained, source, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "a.avi states 4 frames, maybe an estimate; 2 can be read" in done.output


def test_what_is_printed_is_fit_for_a_terminal(trained, tmp_path):
    name = "\x1b[31m" + "x" * 220
    Image.new("RGB", (60, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "\x1b[31m.heic").touch()
    done = predict(trained, tmp_path, tmp_path / "\x1b[0m")
    assert done.exit_code == 0 and "\x1b" not in done.output
    assert r"\x1b[31m.heic" in done.output and f"{'x' * 220}.png: " in done.output
