"""Corrupted images: the same in every process, order, worker and channel order; mPC by hand."""

import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import build_detection_test_loader
from torch.testing import assert_close

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import BadImageError
from d2kd.errors import ConfigError
from d2kd.evaluation.corruptions import (
    CORRUPTIONS,
    corrupt_image,
    corrupted_mapper,
    corruption_names,
    corruption_summary,
    corruption_transform,
)
from tests.conftest import ROOT

library = pytest.importorskip("imagecorruptions", reason="needs imagecorruptions-imaug")


def images():
    """Two images of smooth colour and noise, 48 x 64 px."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 64)[None, :, None] + np.zeros((48, 64, 3))
    return [(ramp + rng.integers(0, 55, (48, 64, 3))).astype(np.uint8) for _ in range(2)]


def digests(backwards=False):
    """SHA-256 by image, corruption and severity; the order must not matter."""
    keys = [(i, name, s) for i in range(2) for name in CORRUPTIONS for s in (1, 5)]
    found = {}
    for i, name, severity in reversed(keys) if backwards else keys:
        corrupted = corrupt_image(images()[i], name, severity)
        found[f"{i} {name} {severity}"] = hashlib.sha256(corrupted.tobytes()).hexdigest()
    return found


OTHER_PROCESS = """
import json, numpy as np
np.random.seed(12345); np.random.rand(7)
from tests.evaluation.test_corruptions import digests
print(json.dumps(digests(backwards=True)))
"""


def test_images_are_the_same_in_another_process_and_order(warm_python):
    command = [warm_python, "-W", "ignore", "-c", OTHER_PROCESS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    here = digests()
    assert json.loads(done.stdout.splitlines()[-1]) == here
    assert len(set(here.values())) == len(here) == 60


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_the_image_and_nothing_else(name):
    image = images()[0]
    before, state = image.copy(), np.random.get_state()[1].copy()
    distances = []
    for severity in (1, 5):
        corrupted = corrupt_image(image, name, severity)
        assert corrupted.shape == image.shape and corrupted.dtype == np.uint8
        distances.append(np.abs(corrupted.astype(float) - image).mean())
    assert (image == before).all() and (np.random.get_state()[1] == state).all()
    assert 0.1 < distances[0] < distances[1]


def test_the_names_are_those_of_the_library():
    assert list(CORRUPTIONS) == library.get_corruption_names("common")
    assert corruption_names("all") == list(CORRUPTIONS)
    chosen = corruption_names(["weather", "fog", "pixelate"])
    assert chosen == ["snow", "frost", "fog", "brightness", "pixelate"]


def config(image_format="RGB"):
    cfg = get_d2kd_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = image_format, 96
    return cfg


def records(squares):
    return [{"file_name": str(squares / f"{i}.png"), "image_id": i, "height": 64, "width": 64}
            for i in range(4)]  # fmt: skip


@pytest.mark.parametrize("name", ["frost", "snow", "brightness", "jpeg_compression"])
def test_both_channel_orders_see_the_same_image(squares, name):
    rgb, bgr = (
        [corrupted_mapper(config(x), name, 4)(r)["image"] for r in records(squares)]
        for x in ("RGB", "BGR")
    )
    assert rgb[0].shape == (3, 96, 96)
    for a, b in zip(rgb, bgr, strict=True):
        assert (a == b.flip(0)).all()


def test_images_are_the_same_in_workers(squares):
    mapper = corrupted_mapper(config(), "impulse_noise", 3)
    loaders = [
        build_detection_test_loader(dataset=records(squares), mapper=mapper, num_workers=n)
        for n in (0, 2)
    ]
    seen = [{x[0]["image_id"]: x[0]["image"] for x in loader} for loader in loaders]
    assert seen[0].keys() == seen[1].keys() == {0, 1, 2, 3}
    assert all((seen[0][i] == seen[1][i]).all() for i in seen[0])


def test_the_image_is_corrupted_before_it_is_resized(squares):
    record = records(squares)[0]
    mapper, native = corrupted_mapper(config(), "contrast", 5), config()
    native.INPUT.MIN_SIZE_TEST = 64
    small = corrupted_mapper(native, "contrast", 5)(record)["image"]
    transform = corruption_transform("contrast", 5, "RGB")
    from detectron2.data.detection_utils import read_image

    image = transform.apply_image(read_image(record["file_name"], "RGB"))
    assert (small.permute(1, 2, 0).numpy() == image).all()
    assert mapper(record)["image"].shape == (3, 96, 96)


def test_mpc_by_hand():
    """Means 30 and 10 of two corruptions: mPC 20, rPC 20 / 50, drop 30."""
    values = {"fog": {1: 40.0, 3: 30.0, 5: 20.0}, "snow": {1: 20.0, 5: 0.0}}
    found = corruption_summary(values, 50.0)
    assert_close(found, {"mPC": 20.0, "rPC": 40.0, "drop": 30.0})
    assert math.isnan(corruption_summary(values, 0.0)["rPC"])
    assert all(math.isnan(x) for x in corruption_summary({}, 50.0).values())


@pytest.mark.parametrize("call, match", [
    (lambda: corrupt_image(images()[0], "foggy", 1), "Did you mean 'fog'"),
    (lambda: corrupt_image(images()[0], "fog", 6), "severities: 6 is not one of 1 to 5"),
    (lambda: corruption_names(["blurs"]), "Did you mean 'blur'"),
    (lambda: corruption_transform("fog", 1, "YUV-BT.601"), "INPUT.FORMAT"),
])  # fmt: skip
def test_mistakes_are_explained(call, match):
    with pytest.raises(ConfigError, match=match):
        call()


def test_an_image_that_is_too_small_is_named(tmp_path):
    from PIL import Image

    path = tmp_path / "small.png"
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)
    mapper = corrupted_mapper(config(), "fog", 1)
    with pytest.raises(BadImageError, match=r"small\.png.*at least 32 pixels"):
        mapper({"file_name": str(path), "image_id": 0})


def test_without_the_library_the_way_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ConfigError, match="--no-deps imagecorruptions-imaug"):
        corrupt_image(images()[0], "fog", 1)
