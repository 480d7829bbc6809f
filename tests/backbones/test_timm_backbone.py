"""timm trunks under the FPN: names, widths, strides, levels, weights and explained mistakes."""

import sys

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from safetensors.torch import save_file

from d2kd.backbones import TimmBackbone, build_timm_fpn_backbone
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.errors import ConfigError

SWIN = "swin_tiny_patch4_window7_224"
FAMILIES = (
    *("resnet18", "resnet34", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("efficientnet_b0", "convnext_atto", SWIN),
)


def config(name="resnet18", features=("c3", "c4", "c5"), **timm_keys):
    cfg = get_d2kd_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.update(timm_keys)
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = list(features), 16
    return cfg


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "dla46_c"])
def test_shapes_equal_feature_info_and_the_forward(name):
    trunk = TimmBackbone(name, ["c2", "c3", "c4", "c5"]).eval()
    info = timm.create_model(name, features_only=True).feature_info
    by_stride = dict(zip(info.reduction(), info.channels(), strict=True))
    with torch.no_grad():
        features = trunk(torch.zeros(1, 3, 64, 96))
    assert list(features) == ["c2", "c3", "c4", "c5"]
    for level, (key, shape) in enumerate(trunk.output_shape().items(), 2):
        assert key == f"c{level}" and shape.stride == 2**level
        assert shape.channels == by_stride[2**level]
        size = (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert features[key].shape == size


def test_features_are_timms_own():
    trunk = TimmBackbone("resnet18", ["c2", "c4"]).eval()
    body = timm.create_model("resnet18", features_only=True).eval()
    assert not body.load_state_dict(trunk.body.state_dict(), strict=False).unexpected_keys
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, reference = trunk(image), body(image)
    torch.testing.assert_close(mine["c2"], reference[1])
    torch.testing.assert_close(mine["c4"], reference[3])


@pytest.mark.parametrize(("name", "last", "above"), [
    ("resnet18", "layer3", "layer4"),
    ("efficientnet_b0", "blocks.4", "blocks.5"),
    ("convnext_atto", "stages_2", "stages_3"),
])  # fmt: skip
def test_stages_above_the_last_one_are_not_built(name, last, above):
    names = TimmBackbone(name, ["c2", "c3", "c4"]).state_dict()
    assert any(last in key for key in names) and not any(above in key for key in names)
    assert any(above in key for key in TimmBackbone(name, ["c5"]).state_dict())


@pytest.mark.parametrize(("name", "features"), [
    *((name, ("c3", "c4", "c5")) for name in FAMILIES),
    ("efficientnet_b0", ("c2", "c3", "c4")),
    (SWIN, ("c2", "c3", "c4")),
])  # fmt: skip
def test_families_train_and_evaluate_at_any_size(name, features):
    """Distributed training needs a gradient at every parameter."""
    fpn = build_backbone(config(name, features))
    image = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    sum(level.square().sum() for level in fpn(image).values()).backward()
    assert [k for k, p in fpn.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        levels = fpn.eval()(image[:1])
    assert [x.shape[1:] for x in levels.values()] == [
        (16, 96 // 2 ** int(c[1]), 160 // 2 ** int(c[1])) for c in features
    ]


def test_swin_features_are_timms_own_with_channels_first():
    """At timm's one image size, up to the last stage, which timm keeps in one window."""
    trunk = TimmBackbone(SWIN, ["c2", "c3", "c4"]).eval()
    body = timm.create_model(SWIN, features_only=True, out_indices=(0, 1, 2)).eval()
    body.load_state_dict(trunk.body.state_dict())
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, reference in zip(trunk(image).values(), body(image), strict=True):
            torch.testing.assert_close(mine, reference.permute(0, 3, 1, 2))


def test_swin_shifts_the_windows_of_its_last_stage():
    """A change in one window of 7 x 7 is seen in half of the next one."""
    trunk = TimmBackbone(SWIN, ["c5"]).eval()
    stage = trunk.body.layers_3.blocks
    x = torch.zeros(1, 7, 21, 768)
    changed = x.clone()
    changed[:, :, :7] = torch.randn(7, 768, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (stage(changed) - stage(x)).abs().amax((0, 1, 3))
    assert difference[:10].min() > 0 and difference[10:].max() < 1e-6


def test_four_channel_images():
    fpn = build_timm_fpn_backbone(config(), ShapeSpec(channels=4))
    assert fpn.bottom_up.body.conv1.weight.shape[1] == 4


@pytest.mark.parametrize(("name", "freeze_at", "frozen"), [
    ("resnet18", 0, ()),
    ("resnet18", 1, ("conv1", "bn1")),
    ("resnet18", 2, ("conv1", "bn1", "layer1")),
    ("mobilenetv3_small_100", 2, ("conv_stem", "bn1", "blocks.0")),
    ("convnext_atto", 3, ("stem_0", "stem_1", "stages_0", "stages_1")),
    (SWIN, 2, ("patch_embed", "layers_0")),
    ("dla46_c", 2, ("base_layer", "level0", "level1", "level2")),
    ("cspnext_tiny", 2, ("model.stem", "model.stages.0")),
])  # fmt: skip
def test_freezing(name, freeze_at, frozen):
    trunk = build_backbone(config(name, FREEZE_AT=freeze_at)).eval().train().bottom_up
    for key, parameter in trunk.body.named_parameters():
        assert parameter.requires_grad != key.startswith(tuple(f"{x}." for x in frozen)), key
    for key, module in trunk.body.named_modules():
        if not list(module.children()):
            inside = f"{key}.".startswith(tuple(f"{x}." for x in frozen))
            assert not (inside and module.training), key
            assert inside or module.training or key in ("act1", "maxpool"), key


def test_freezing_above_the_last_stage_freezes_everything():
    trunk = TimmBackbone("resnet18", ["c2", "c3"], freeze_at=5)
    assert not any(p.requires_grad for p in trunk.parameters())
    before = {k: v.clone() for k, v in trunk.train().state_dict().items()}
    trunk(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())


@pytest.mark.parametrize(("name", "ending"), [
    ("resnet18", "pth"), ("mobilenetv3_small_100", "safetensors"), ("convnext_atto", "pth"),
    ("cspnext_tiny", "safetensors"),
])  # fmt: skip
def test_weights_from_a_file(name, ending, tmp_path):
    """The whole timm model, classifier included, fills the trunk and gives its features."""
    torch.manual_seed(0)
    model, path = timm.create_model(name).eval(), str(tmp_path / f"weights.{ending}")
    (torch.save if ending == "pth" else save_file)(model.state_dict(), path)
    trunk = build_backbone(config(name, CHECKPOINT=path)).bottom_up.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        reference = model.forward_intermediates(image, intermediates_only=True)
        torch.testing.assert_close(trunk(image)["c4"], reference[-2])


def test_a_file_that_does_not_fill_the_trunk(tmp_path):
    weights, path = timm.create_model("resnet18").state_dict(), str(tmp_path / "weights.pth")
    torch.save({k: v for k, v in weights.items() if "layer3.1" not in k}, path)
    missing = r"CHECKPOINT: .*weights.pth: .* Missing of \d+ .*: layer3.1.conv1.weight, .* 5 more"
    with pytest.raises(ValueError, match=missing):
        build_backbone(config(CHECKPOINT=path))
    torch.save({f"body.{k}": v for k, v in weights.items()}, path)
    with pytest.raises(ValueError, match=r"weights.pth: .* Missing of \d+ tensors: conv1.weight"):
        build_backbone(config(CHECKPOINT=path))
    torch.save({"state_dict": weights}, path)
    with pytest.raises(ValueError, match=r"of another shape: conv1.weight \(64, 3, 7, 7\) instead"):
        build_timm_fpn_backbone(config(CHECKPOINT=path), ShapeSpec(channels=4))
    with pytest.raises(FileNotFoundError, match="CHECKPOINT: 'nothing.pth' not found: let timm"):
        build_backbone(config(CHECKPOINT="nothing.pth"))
    hint = (
        "'datasets/weights/x.pth' not found: run python datasets/prepare_weights.py.*, or let timm"
    )
    with pytest.raises(FileNotFoundError, match=hint):
        build_backbone(config(CHECKPOINT="datasets/weights/x.pth"))


def test_a_file_cannot_run_code(tmp_path):
    path, sign = tmp_path / "weights.pth", tmp_path / "sign"

    class Touch:
        def __reduce__(self):
            return (open, (str(sign), "w"))

    torch.save({"conv1.weight": Touch()}, path)
    with pytest.raises(ValueError, match="MODEL.TIMM.CHECKPOINT: .*is not a readable checkpoint"):
        build_backbone(config(CHECKPOINT=str(path)))
    assert not sign.exists()


@pytest.mark.parametrize(("keys", "match"), [
    ({"name": "resnet81"}, "MODEL.TIMM.NAME is 'resnet81'.*resnet18"),
    ({"name": "zzzzqqqq"}, r"MODEL.TIMM.NAME is 'zzzzqqqq'.*timm.list_models\(\)"),
    ({"features": ("c3", "c6")}, r"MODEL.FPN.IN_FEATURES asks for \['c6'\].*'c5'"),
    ({"FREEZE_AT": 6}, r"MODEL.TIMM.FREEZE_AT is 6.*'c1', .*'c5'"),
    ({"FREEZE_AT": -1}, "MODEL.TIMM.FREEZE_AT is -1. Use 0 to freeze nothing"),
    ({"name": "hrnet_w18_small", "FREEZE_AT": 1}, "FREEZE_AT: timm says .* with 'stem', which it"),
    ({"name": "convnext_atto", "FREEZE_AT": 1}, r"FREEZE_AT is 1.* \['c2', 'c3', 'c4', 'c5'\]"),
])  # fmt: skip
def test_mistakes_are_explained(keys, match):
    with pytest.raises(ValueError, match=match):
        build_backbone(config(**keys))


def test_missing_timm_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install d2kd\[timm\]"):
        build_backbone(config())


def test_weights_that_cannot_be_downloaded(monkeypatch):
    """A hub that does not answer."""
    create = timm.create_model

    def fail(name, pretrained=False, **options):
        if pretrained:
            raise FileNotFoundError("an error happened while trying to locate the file on the Hub")
        return create(name, pretrained, **options)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match="MODEL.TIMM.PRETRAINED: the weights of resnet18 cannot"):
        TimmBackbone("resnet18", ["c3"], pretrained=True)
