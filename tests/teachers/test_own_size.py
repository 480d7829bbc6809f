"""A teacher that sees the student's images at its own size."""

import logging

import pytest
import torch
from torch.testing import assert_close

from d2kd import Teacher, build_adapter
from d2kd.adapters.own_size import OwnSizeAdapter
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.errors import ConfigError
from d2kd.teachers.own_size import own_size_adapter
from d2kd.testing import make_batch
from tests.helpers import detector, distill

NEED = frozenset({"features"})


def teacher_of(size, shift, channels=8):
    teacher = Teacher(detector(channels=channels, seed=1))
    teacher.adapter = OwnSizeAdapter(teacher.adapter, size, shift)
    return teacher


def test_twice_the_size_is_one_level_up():
    batch = make_batch([(96, 128)])
    teacher = teacher_of((192, 256), 1)
    assert list(teacher.adapter.spec().features) == [4, 8, 16, 32, 64]
    out = teacher(batch, 32, "BGR", NEED)
    large = torch.nn.functional.interpolate(
        batch[0]["image"][None], (192, 256), mode="bilinear", antialias=True
    )
    plain = Teacher(teacher.detector)([{"image": large[0]}], 32, "BGR", NEED)
    for stride, x in plain.features.items():
        ours = out.features[stride // 2]
        assert ours.shape == x.shape
        assert_close(ours, x, rtol=0, atol=1e-3)  # cells have the same centers


def test_cells_are_where_the_students_are():
    """A map that is linear in the image's coordinates, of images of other sizes in one batch."""
    teacher = teacher_of((150, 400), 0)
    sizes = [(96, 128), (80, 64)]
    images = teacher.preprocess([{"image": torch.zeros(3, *size)} for size in sizes], 32, "BGR")
    assert images.image_sizes == [(150, 200), (188, 150)]
    maps = {}
    for stride in (8, 16):
        rows, columns = (-(-n // stride) for n in images.tensor.shape[2:])
        y = (torch.arange(rows) + 0.5) * stride
        x = (torch.arange(columns) + 0.5) * stride
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))
        maps[stride] = torch.stack([grid * sizes[n][0] / images.image_sizes[n][0] for n in (0, 1)])
    output = build_adapter(teacher.detector).forward(images, None, NEED)
    output.features = maps
    found = teacher.adapter.fit(output, sizes, (96, 128)).features
    for stride, x in found.items():
        assert x.shape == (2, 2, 96 // stride, 128 // stride)
        for n, (height, width) in enumerate(sizes):
            rows, columns = -(-height // stride), -(-width // stride)
            y, across = x[n, :, 1 : rows - 1, 1 : columns - 1]
            wanted = (torch.arange(rows) + 0.5) * stride
            assert_close(y, wanted[1:-1, None].expand_as(y), rtol=0.01, atol=0.1)
            wanted = (torch.arange(columns) + 0.5) * stride
            assert_close(across, wanted[None, 1:-1].expand_as(across), rtol=0.01, atol=0.1)
            assert not x[n, :, rows:].any() and not x[n, :, :, columns:].any()


@pytest.mark.parametrize("shift", [-1, 0, 1, 3])
def test_it_distils(shift):
    student = detector()
    teacher = teacher_of((96, 200), shift, channels=12)
    if shift == 3:
        assert list(teacher.adapter.spec().features) == [1, 2, 4, 8, 16]
    model = distill(student, [teacher], ("PKD",)).train()
    losses = model(make_batch())
    assert losses["loss_PKD_feat"] > 0
    losses["loss_PKD_feat"].backward()
    with pytest.raises(ValueError, match="BCKD needs .*provides features"):
        distill(student, [teacher_of((96, 200), shift)], ("BCKD",))


def test_the_ratio_of_the_sizes(caplog):
    cfg, other = get_d2kd_cfg(), get_d2kd_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 320, 427
    other.INPUT.MIN_SIZE_TEST = other.INPUT.MAX_SIZE_TEST = 1024
    adapter = build_adapter(detector())
    with caplog.at_level(logging.INFO, "d2kd"):
        found = own_size_adapter(adapter, cfg, other)  # 768 px of a 4:3 image
    assert found.size == (1024, 1024) and list(found.spec().features) == [4, 8, 16, 32, 64]
    assert "strides are 4, 8, 16, 32, 64 px" in caplog.text
    cfg.INPUT.MIN_SIZE_TEST = 0
    with pytest.raises(ConfigError, match="SIZE own needs INPUT.MIN_SIZE_TEST"):
        own_size_adapter(adapter, cfg, other)
