"""Photos on a device: read and resized as d2kd reads and resizes them."""

import struct

import numpy as np
import pytest
from PIL import Image

from d2kd.data.pixels import PixelError, read_pixels
from d2kd.export.device_bundle import photo
from d2kd.export.size import fit

DAMAGED = b"Exif\0\0MM\0*" + struct.pack(
    ">IHHHIHHHHI4sI", 8, 2, 0x112, 3, 1, 6, 0, 0x11A, 2, 4, b"abc\0", 0
)
"""To be turned, with a resolution that is text, which Pillow reads and cannot write."""


def test_the_program_for_devices_resizes_likewise():
    rng = np.random.default_rng(0)
    for height, width, *size in rng.integers(1, 1500, (2000, 4)).tolist():
        about = {"size": size, "resize": rng.choice([[0, 900], [300, 500], [800, 1333]]).tolist()}
        (h, w), scale = fit((height, width), about)
        assert photo.fit(height, width, about) == pytest.approx((h, w, scale), rel=1e-12)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def test_a_photo_is_read_as_d2kd_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    deep = Image.fromarray(rng.integers(0, 65536, (6, 9), np.uint16))
    pixels = rng.integers(0, 256, (6, 9, 4), np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        saved(deep, tmp_path / "deep.png"),
        saved(deep, tmp_path / "deep.tif"),
        saved(deep, tmp_path / "turned.png", exif=exif),
        saved(deep, tmp_path / "deep.pgm"),
        saved(rgba, tmp_path / "rgba.png"),
        saved(rgba.convert("LA"), tmp_path / "la.png"),
        saved(rgb.quantize(4), tmp_path / "palette.png", transparency=1),
        saved(rgb.convert("1"), tmp_path / "bits.png"),
        saved(rgb.convert("CMYK"), tmp_path / "cmyk.jpg"),
        saved(rgb, tmp_path / "turned.jpg", exif=exif),
        saved(rgb, tmp_path / "turned.tif", exif=exif),
        saved(rgb, tmp_path / "resolution.jpg", exif=DAMAGED),
        saved(rgb, tmp_path / "none.jpg", exif=b"Exif\0\0none"),
    ]
    for file in files:
        found = np.asarray(photo.open_image(file))
        np.testing.assert_array_equal(found, read_pixels(file, "RGB"), err_msg=file.name)
        assert found.std() > 30, file.name


def test_a_photo_that_d2kd_refuses_is_one_line(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (6, 9))
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for file, said in (
        (saved(Image.fromarray(values.astype(np.float32)), tmp_path / "f.tif"), "floating-point"),
        (saved(Image.fromarray(values.astype(np.int32)), tmp_path / "i.tif"), "32-bit"),
        (saved(Image.fromarray(values.astype(np.uint16)), tmp_path / "dark.png"), "has 16 bits"),
        (tmp_path / "cut.png", "cut.png cannot be read as an image: "),
        (
            saved(Image.new("RGB", (6, 9)), tmp_path / "x.eps"),
            "x.eps cannot be read as an image: cannot identify",
        ),
    ):
        with pytest.raises(PixelError):
            read_pixels(file, "RGB")
        with pytest.raises(SystemExit, match=said) as error:
            photo.open_image(file)
        assert len(str(error.value).splitlines()) == 1
