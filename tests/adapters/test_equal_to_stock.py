"""The test that makes an adapter trustworthy: its losses and gradients equal stock's bit by bit."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Keypoints
from torch.testing import assert_close

from d2kd import DETECTOR_ADAPTER_REGISTRY, build_adapter
from d2kd.testing import make_batch, tiny_cfg
from tests.helpers import detector, distill

ALL = frozenset(
    "features cls_taps reg_taps logits scores deltas quality valid anchors labels matched_boxes gt "
    "rpn roi masks proposals".split()
)


def options(meta: str, variant: str):
    cfg = tiny_cfg(meta)
    if variant == "norm":
        cfg.MODEL.RETINANET.NORM = "BN"
        cfg.MODEL.FCOS.NORM = ""
    if variant == "scaled":
        cfg.MODEL.FCOS.HEAD, cfg.MODEL.FCOS.BOX_ACTIVATION = "scaled", "exp"
        cfg.MODEL.FCOS.CTRNESS_ON = "cls"
    if variant in ("iou", "DGQP"):
        cfg.MODEL.ATSS.QUALITY = cfg.MODEL.GFL.QUALITY = variant
    if variant == "topk":
        cfg.MODEL.DDOD.ASSIGNER, cfg.MODEL.DDOD.DEFORM = variant, False
    if variant == "minmax":
        cfg.MODEL.REPPOINTS.TRANSFORM = variant
    if variant == "labels":
        cfg.MODEL.AUTOASSIGN.HARD_LABELS = True
    if variant == "giou":
        cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = "giou"
    if variant == "faster":
        cfg.MODEL.MASK_ON = False
    if variant == "keypoints":
        cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, 3
        cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (8,)
        cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 4
    if variant == "faster cascade":
        cfg.MODEL.MASK_ON = False
    if variant == "agnostic masks":
        cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    if "cascade" in variant:
        cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    return cfg


def visible_keypoints(target):
    """The corners and the center of each box: (G, 3, 3) x, y, visibility."""
    low, high = target.gt_boxes.tensor.split(2, dim=1)
    points = torch.stack([low, (low + high) / 2, high], 1)
    return torch.cat([points, torch.full_like(points[..., :1], 2)], -1)


CASES = [
    ("RetinaNet", ""), ("RetinaNet", "norm"), ("RetinaNet", "giou"), ("FCOS", ""),
    ("FCOS", "scaled"), ("RepPoints", ""), ("RepPoints", "minmax"),
    ("ATSS", ""), ("ATSS", "iou"), ("AutoAssign", ""),
    ("AutoAssign", "labels"), ("DDOD", ""), ("DDOD", "topk"), ("GFL", ""),
    ("GFL", "DGQP"),
    ("GeneralizedRCNN", ""), ("GeneralizedRCNN", "faster"), ("GeneralizedRCNN", "cascade"),
    ("GeneralizedRCNN", "faster cascade"), ("GeneralizedRCNN", "keypoints"),
    ("GeneralizedRCNN", "agnostic masks"),
]  # fmt: skip


@pytest.mark.parametrize("need", [frozenset({"features"}), ALL], ids=["features", "everything"])
@pytest.mark.parametrize("boxes", [4, 0], ids=["objects", "empty"])
@pytest.mark.parametrize(("meta", "variant"), CASES)
def test_losses_and_gradients_equal_stock(meta, variant, boxes, need):
    torch.manual_seed(0)
    stock = build_model(options(meta, variant)).train()
    mine = copy.deepcopy(stock)
    batch = make_batch(boxes=boxes)
    for x in batch if variant == "keypoints" else ():
        x["instances"].gt_keypoints = Keypoints(visible_keypoints(x["instances"]))

    torch.manual_seed(1)
    expected = stock(batch)
    torch.manual_seed(1)
    adapter = build_adapter(mine)
    images = adapter.preprocess(batch, mine.backbone.size_divisibility)
    assert torch.equal(images.tensor, stock.preprocess_image(batch).tensor)
    out = adapter(images, [x["instances"] for x in batch], need & (adapter.provides | {"features"}))

    assert list(out.losses) == list(expected)
    for name, value in expected.items():
        assert torch.equal(out.losses[name], value), name
    sum(expected.values()).backward()
    sum(out.losses.values()).backward()
    for (name, a), (_, b) in zip(stock.named_parameters(), mine.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(stock.named_buffers(), mine.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize(
    "meta",
    ["RetinaNet", "FCOS", "scaled FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "GFLv2", "RepPoints"],
)
def test_head_resumes_from_every_tap(meta, norm):
    cfg = tiny_cfg(meta.removesuffix("v2").removeprefix("scaled "), channels=32)
    cfg.MODEL.FCOS.HEAD = "scaled" if meta == "scaled FCOS" else "stock"
    cfg.MODEL.GFL.QUALITY = "DGQP" if meta == "GFLv2" else "none"
    for name in ("RETINANET", "FCOS", "ATSS", "AUTOASSIGN", "DDOD", "GFL", "REPPOINTS"):
        cfg.MODEL[name].NORM = norm
    model = build_model(cfg).eval()
    for i, scale in enumerate(getattr(model.head, "scales", ())):
        torch.nn.init.constant_(scale.scale, 1 + 0.1 * i)
    adapter = build_adapter(model)
    images = adapter.preprocess(make_batch(), 32)
    out = adapter(images, None, ALL & adapter.provides)
    plain = model.head([x for x in out.features.values()])
    plain = plain[:2] if meta == "RepPoints" else plain  # without the first points
    fields = [out.logits, out.deltas] + ([out.quality] if adapter.spec().quality else [])
    assert len(fields) == len(plain)
    for level, stride in enumerate(out.logits):
        for maps, flat in zip(plain, fields, strict=True):
            assert torch.equal(permute_to_N_HWA_K(maps[level], flat[stride].shape[2]), flat[stride])
        assert len(out.cls_taps[stride]) == 2
        for block in range(3):
            cls_x = out.cls_taps[stride][block - 1] if block else out.features[stride]
            reg_x = out.reg_taps[stride][block - 1] if block else out.features[stride]
            resumed = adapter.head_from(stride, block, cls_x, reg_x)
            for x, flat in zip(resumed, fields, strict=True):
                assert torch.equal(x, flat[stride])


def test_decode_matches_stock_inference():
    for meta in ("RetinaNet", "FCOS"):
        model = build_model(tiny_cfg(meta)).eval()
        adapter = build_adapter(model)
        images = adapter.preprocess(make_batch(), 32)
        out = adapter(images, None, ALL)
        boxes = adapter.decode(out)
        for stride, deltas in out.deltas.items():
            for n in range(2):
                expected = model.box2box_transform.apply_deltas(
                    deltas[n], out.anchors[stride].tensor
                )
                assert torch.equal(boxes[stride][n], expected)


def test_shapes_and_valid_mask():
    model = build_model(tiny_cfg("RetinaNet")).train()
    adapter = build_adapter(model)
    batch = make_batch(sizes=((96, 128), (80, 64)))
    out = adapter(adapter.preprocess(batch, 32), [x["instances"] for x in batch], ALL)
    assert list(out.logits) == [8, 16, 32, 64, 128] == list(adapter.spec().features)
    cells = 12 * 16 * 2
    assert out.logits[8].shape == (2, cells, 3) and out.deltas[8].shape == (2, cells, 4)
    assert out.scores[8].dtype == torch.float32 and not out.scores[8].requires_grad
    assert_close(out.scores[8], out.logits[8].detach().sigmoid())
    assert bool(out.valid[8][0].all())
    second = out.valid[8][1].view(12, 16, 2)
    assert bool(second[:, :8].all()) and not bool(second[:, 8:].any())
    assert out.labels.shape == (2, sum(len(a) for a in out.anchors.values()))
    assert out.matched_boxes.shape == (*out.labels.shape, 4)


def test_rcnn_rpn_roi_and_mask_shapes():
    model = build_model(tiny_cfg("GeneralizedRCNN")).train()
    adapter = build_adapter(model)
    batch = make_batch()
    out = adapter(adapter.preprocess(batch, 32), [x["instances"] for x in batch], ALL)
    count = sum(len(p) for p in out.proposals)
    assert out.roi[0].logits.shape == (count, 4) and out.roi[0].deltas.shape == (count, 12)
    assert out.rpn.logits[4].shape == (2, 24 * 32 * 2, 1)
    assert set(out.rpn.labels.unique().tolist()) <= {-1, 0, 1}
    foreground = sum(int((p.gt_classes < 3).sum()) for p in out.proposals)
    assert out.masks.logits.shape == (foreground, 3, 8, 8) and foreground > 0
    again = adapter(out.images, None, frozenset({"features"}))
    adapter.add_regions(again, out, frozenset({"roi", "masks"}))
    assert torch.equal(again.roi[0].logits, out.roi[0].logits)
    assert torch.equal(again.masks.logits, out.masks.logits)
    assert not again.roi[0].proposals[0].has("gt_classes")


@pytest.mark.parametrize(("student", "teacher", "stages"), [
    ("cascade", "cascade", [0, 1, 2]), ("cascade", "", [0, 0, 0]), ("", "cascade", [0]),
])  # fmt: skip
def test_a_teacher_answers_each_stage_on_the_students_proposals(student, teacher, stages):
    batch = make_batch()
    model = build_model(options("GeneralizedRCNN", student)).train()
    adapter = build_adapter(model)
    out = adapter(adapter.preprocess(batch, 32), [x["instances"] for x in batch], ALL)
    other = build_adapter(build_model(options("GeneralizedRCNN", teacher)).eval())
    answer = other(out.images, None, frozenset({"features"}))
    other.add_regions(answer, out, frozenset({"roi"}))
    assert len(answer.roi) == len(out.roi) == len(stages) and not hasattr(answer, "masks")
    pyramid = {f"p{n}": answer.features[2**n] for n in range(2, 7)}
    for stage, mine, index in zip(answer.roi, out.roi, stages, strict=True):
        assert len(stage.logits) == len(mine.logits) == sum(map(len, mine.proposals))
        expected = other._regions.stage(pyramid, mine.proposals, index)
        assert torch.equal(stage.logits, expected.logits)


def test_teacher_stops_after_what_is_needed():
    model = build_model(tiny_cfg("RetinaNet")).eval()
    adapter = build_adapter(model)
    out = adapter(adapter.preprocess(make_batch(), 32), None, frozenset({"features"}))
    assert out.features and not out.logits and not out.losses


def test_a_head_without_towers_teaches_all_but_its_blocks():
    class Alone(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.whole = head

        def forward(self, features):
            return self.whole(features)

    teacher = detector(seed=1)
    teacher.head = Alone(teacher.head)
    spec = build_adapter(teacher).spec()
    assert (spec.tower_width, spec.num_convs, spec.num_anchors) == (0, 0, 2)
    losses = distill(detector(), [teacher], ("BCKD",)).train()(make_batch())
    assert losses["loss_BCKD_cls"] > 0
    with pytest.raises(ValueError, match="cls_taps with the forward of RetinaNetHead, .*: BCKD"):
        distill(detector(), [teacher], ("CrossKD",))


def test_an_overridden_step_is_refused():
    from detectron2.modeling.meta_arch.retinanet import RetinaNet

    class Mine(RetinaNet):
        def forward(self, batched_inputs):
            return {}

    with pytest.raises(TypeError, match=r"Mine overrides DenseDetector.forward\(\).*MineAdapter"):
        build_adapter(Mine(tiny_cfg("RetinaNet")))
    for meta in sorted({meta for meta, _ in CASES}):
        stock = build_model(tiny_cfg(meta))
        stock.__class__ = type("Mine", (type(stock),), {"preprocess_image": lambda self, x: x})
        with pytest.raises(TypeError, match=r"Mine overrides \w+.preprocess_image\(\)"):
            build_adapter(stock)
    with pytest.raises(TypeError, match="No adapter for Linear.*DenseDetectorAdapter"):
        build_adapter(torch.nn.Linear(1, 1))
    assert "DenseDetectorAdapter" in DETECTOR_ADAPTER_REGISTRY
