"""timm's models as teachers by their maps."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

timm = pytest.importorskip("timm")

from d2kd.adapters import build_adapter  # noqa: E402
from d2kd.checkpoint import load_detector  # noqa: E402
from d2kd.config.defaults import get_d2kd_cfg  # noqa: E402
from d2kd.config.loading import merge_config_file  # noqa: E402
from d2kd.config.naming import construct  # noqa: E402
from d2kd.config.sources import timm as source  # noqa: E402
from d2kd.config.sources.find import published_weights  # noqa: E402
from d2kd.engine.command_line import argument_parser  # noqa: E402
from d2kd.engine.main import setup  # noqa: E402
from d2kd.errors import ConfigError  # noqa: E402

FEATURES = frozenset({"features"})


def built(name, weights=None):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, f"timm:{name}", "--teacher")
    cfg.MODEL.DEVICE = "cpu"
    detector = construct(cfg).eval()
    if weights:
        load_detector(detector, str(weights), "--teacher-weights")
    return detector


def saved(name, path, **options):
    """timm's whole model, and a file of its weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    tensors = {key: x.contiguous() for key, x in model.state_dict().items()}
    torch.save(tensors, path) if path.suffix == ".pth" else save_file(tensors, path)
    return model


def batch_of(adapter, *sides):
    images = [torch.rand(3, *side) * 255 for side in sides]
    return adapter.preprocess([{"image": x} for x in images], adapter.divisor)


CNNS = {
    "tf_efficientnet_lite0": ".pth", "resnet18": ".safetensors",
    "swin_tiny_patch4_window7_224": ".pth", "cspnext_tiny": ".safetensors",
}  # fmt: skip


@pytest.mark.parametrize("name", CNNS)
@torch.no_grad()
def test_maps_of_stages_are_timms(name, tmp_path):
    path = tmp_path / f"weights{CNNS[name]}"
    options = {"strict_img_size": False, "always_partition": True} if "swin" in name else {}
    model = saved(name, path, **options)
    adapter = build_adapter(built(name, path))
    pixels = torch.rand(3, 90, 100) * 255
    batch = adapter.preprocess([{"image": pixels}], adapter.divisor)
    assert batch.tensor.shape == (1, 3, 96, 128)
    mean, std = (torch.tensor(model.pretrained_cfg[x])[:, None, None] for x in ("mean", "std"))
    assert_close(batch.tensor[0, :, :90, :100], (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    theirs = model.forward_intermediates(batch.tensor, intermediates_only=True)
    by_stride = {batch.tensor.shape[3] // x.shape[3]: x for x in theirs}
    out = adapter(batch, None, FEATURES).features
    assert list(out) == [4, 8, 16, 32] == list(adapter.spec().features)
    for stride, x in out.items():
        assert_close(x, by_stride[stride], rtol=1e-5, atol=1e-5)


VITS = {"vit_tiny_patch16_224": 16, "vit_small_patch16_dinov3": 16, "vit_small_patch14_dinov2": 14}


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_tokens_become_a_map_of_the_students_cells(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    model = saved(name, path, dynamic_img_size=True)
    adapter = build_adapter(built(name, path))
    batch = batch_of(adapter, (60, 100), (48, 128))
    assert batch.tensor.shape[2:] == (64, 128) and list(adapter.spec().features) == [16]
    out = adapter(batch, None, FEATURES).features[16]
    seen = batch.tensor
    if VITS[name] == 14:
        size = (56, 112)
        seen = torch.nn.functional.interpolate(seen, size, mode="bicubic", antialias=True)
    tokens = model.forward_features(seen)[:, model.num_prefix_tokens :]
    assert out.shape == (2, adapter.spec().features[16].channels, 4, 8)
    assert_close(out, tokens.transpose(1, 2).unflatten(2, (4, 8)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "stride", "size"), [
    ("vit_tiny_patch16_224", 8, (128, 256)), ("vit_tiny_patch16_224", 16, (64, 128)),
    ("vit_tiny_patch16_224", 32, (32, 64)), ("vit_tiny_patch16_224", 64, (16, 32)),
    ("vit_small_patch14_dinov2", 32, (28, 56)),
])  # fmt: skip
@torch.no_grad()
def test_a_patch_may_stand_for_more_pixels(name, stride, size):
    """A patch of 16 px for 32 px: images are halved by averages; else they are resized."""
    detector = built(f"{name}@{stride}")
    adapter, seen = build_adapter(detector), []
    body = detector.backbone.body
    inner = body.forward_intermediates
    body.forward_intermediates = lambda x, **keys: seen.append(x) or inner(x, **keys)
    batch = batch_of(adapter, (60, 100), (48, 128))
    assert adapter.divisor == stride and batch.tensor.shape[2:] == (64, 128)
    out = adapter(batch, None, FEATURES).features
    assert list(out) == [stride] and out[stride].shape[2:] == (64 // stride, 128 // stride)
    assert seen[0].shape[2:] == size
    if stride == 32 and "16" in name:
        assert_close(seen[0], torch.nn.functional.avg_pool2d(batch.tensor, 2))


def test_a_config_of_another_stride_is_that_of_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    keys = source.keys("vit_small_patch16_dinov3@32")["MODEL"]
    assert keys["TIMM"] == {"NAME": "vit_small_patch16_dinov3", "STRIDE": 32}
    with pytest.raises(ConfigError, match="Give the weights of vit_small_patch16_224 with"):
        source.weights("vit_small_patch16_224@32")


def test_published_names_and_licences_are_timms():
    for entry in source.entries():
        name = entry.name.partition(":")[2]
        assert timm.get_pretrained_cfg(name).license == entry.licence
        assert source.keys(name)["MODEL"]["TIMM"]["NAME"] == name and entry.box_ap is None


def test_weights_of_the_hubs_cache_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="not on this machine.*Give the weights of resnet18 with"):
        published_weights("timm:resnet18")
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"x")
    assert Path(published_weights("timm:resnet18")).name == "model.safetensors"


BAD = {
    "resnet81": "has no 'resnet81'. Did you mean timm:resnet18",
    "resnet18.nowhere": "has no 'resnet18.nowhere'. Did you mean timm:resnet18",
    "beit_base_patch16_224": "takes images of one size only",
    "hiera_tiny_224": "does not take images of any size",
    "resnet18@32": "MODEL.TIMM.STRIDE is 32, but resnet18 has maps of strides of its own: set",
    "vit_tiny_patch16_224@24": r"MODEL.TIMM.STRIDE is 24: choose one of \(0, 8, 16, 32, 64\)",
    "vit_tiny_patch16_224@x": "vit_tiny_patch16_224@x: give the stride .* as in @32",
    "vit_tiny_patch16_224@": "vit_tiny_patch16_224@: give the stride",
}


@pytest.mark.parametrize("name", BAD)
def test_models_that_cannot_teach_are_refused(name):
    with pytest.raises(ConfigError, match=BAD[name]) as found:
        built(name)
    assert "\n" not in str(found.value)


def test_weights_of_another_model_are_refused(tmp_path):
    saved("resnet18", tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="does not fill the detector"):
        built("tf_efficientnet_lite0", tmp_path / "weights.pth")


def test_it_detects_nothing():
    with pytest.raises(ConfigError, match="detects nothing.*with --teacher"):
        built("resnet18")([])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs timm: pip install d2kd\[timm\]"):
        source.keys("resnet18")


def test_it_is_no_student(tmp_path):
    words = ["timm:resnet18", "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu"]
    args = argument_parser().parse_args(["--config-file", *words])
    with pytest.raises(ConfigError, match="resnet18 is a backbone, which is no student: name it"):
        setup(args, ExitStack())
