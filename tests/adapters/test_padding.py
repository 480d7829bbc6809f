"""Teachers that pad to a square, as ViTDet does, and students that do not."""

import copy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList
from torch.testing import assert_close

from d2kd.adapters import build_adapter
from d2kd.adapters.padding import backbone_divisor, crop, pad, padded_size
from d2kd.config.model_zoo import zoo_folder
from d2kd.config.naming import construct
from d2kd.teachers import Teacher
from d2kd.testing import make_batch, tiny_cfg

NEED = frozenset({"features", "rpn"})


@pytest.fixture(scope="module")
def vitdet() -> GeneralizedRCNN:
    path = zoo_folder() / "configs/common/models/mask_rcnn_vitdet.py"
    model = LazyConfig.load(str(path)).model
    net = model.backbone.net
    net.img_size = model.backbone.square_pad = 256
    net.embed_dim, net.depth, net.num_heads, net.window_block_indexes = 64, 2, 2, [0]
    model.roi_heads.num_classes = 3
    torch.manual_seed(0)
    return instantiate(model).eval()


def images(*sizes):
    torch.manual_seed(1)
    return [{"image": torch.rand(3, *size) * 255} for size in sizes]


def test_maps_are_cut_to_the_students_cells(vitdet):
    batch = images((160, 224), (200, 190))
    teacher = Teacher(vitdet, input_format="RGB")
    assert backbone_divisor(vitdet.backbone) == 32
    assert vitdet.backbone.size_divisibility == 0
    assert teacher.preprocess(batch, 32, "RGB").tensor.shape[-2:] == (256, 256)
    assert padded_size([x["image"] for x in batch], 32) == (224, 224)
    out = teacher(batch, 32, "RGB", NEED)
    stock = vitdet.backbone(vitdet.preprocess_image(batch).tensor)
    for level, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32), ("p6", 64)):
        cells = -(-224 // stride)
        assert torch.equal(out.features[stride], stock[level][..., :cells, :cells])
        assert torch.equal(out.whole[stride], stock[level])
        assert out.rpn.logits[stride].shape == (2, cells * cells * 3, 1)
        assert len(out.anchors[stride]) == cells * cells * 3
    assert out.features[8].shape[-2:] == (28, 28)


def test_cut_rpn_maps_are_those_of_the_cells_that_stay(vitdet):
    batch = images((160, 224))
    teacher = Teacher(vitdet, input_format="RGB")
    whole = teacher.run(teacher.preprocess(batch, 32, "RGB"), NEED)
    out = teacher(batch, 32, "RGB", NEED)
    for stride in (8, 64):
        rows, columns, side = -(-160 // stride), -(-224 // stride), 256 // stride
        for cut, full in (
            (out.rpn.deltas[stride][0], whole.rpn.deltas[stride][0]),
            (out.anchors[stride].tensor, whole.anchors[stride].tensor),
        ):
            cells = cut.view(rows, columns, 3, 4)
            assert torch.equal(cells, full.view(side, side, 3, 4)[:rows, :columns])


def test_regions_are_pooled_from_the_whole_maps(vitdet):
    batch = make_batch([(160, 224)])
    teacher = Teacher(vitdet, input_format="RGB")
    student = construct(tiny_cfg("GeneralizedRCNN")).train()
    adapter = build_adapter(student)
    gt = [x["instances"] for x in batch]
    seen = adapter(adapter.preprocess(batch, 32), gt, frozenset({"features", "roi"}))
    out = teacher(batch, 32, "RGB", NEED)
    teacher.add_regions(out, seen, frozenset({"roi"}))
    stock = teacher.run(teacher.preprocess(batch, 32, "RGB"), NEED)
    teacher.add_regions(stock, seen, frozenset({"roi"}))
    assert torch.equal(out.roi[0].logits, stock.roi[0].logits)


def test_an_image_above_the_square_is_not_cut(vitdet):
    adapter = build_adapter(vitdet)
    for batch in (images((160, 300)), images((160, 300), (100, 100))):
        padded = adapter.preprocess(batch, 32)
        assert padded.tensor.shape[-2:] == (320, 320)
        assert padded.tensor[0, :, 159, 299].abs().sum() > 0
        out = adapter(padded, None, NEED)
        assert out.features[8].shape[-2:] == (40, 40)


def test_nothing_is_cut_where_the_images_fill_the_square(vitdet):
    batch = images((256, 250))
    teacher = Teacher(vitdet, input_format="RGB")
    out = teacher(batch, 32, "RGB", NEED)
    assert not out.whole
    assert torch.equal(out.images.tensor, vitdet.preprocess_image(batch).tensor)
    assert crop(out, (256, 256)) is out


@pytest.mark.parametrize("key", ["size_divisibility", "size_divisiblity"])
def test_both_spellings_of_the_divisor(vitdet, key):
    backbone = copy.copy(vitdet.backbone)
    cls = type("Spelt", (type(backbone),), {"padding_constraints": {key: 64, "square_size": 0}})
    backbone.__class__ = cls
    assert backbone_divisor(backbone) == 64
    assert pad([torch.zeros(3, 70, 10)], 64, backbone).tensor.shape[-2:] == (128, 64)


def test_dense_maps_are_cut_cell_by_cell():
    """A one-stage detector on such a backbone: predictions of cells on the image stay the same."""
    detector = construct(tiny_cfg("RetinaNet")).eval()
    adapter = build_adapter(detector)
    need = frozenset({"features", "cls_taps", "reg_taps", "logits", "deltas", "scores", "valid"})
    tensor = torch.zeros(2, 3, 128, 160)
    out = adapter(ImageList(tensor, [(60, 90)] * 2), None, need)
    cut = crop(out, (64, 96))
    for stride, x in cut.features.items():
        rows, columns = x.shape[-2:]
        assert (rows, columns) == (-(-64 // stride), -(-96 // stride))
        anchors = adapter.spec().num_anchors
        full = out.logits[stride].unflatten(1, (*out.features[stride].shape[-2:], anchors))
        assert torch.equal(cut.logits[stride], full[:, :rows, :columns].flatten(1, 3))
        assert cut.valid[stride].shape == cut.logits[stride].shape[:2]
        assert cut.cls_taps[stride][0].shape[-2:] == (rows, columns)
    decoded, whole = cut.adapter.decode(cut), out.adapter.decode(out)
    assert_close(decoded[8][:, :4], whole[8][:, :4])
