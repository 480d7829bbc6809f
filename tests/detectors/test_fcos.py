"""FCOS from yaml: stock by default, the scaled head and product scores where asked for."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import fcos
from torch.testing import assert_close

from d2kd.detectors.head import ScaledFCOSHead
from d2kd.testing import make_batch, tiny_cfg


def build(generator="DefaultAnchorGenerator", **keys):
    cfg = tiny_cfg("FCOS")
    cfg.MODEL.ANCHOR_GENERATOR.NAME = generator
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.FCOS.{key}", value])
    torch.manual_seed(0)
    return build_model(cfg)


def test_the_default_is_the_stock_head():
    model = build()
    assert type(model.head) is fcos.FCOSHead and not hasattr(model.head, "scales")


@pytest.mark.parametrize("activation", ["relu", "exp"])
@pytest.mark.parametrize("tower", ["bbox", "cls"])
def test_scaled_head(activation, tower):
    model = build(HEAD="scaled", BOX_ACTIVATION=activation, CTRNESS_ON=tower)
    head = model.head
    assert type(head) is ScaledFCOSHead
    torch.nn.init.constant_(head.scales[1].scale, 1.5)
    features = [torch.randn(1, 8, 4, 4) for _ in range(5)]
    logits, boxes, ctrness = head(features)
    raw = head.bbox_pred(head.bbox_subnet(features[1])) * 1.5
    assert_close(boxes[1], raw.exp() / 16 if activation == "exp" else raw)
    subnet = head.cls_subnet if tower == "cls" else head.bbox_subnet
    assert_close(ctrness[1], head.ctrness(subnet(features[1])))
    assert_close(logits[1], head.cls_score(head.cls_subnet(features[1])))


def test_exponential_distances_are_in_px():
    model = build(HEAD="scaled", BOX_ACTIVATION="exp").eval()
    torch.nn.init.zeros_(model.head.bbox_pred.weight)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    features = [torch.randn(1, 8, 2, 2) for _ in range(5)]
    anchors, deltas = model.anchor_generator(features), model.head(features)[1]
    for boxes, level in zip(anchors, deltas, strict=True):
        flat = level.permute(0, 2, 3, 1).reshape(-1, 4)
        decoded = model.box2box_transform.apply_deltas(flat, boxes.tensor)
        center, side = boxes.get_centers(), torch.tensor(2.0).exp()
        assert_close(decoded, torch.cat([center - side, center + side], 1))


@pytest.mark.parametrize("boxes", [0, 4])
def test_scaled_head_trains(boxes):
    model = build(HEAD="scaled", BOX_ACTIVATION="exp", CTRNESS_ON="cls", CONV_BIAS=False).train()
    losses = model(make_batch(boxes=boxes))
    assert all(bool(x.isfinite()) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_product_scores():
    model = build(SCORE="product", SCORE_THRESH_TEST=0.05).eval()
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.nn.init.normal_(model.head.ctrness.weight, std=3.0)
    model.test_nms_thresh, model.max_detections_per_image = 1.1, 10**5
    batch = make_batch(sizes=((96, 128),))
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(batch).tensor)
        logits, _, ctrness = model.head([features[f] for f in model.head_in_features])
        images = model.preprocess_image(batch)
        found = model.forward_inference(images, list(features.values()), model.head(
            list(features.values())))[0]  # fmt: skip
    scores = torch.cat([(a.sigmoid() * b.sigmoid()).flatten() for a, b in
                        zip(logits, ctrness, strict=True)])  # fmt: skip
    assert_close(found.scores, scores.sort(descending=True).values[: len(found)])
    assert len(found) == len(scores)


@pytest.mark.parametrize(("keys", "match"), [
    ({"BOX_ACTIVATION": "exp"}, "options of the scaled head"),
    ({"SCORE": "mean"}, "MODEL.FCOS.SCORE: unknown 'mean'"),
    ({"generator": "TorchvisionAnchorGenerator"},
     r"ANCHOR_GENERATOR.SIZES \[\[8\], .*\[128\]\] and MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
    ({"HEAD": "scale"}, "MODEL.FCOS.HEAD: unknown 'scale'. Did you mean 'scaled'"),
])  # fmt: skip
def test_mistakes_are_explained(keys, match):
    with pytest.raises(ValueError, match=match):
        build(**keys)
