"""Teachers of every source at their published sizes, on a photograph, beside their own library.

With random weights; ViTDet-B takes a minute, and runs in `make test-faults` alone.
"""

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from torch.testing import assert_close

from d2kd import Teacher
from d2kd.adapters import build_adapter
from d2kd.checkpoint import load_detector
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.model_zoo import zoo_folder
from d2kd.config.naming import construct
from d2kd.config.sources.find import published_weights
from tests.config.test_torchvision import check_dense, converted, original
from tests.faults.conftest import FULL

LSJ = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"
FULL_ONLY = pytest.mark.skipif(not FULL, reason="takes long: make test-faults")


@pytest.fixture
def photograph(data_root):
    """(3, 426, 640), RGB in 0..255."""
    path = data_root / "coco" / "val2017" / "000000000139.jpg"
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float()


def built(name):
    """Ours, with random weights, and its channel order."""
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, name, "--teacher")
    cfg.MODEL.DEVICE = "cpu"
    return construct(cfg).eval(), cfg.INPUT.FORMAT


def close(ours, theirs):
    """To 1e-5 of the largest number."""
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@torch.no_grad()
def test_torchvision(photograph, tmp_path):
    """Maps, logits, anchors and decoded boxes."""
    name = "retinanet_resnet50_fpn_v2"
    theirs = original(name)
    adapter = build_adapter(converted(name, theirs, tmp_path))
    images = adapter.preprocess([{"image": photograph}], adapter.divisor)
    tensor = theirs.transform.normalize(photograph / 255)
    padded = torch.zeros(1, 3, 448, 640)
    padded[0, :, :426] = tensor
    close(images.tensor, padded)
    maps = list(theirs.backbone(padded).values())
    out = adapter(images, None, frozenset({"features", "logits", "deltas"}))
    for ours, x in zip(out.features.values(), maps, strict=True):
        close(ours, x)
    check_dense(theirs, maps, padded, out)


@torch.no_grad()
def test_transformers(photograph, tmp_path):
    """RT-DETR with ResNet-50, as `PekingU/rtdetr_r50vd` is configured: its library's defaults."""
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {i: f"class {i}" for i in range(80)}
    config = library.RTDetrConfig(id2label=labels, label2id={x: i for i, x in labels.items()})
    theirs = library.AutoModelForObjectDetection.from_config(config).eval()
    assert sum(x.numel() for x in theirs.parameters()) == pytest.approx(42.9e6, rel=0.01)
    theirs.save_pretrained(tmp_path)
    processor = library.RTDetrImageProcessor()
    processor.save_pretrained(tmp_path)
    ours, _ = built(f"hf:{tmp_path}")
    load_detector(ours, published_weights(f"hf:{tmp_path}"), "--teacher-weights")
    need = frozenset({"features", "sets"})
    adapter = build_adapter(ours)
    out = adapter(adapter.preprocess([{"image": photograph}], 32), None, need)
    seen = processor(images=photograph.byte(), do_resize=False, return_tensors="pt")
    padded = torch.zeros(1, 3, 448, 640)
    padded[..., :426, :] = seen["pixel_values"]
    found = theirs(padded)
    for x, y in zip(out.features.values(), found.encoder_last_hidden_state, strict=True):
        close(x, y)
    assert list(out.features) == [8, 16, 32]
    boxes = processor.post_process_object_detection(
        found, threshold=-1.0, target_sizes=torch.tensor([[448, 640]])
    )[0]
    close(out.sets.probabilities, found.logits.sigmoid())
    scores, place = out.sets.probabilities[0].flatten().topk(300)
    close(scores, boxes["scores"])
    close(out.sets.boxes[0][place // 80], boxes["boxes"])


@torch.no_grad()
def test_timm(photograph, tmp_path):
    """DINOv2's ViT-S on patches of 14 px, of an image at 7/8 of its size."""
    timm = pytest.importorskip("timm")
    name = "vit_small_patch14_dinov2.lvd142m"
    torch.manual_seed(0)
    theirs = timm.create_model(name, dynamic_img_size=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours, _ = built(f"timm:{name}")
    load_detector(ours, str(tmp_path / "weights.pth"), "--teacher-weights")
    adapter = build_adapter(ours)
    images = adapter.preprocess([{"image": photograph}], 16)
    found = adapter(images, None, frozenset({"features"})).features[16]
    mean, std = (torch.tensor(theirs.pretrained_cfg[x])[:, None, None] for x in ("mean", "std"))
    padded = torch.zeros(1, 3, 432, 640)
    padded[0, :, :426] = (photograph / 255 - mean) / std
    seen = torch.nn.functional.interpolate(padded, (378, 560), mode="bicubic", antialias=True)
    tokens = theirs.forward_features(seen)[:, theirs.num_prefix_tokens :]
    close(found, tokens.transpose(1, 2).unflatten(2, (27, 40)))


@pytest.mark.parametrize(("name", "config", "size"), [
    (LSJ, LSJ, (448, 640)),
    pytest.param("vitdet:mask_rcnn_vitdet_b", "common/models/mask_rcnn_vitdet.py", (1024, 1024),
                 marks=FULL_ONLY),
])  # fmt: skip
@torch.no_grad()
def test_detectron2(name, config, size, photograph):
    """Maps of the whole padded image, the RPN's predictions, classes and boxes of regions."""
    torch.manual_seed(0)
    theirs = instantiate(LazyConfig.load(str(zoo_folder() / "configs" / config)).model).eval()
    ours, order = built(name)
    ours.load_state_dict(theirs.state_dict())
    pixels = photograph if theirs.input_format == "RGB" else photograph.flip(0)
    images = theirs.preprocess_image([{"image": pixels}])
    maps = theirs.backbone(images.tensor)
    rpn, heads = theirs.proposal_generator, theirs.roi_heads
    logits, deltas = rpn.rpn_head([maps[x] for x in rpn.in_features])
    teacher = Teacher(ours, input_format=order)
    out = teacher([{"image": photograph}], 32, "RGB", frozenset({"features", "rpn"}))
    assert out.images.tensor.shape[2:] == size
    rows, columns = 448, 640  # of the student
    for stride, x, y, z in zip(out.features, maps.values(), logits, deltas, strict=True):
        close((out.whole or out.features)[stride], x)
        cells = -(-rows // stride), -(-columns // stride)
        close(out.features[stride], x[..., : cells[0], : cells[1]])
        y, z = (v[..., : cells[0], : cells[1]].permute(0, 2, 3, 1).flatten(1) for v in (y, z))
        close(out.rpn.logits[stride].flatten(1), y)
        close(out.rpn.deltas[stride].flatten(1), z)
    boxes = torch.tensor([[[0.0, 0, 60, 90], [33.3, 20.1, 340.2, 200.7], [5, 5, 639, 425]]])
    found = teacher.adapter.regions_at(out, boxes)
    pooled = heads.box_pooler([maps[x] for x in heads.box_in_features], [p.proposal_boxes for p in
                              found.proposals])  # fmt: skip
    classes, moved = heads.box_predictor(heads.box_head(pooled))
    close(found.logits, classes)
    decode = heads.box_predictor.predict_boxes
    mine = decode((found.logits, found.deltas), found.proposals)[0]
    close(mine, decode((classes, moved), found.proposals)[0])
