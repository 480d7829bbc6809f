"""Each image has a drawing of its own, and none is written over a user's picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2kd.errors import ConfigError
from d2kd.inference.drawings import drawing_paths, save_drawing


def drawn(tmp_path, *files):
    root, output = tmp_path / "in", tmp_path / "out"
    paths = drawing_paths([root / x for x in files], root, output)
    return [x.relative_to(output).as_posix() for x in paths]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["a.jpg", "b/a.jpg", "c.png"], ["a.png", "b/a.png", "c.png"]),
        (["a.jpeg", "a.jpg", "a.png"], ["a.jpeg.png", "a.jpg.png", "a.png.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg.png", "a.jpg.png.png", "a.png.png"]),
        (["A.jpg", "a.jpg"], ["A.jpg.png", "a.jpg-2.png"]),  # one file on macOS and Windows
        (["e\u0301.jpg", "\xe9.jpg"], ["e\u0301.jpg.png", "\xe9.jpg-2.png"]),
        (["a.b.jpg", "a.c.jpg"], ["a.b.png", "a.c.png"]),
    ],
)
def test_every_image_has_its_own(tmp_path, files, wanted):
    assert drawn(tmp_path, *files) == wanted
    assert len({x.casefold() for x in wanted}) == len(files)


def test_a_drawing_may_be_replaced_and_nothing_else(tmp_path):
    save_drawing(tmp_path / "out" / "a.png", np.zeros((6, 8, 3), np.uint8))
    assert drawn(tmp_path, "a.jpg") == ["a.png"]
    Image.new("RGB", (8, 6)).save(tmp_path / "out" / "b.png")
    with pytest.raises(ConfigError, match=r"out/b\.png exists and is no picture that d2kd"):
        drawn(tmp_path, "a.jpg", "b.jpg")


@pytest.mark.parametrize("output", ["in", "in/../in", "link"])
def test_the_folder_of_the_images_is_refused(tmp_path, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ConfigError, match="is the folder of the images: name another, such as"):
        drawing_paths([tmp_path / "in" / "a.jpg"], tmp_path / "in", tmp_path / output)


def test_a_file_is_no_folder_to_write_to(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        drawing_paths([Path("a.jpg")], Path(), tmp_path / "out")


def test_pixels_are_written_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    save_drawing(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
