"""The one reader of pixels: Detectron2's bits for 8-bit pictures, a stated rule for others."""

import json
import os
import subprocess
import warnings

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image
from torch._utils import ExceptionWrapper

from d2kd.data.folder import Split
from d2kd.data.loader import seeded
from d2kd.data.mapper import BadImageError, ImageMapper
from d2kd.data.pixels import (
    EXIF_ORIENTATION,
    BitDepthError,
    PixelError,
    examine,
    image_size,
    read_pixels,
)
from d2kd.data.problems import find_problems

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = NOISE[..., 0]


def save(path, image, orientation=0, **options):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(path, **({"exif": exif} if orientation else {}), **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "bmp", "webp", "ppm", "jp2"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits_are_detectron2s(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    try:
        save(path, Image.fromarray(NOISE).convert(mode))
    except (OSError, ValueError):
        return  # not a mode of that format
    for image_format in ("BGR", "RGB", "L", "YUV-BT.601"):
        np.testing.assert_array_equal(
            read_pixels(path, image_format), read_image(str(path), image_format)
        )
    assert image_size(path) == (30, 20) and tuple(examine(path)) == (30, 20, 1)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_turned_as_detectron2_turns(tmp_path, suffix, orientation):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(NOISE), orientation)
    found = read_pixels(path, "BGR")
    np.testing.assert_array_equal(found, read_image(str(path), "BGR"))
    assert image_size(path) == tuple(examine(path)[:2]) == found.shape[1::-1]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("grey", [False, True])
def test_tiff_is_turned_once(tmp_path, grey, orientation):
    """Pillow turns it when it decodes; Detectron2 then turns it again."""
    pixels = GREY.astype(np.uint16) * 257 if grey else NOISE
    path = save(tmp_path / "a.tif", Image.fromarray(pixels), orientation)
    same = save(tmp_path / "a.png", Image.fromarray(GREY if grey else NOISE), orientation)
    found = read_pixels(path, "RGB")
    np.testing.assert_array_equal(found, read_image(str(same), "RGB"))
    assert image_size(path) == tuple(examine(path)[:2]) == found.shape[1::-1]


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "ppm"])
def test_sixteen_bits_are_their_eight_bit_copy(tmp_path, suffix, factor):
    wide = Image.fromarray(GREY.astype(np.uint16) * factor)
    path = save(tmp_path / f"wide.{suffix}", wide)
    assert Image.open(path).mode.startswith("I")
    plain = save(tmp_path / "plain.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(read_pixels(path, "BGR"), read_image(str(plain), "BGR"))


def test_the_bytes_may_be_in_either_order(tmp_path):
    for name, order in (("little", "<u2"), ("big", ">u2")):
        path = save(
            tmp_path / f"{name}.tif", Image.fromarray((GREY * np.uint16(257)).astype(order))
        )
        np.testing.assert_array_equal(read_pixels(path, "L")[..., 0], GREY)


def test_twelve_bits_that_the_header_states(tmp_path):
    path = tmp_path / "a.tif"  # Pillow cannot write one: two values, 0xABC and 0x123, in 3 bytes
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(
        x.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00" + v.to_bytes(4, "little")
        for x, v in tags.items()
    )
    count = len(tags).to_bytes(2, "little")
    path.write_bytes(b"II*\0\x0c\0\0\0\xab\xc1\x23\0" + count + entries + bytes(4))
    assert read_pixels(path, "L")[..., 0].tolist() == [[0xAB, 0x12]]


def unknown_range(folder):
    yield save(folder / "twelve.tif", Image.fromarray(GREY.astype(np.uint16) * 16)), "has 16 bits"
    yield save(folder / "twelve.png", Image.fromarray(GREY.astype(np.uint16) * 16)), "has 16 bits"
    yield save(folder / "int.tif", Image.fromarray(GREY.astype(np.int32))), "32-bit or signed"
    yield save(folder / "unit.tif", Image.fromarray(GREY / np.float32(255))), "floating-point"
    yield save(folder / "float.tif", Image.fromarray(GREY.astype(np.float32))), "floating-point"


def test_an_unknown_range_is_refused(tmp_path):
    for path, reason in unknown_range(tmp_path):
        for read in (lambda path: read_pixels(path, "BGR"), examine):
            with pytest.raises(BitDepthError, match=rf"{path.name} (holds|has).*") as caught:
                read(path)
            assert reason in str(caught.value) and "\n" not in str(caught.value)
            assert "save it with 8 bits" in str(caught.value)
        if "has 16" not in reason:
            with pytest.raises(BitDepthError, match=reason):  # the header says it
                image_size(path)


@pytest.mark.parametrize("white", [1000, 4095, 65535])
def test_a_dark_pgm_states_what_is_white(tmp_path, white):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 1 %d\n" % white + np.array([white // 20, 0], ">u2").tobytes())
    assert read_pixels(path, "L").squeeze().tolist() == [white // 20 * 65535 // white >> 8, 0]


@pytest.mark.parametrize("deep", [False, True])
def test_damaged_exif_turns_nothing(tmp_path, deep):
    pixels = GREY.astype(np.uint16) * 257 if deep else GREY
    path = save(tmp_path / "a.png", Image.fromarray(pixels), exif=b"garbage")
    np.testing.assert_array_equal(read_pixels(path, "L")[..., 0], GREY)
    assert image_size(path) == tuple(examine(path)[:2]) == (30, 20)


def test_black_is_black_in_sixteen_bits(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(np.zeros((5, 5), np.uint16)))
    assert not read_pixels(path, "BGR").any()


def test_the_check_names_what_training_would_refuse(tmp_path):
    """`d2kd data` and the mapper agree on every kind of file."""
    paths = [path for path, _ in unknown_range(tmp_path)]
    paths += [save(tmp_path / "deep.png", Image.fromarray(GREY.astype(np.uint16) * 257))]
    paths += [tmp_path / "cut.jpg", tmp_path / "empty.jpg", tmp_path / "text.png"]
    save(paths[-3], Image.fromarray(NOISE))
    paths[-3].write_bytes(paths[-3].read_bytes()[:-300])
    paths[-2].touch()
    paths[-1].write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    paths += [tmp_path / "folder.jpg"]
    images = [
        {"id": i, "file_name": path.name, "width": 30, "height": 20} for i, path in enumerate(paths)
    ]
    coco = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    json_file = tmp_path / "train.json"
    json_file.write_text(json.dumps(coco))
    text = "\n".join(find_problems(Split(json_file, tmp_path, ["cat"])))
    assert "5 images hold values of which white is not known" in text
    assert "3 images cannot be read or are cut off: cut.jpg, empty.jpg, text.png" in text
    mapper = ImageMapper(get_cfg(), False)
    for path in paths:
        refused = path.name != "deep.png"
        try:
            mapper({"file_name": str(path)})
            assert not refused, path
        except BadImageError as error:
            assert refused and str(path) in str(error) and str(error).count(path.name) == 1
            with pytest.raises(BadImageError) as again:  # as PyTorch passes it on from a worker
                ExceptionWrapper(where="in DataLoader worker process 0").reraise()
            assert str(again.value) == str(error)
            assert "Original Traceback" in str(again.value.__cause__)


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_mapper_gives_detectron2s_bits(tmp_path, train, crop):
    cfg = get_cfg()
    cfg.INPUT.CROP.ENABLED = crop
    path = str(save(tmp_path / "a.jpg", Image.fromarray(NOISE), 6))
    box = {"bbox": [2.5, 3, 9, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    record = {"file_name": path, "image_id": 3, "annotations": [box, {**box, "iscrowd": 1}]}
    results = []
    for kind in (DatasetMapper, ImageMapper):
        with seeded(7, 1):
            results.append((kind(cfg, train)(record), np.random.rand()))
    (theirs, draw), (ours, next_draw) = results
    assert theirs["image"].equal(ours["image"]) and draw == next_draw
    assert {k: v for k, v in theirs.items() if k not in ("image", "instances")} == {
        k: v for k, v in ours.items() if k not in ("image", "instances")
    }
    assert train == ("instances" in ours)
    if train:
        assert theirs["instances"].gt_boxes.tensor.equal(ours["instances"].gt_boxes.tensor)
        assert theirs["instances"].gt_classes.equal(ours["instances"].gt_classes)


def test_frames_are_counted_and_the_first_is_read(tmp_path):
    second = Image.fromarray(255 - NOISE)
    path = save(tmp_path / "a.tif", Image.fromarray(NOISE), save_all=True, append_images=[second])
    assert examine(path).frames == 2
    np.testing.assert_array_equal(read_pixels(path, "RGB"), NOISE)


def test_transparent_palettes_do_not_warn(tmp_path):
    image = Image.fromarray(NOISE).convert("P")
    path = save(tmp_path / "a.png", image, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pixels(path, "BGR")


def test_pipes_do_not_hang_and_postscript_starts_no_program(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PixelError, match="pipe.jpg cannot be read: it is no file"):
        read_pixels(tmp_path / "pipe.jpg", "BGR")
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    path = tmp_path / "a.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(PixelError, match="a.jpg cannot be read: it is no image"):
        read_pixels(path, "BGR")
    assert not started


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_check_and_reader_agree_on_damaged_files(tmp_path, suffix, deep):
    """Reading EXIF data decodes a PNG file, and hid that it was damaged from the check."""
    if deep and suffix not in ("png", "tif"):
        return
    pixels = (GREY.astype(np.uint16) * 257).repeat(5, 0) if deep else NOISE.repeat(5, 0)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(pixels))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    sizes = []
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole), 5)[rng.integers(5)]] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, 2 * len(whole))])
        found = []
        for read in (lambda x: read_pixels(x, "BGR").shape[1::-1], lambda x: examine(x)[:2]):
            try:
                found.append(read(path))
            except PixelError:
                found.append(None)
        assert found[0] == found[1]
        sizes.append(found[0])
    assert None in sizes and (30, 100) in sizes
