"""The images of a folder: each once, none hidden, none drawn by d2kd; what is left out is said."""

import os

import numpy as np
import pytest
from PIL import Image

from d2kd.data.image_files import FORMATS, SUFFIXES, list_images
from d2kd.data.pixels import PixelError, read_pixels
from d2kd.inference.drawings import save_drawing


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path, "PNG")
    return path


def names(folder):
    found, left_out = list_images(folder)
    return [x.relative_to(folder).as_posix() for x in found], left_out


def test_hidden_files_are_no_images(tmp_path):
    for name in ("a.PNG", "b/c.jpg", "._a.png", ".cache/d.png", "__MACOSX/b/e.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    found, left_out = names(tmp_path)
    assert found == ["a.PNG", "b/c.jpg"]
    assert len(left_out) == 1 and left_out[0].startswith("3 hidden files are left out: ")


def test_a_hidden_root_is_what_was_asked_for(tmp_path):
    picture(tmp_path / ".photos" / "a.png")
    assert names(tmp_path / ".photos") == (["a.png"], [])


def test_formats_that_are_not_read_are_named(tmp_path):
    picture(tmp_path / "a.png")
    others = ["b.HEIC", "c.ico", "d.pcx"]
    for name in others:
        (tmp_path / name).touch()
    shown = ", ".join(f"{tmp_path / name}" for name in others)
    assert names(tmp_path)[1] == [
        "3 files are of formats that are not read (save them as JPEG or PNG: ImageMagick reads "
        f"most, heif-convert HEIC, Pillow 12 AVIF): {shown}"
    ]


def test_every_format_that_is_read_is_found(tmp_path):
    suffixes = [x for x, name in Image.registered_extensions().items() if name in FORMATS]
    unusual = {".avifs", ".icb", ".pfm", ".vda", ".vst"}
    assert {*suffixes, ".mpo"} - unusual == SUFFIXES
    found = [picture(tmp_path / f"a{suffix}").name for suffix in SUFFIXES]
    assert names(tmp_path) == (sorted(found), [])


def test_names_of_what_is_left_out_are_fit_for_terminals(tmp_path):
    (tmp_path / "\x1b[31m.heic").touch()
    assert r"\x1b[31m.heic" in names(tmp_path)[1][0]


def test_folders_and_links(tmp_path):
    """A folder called x.jpg is searched; a link to a folder is followed once, dead ones stay."""
    root = tmp_path / "photos"
    picture(root / "x.jpg" / "a.png")
    picture(tmp_path / "elsewhere" / "b.png")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root, root / "circle")
    os.symlink(root / "x.jpg", root / "again")
    os.symlink("dead", root / "dead.png")
    os.symlink("loop.png", root / "loop.png")
    assert names(root) == (["dead.png", "linked/b.png", "loop.png", "x.jpg/a.png"], [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_a_closed_folder_is_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0o000)
    assert names(tmp_path) == (["a.png"], [f"1 folders cannot be opened: {tmp_path}/closed"])


def test_drawings_are_no_images(tmp_path):
    picture(tmp_path / "a.png")
    save_drawing(tmp_path / "out" / "b.png", np.zeros((6, 8, 3), np.uint8))
    assert names(tmp_path) == (
        ["a.png"], [f"1 pictures that d2kd predict drew are left out: {tmp_path}/out/b.png"]
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["ico", "pcx"])
def test_an_image_of_another_format_is_called_that(tmp_path, suffix):
    Image.new("RGB", (30, 20)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(PixelError, match=r"it is no image of a format that is read \(AVIF, BMP, "):
        read_pixels(tmp_path / f"a.{suffix}", "BGR")
