"""Detectors of transformers: what they see and say here is what they see and say there."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch.nn.functional import interpolate
from torch.testing import assert_close

pytest.importorskip("transformers")

from d2kd import Teacher  # noqa: E402
from d2kd.adapters import build_adapter  # noqa: E402
from d2kd.adapters.own_size import OwnSizeAdapter  # noqa: E402
from d2kd.checkpoint import load_detector  # noqa: E402
from d2kd.config.defaults import get_d2kd_cfg  # noqa: E402
from d2kd.config.loading import merge_config_file  # noqa: E402
from d2kd.config.naming import construct  # noqa: E402
from d2kd.config.sources import transformers as source  # noqa: E402
from d2kd.config.sources.find import published_weights  # noqa: E402
from d2kd.errors import ConfigError  # noqa: E402
from tests.tiny_transformers import FAMILIES, NAMES, save  # noqa: E402

FEATURES = frozenset({"features"})
STRIDES = {"DeformableDetr": [8, 16, 32, 64], "Detr": [32], "ConditionalDetr": [32],
           "DabDetr": [32], "Yolos": [16], "LwDetr": [8, 32], "RfDetr": [16]}  # fmt: skip
DETRS = ["DeformableDetr", "Detr", "ConditionalDetr", "DabDetr"]
OF_IMAGES = [*DETRS, "LwDetr", "RfDetr"]  # whose boxes are relative to images without padding


def config(folder):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, f"hf:{folder}", "--teacher")
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def built(folder):
    detector = construct(config(folder)).eval()
    load_detector(detector, published_weights(f"hf:{folder}"), "--teacher-weights")
    return detector


def close(ours, theirs):
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def photograph(height, width):
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 2 % 256, columns * 3 % 256, rows * columns % 256], -1)
    return pixels.astype(np.uint8)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """Family, the library's detector, its image processor, and ours of the folder it writes."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *save(request.param, folder), built(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save("RTDetr", folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_it_can_be_sent_to_a_process_of_its_own(pair):
    teacher, pixels = Teacher(pair[3]), torch.from_numpy(photograph(96, 128))
    images = [{"image": pixels.permute(2, 0, 1)}]
    teacher(images, 32, "RGB", FEATURES)
    if pair[0] in ("LwDetr", "RfDetr"):  # the library hooks a local function into them
        with pytest.raises(AttributeError, match="output_captur"):
            pickle.dumps(teacher)
        return
    sent = pickle.loads(pickle.dumps(teacher))
    ours, theirs = (x(images, 32, "RGB", FEATURES).features for x in (teacher, sent))
    assert_close(theirs, ours, rtol=0, atol=0)


@torch.no_grad()
def test_detections_are_those_of_the_library(pair):
    """On an image whose sides are no multiples of anything, at the size that it has."""
    (family, theirs, processor, ours), image = pair, photograph(125, 190)
    size = {"do_resize": False, "do_pad": False, "return_tensors": "pt"}
    seen = processor(images=image, **size)["pixel_values"]
    step = ours.backbone.step
    padded = torch.zeros(1, 3, *(-(-side // step) * step for side in seen.shape[2:]))
    padded[..., :125, :190] = seen
    mask = torch.zeros(1, *padded.shape[2:], dtype=torch.long)
    mask[:, :125, :190] = 1
    outputs = theirs(padded) if family == "Yolos" else theirs(padded, pixel_mask=mask)
    target = torch.tensor([(125, 190) if family in OF_IMAGES else padded.shape[2:]])
    options = {"threshold": -1.0, "target_sizes": target}
    if family in ("DeformableDetr", "ConditionalDetr", "DabDetr", "LwDetr"):
        options["top_k"] = 10
    found = processor.post_process_object_detection(outputs, **options)[0]
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    mine = ours([{"image": pixels, "height": 125, "width": 190}])[0]["instances"]
    boxes = found["boxes"].clone()
    boxes[:, ::2].clamp_(0, 190)
    boxes[:, 1::2].clamp_(0, 125)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    close(mine.scores, found["scores"][inside])
    close(mine.pred_boxes.tensor, boxes[inside])
    assert torch.equal(mine.pred_classes, found["labels"][inside]) and len(mine) > 3


@torch.no_grad()
def test_maps_and_sets_are_those_of_the_library(pair):
    """Two images of different sizes, padded; the decoder is left out where it can be."""
    family, theirs, _, ours = pair
    adapter = build_adapter(ours)
    images = [torch.rand(3, 100, 150) * 255, torch.rand(3, 128, 90) * 255]
    batch = adapter.preprocess([{"image": x} for x in images], adapter.divisor)
    out = adapter(batch, None, FEATURES)
    both = adapter(batch, None, frozenset({"features", "sets"}))
    alone = adapter(batch, None, frozenset({"sets"}))
    assert not alone.features
    close(alone.sets.boxes, both.sets.boxes)
    close(alone.sets.probabilities, both.sets.probabilities)
    shapes = {s: (x.channels, *(-(-side // s) for side in batch.tensor.shape[2:]))
              for s, x in adapter.spec().features.items()}  # fmt: skip
    assert list(shapes) == STRIDES.get(family, [8, 16, 32])
    assert {s: tuple(x.shape[1:]) for s, x in out.features.items()} == shapes
    for stride, x in both.features.items():
        close(out.features[stride], x)
    pixels, mask = seen(batch, 14 / 16 if family == "RfDetr" else 1)
    outputs = theirs(pixels) if family == "Yolos" else theirs(
        pixels, pixel_mask=mask, output_hidden_states=family == "DabDetr")  # fmt: skip
    maps = maps_of(theirs, outputs, pixels, mask)
    for mine, x in zip(out.features.values(), maps, strict=True):
        close(mine, x.reshape(mine.shape))
    softmax = outputs.logits.shape[-1] == 4
    scores = outputs.logits.softmax(-1)[..., :3] if softmax else outputs.logits.sigmoid()
    close(both.sets.probabilities, scores)
    assert both.sets.exclusive == softmax and adapter.spec().num_classes == 3
    x, y, w, h = outputs.pred_boxes.unbind(-1)
    sizes = batch.image_sizes if family in OF_IMAGES else [batch.tensor.shape[2:]] * 2
    height, width = torch.tensor(sizes)[..., None].unbind(1)
    corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    close(both.sets.boxes, torch.stack(corners, -1))


def small_and_large():
    torch.manual_seed(0)
    smooth = interpolate(torch.rand(1, 3, 8, 8), (96, 96), mode="bicubic", antialias=True)[0]
    return [smooth * 255, torch.rand(3, 128, 256) * 255]


@torch.no_grad()
@pytest.mark.parametrize("pair", DETRS, indirect=True)
@pytest.mark.parametrize("size", [None, (128, 512)])
def test_boxes_stay_where_they_are_beside_a_larger_image(pair, size):
    """Up to what little the padding changes in the maps; also where the teacher resizes."""
    adapter, images = build_adapter(pair[3]), small_and_large()
    adapter = OwnSizeAdapter(adapter, size, 0) if size else adapter

    def boxes(images):
        batch = adapter.preprocess([{"image": x} for x in images], 32)
        out = adapter(batch, None, frozenset({"sets"}))
        return adapter.fit(out, [tuple(x.shape[1:]) for x in images], (128, 256)).sets.boxes[0]

    assert (boxes(images) - boxes(images[:1])).abs().mean() < 2  # px


@torch.no_grad()
@pytest.mark.parametrize(
    "pair", ["RTDetr", "RTDetrV2", "DFine", "Deimv2", "LwDetr", "RfDetr"], indirect=True
)
def test_boxes_that_are_not_moved_have_their_centers_in_those_of_cells(pair):
    detector = copy.deepcopy(pair[3])
    for name, x in detector.named_parameters():
        if "bbox" in name or "reference" in name:
            x.zero_()
    batch = ImageList.from_tensors(small_and_large(), detector.backbone.size_divisibility)
    boxes = detector.backbone.predict_alone(batch).boxes[0]
    cells = (boxes[:, :2] + boxes[:, 2:]) / 8
    assert_close(cells, cells.round(), rtol=0, atol=1e-3)
    assert len(cells.unique(dim=0)) > 3


def seen(batch, scale):
    mask = torch.zeros(len(batch), *batch.tensor.shape[2:])
    for row, (height, width) in zip(mask, batch.image_sizes, strict=True):
        row[:height, :width] = 1
    if scale == 1:
        return batch.tensor, mask.long()
    size = [int(side * scale) for side in batch.tensor.shape[2:]]
    pixels = interpolate(batch.tensor, size, mode="bicubic", antialias=True)
    return pixels, interpolate(mask[:, None], size)[:, 0].long()


def maps_of(model, outputs, pixels, mask):
    """What the library itself returns, or, of LW-DETR, has in its backbone."""
    kept = getattr(outputs, "encoder_last_hidden_state", None)
    if isinstance(kept, (list, tuple)):
        return kept
    if kept is None:
        if hasattr(model, "vit"):
            return [outputs.last_hidden_state[:, 1:-10].transpose(1, 2)]
        found = model.model.backbone(pixels, mask)
        return [outputs.backbone_features] if torch.is_tensor(found[0]) else [x for x, _ in found]
    strides = [8, 16, 32, 64] if kept.shape[1] > 40 else [32]
    sizes = [-(-pixels.shape[2] // s) * -(-pixels.shape[3] // s) for s in strides]
    return [x.transpose(1, 2) for x in kept.split(sizes, 1)]


def test_pixels_classes_and_size_are_read_from_the_json_files(folder):
    cfg = config(folder)
    assert list(cfg.MODEL.TRANSFORMERS.CLASSES) == list(NAMES.values())
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (640, 640)
    assert list(cfg.MODEL.PIXEL_MEAN) == [0.0] * 3 and cfg.INPUT.FORMAT == "RGB"
    assert_close(torch.tensor(cfg.MODEL.PIXEL_STD), torch.full((3,), 255.0))
    old = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.2, 0.25, 0.5],
           "size": 800, "max_size": 1333}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    cfg = config(folder)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert_close(cfg.MODEL.PIXEL_MEAN, [127.5] * 3)
    assert_close(cfg.MODEL.PIXEL_STD, [51.0, 63.75, 127.5])


def test_images_with_fewer_cells_than_queries_are_refused(tmp_path):
    save("RTDetr", tmp_path)
    detector = built(tmp_path)
    detector.backbone.model.config.num_queries = 50
    with pytest.raises(ConfigError, match="50 queries.*64 x 32 px.*INPUT.MIN_SIZE_TRAIN"):
        detector([{"image": torch.zeros(3, 32, 64)}])


def test_it_is_not_trained(folder):
    with pytest.raises(ConfigError, match="is a teacher.*--teacher hf:FOLDER"):
        construct(config(folder)).train()([])


def hide_trunk(folder):
    path, hidden = folder / "config.json", r'"back\u0062one": "hf-hub\u003aevil/model"'
    path.write_text(f"{path.read_text().rstrip()[:-1]}, {hidden}}}")


BAD = {
    "no config.json": ("it has no config.json.*Put config.json, preprocessor_config.json and",
                       lambda x: (x / "config.json").unlink()),
    "no processor": ("it has no preprocessor_config.json",
                     lambda x: (x / "preprocessor_config.json").unlink()),
    "pickles": ("it has no model.safetensors.*\\.bin are pickles, which can run code",
                lambda x: (x / "model.safetensors").rename(x / "pytorch_model.bin")),
    "cut off": ("not a readable checkpoint.*truncated",
                lambda x: (x / "model.safetensors").write_bytes(
                    (x / "model.safetensors").read_bytes()[:-100])),
    "documents": ("pp_doclayout_v2, which finds parts of documents",
                  lambda x: edit(x, model_type="pp_doclayout_v2")),
    "tables": ("finds parts of documents", lambda x: edit(x, model_type="table-transformer")),
    "another task": ("rt_detr RTDetrForFlights, which is no detector",
                     lambda x: edit(x, architectures=["RTDetrForFlights"])),
    "another model": ("bert BertForMaskedLM, which is no detector.*rt_detr",
                      lambda x: edit(x, model_type="bert", architectures=["BertForMaskedLM"])),
    "other sizes": ("the checkpoint does not fill the detector",
                    lambda x: edit(x, encoder_ffn_dim=24)),
    "damaged": ("config.json is not valid json", lambda x: (x / "config.json").write_text("{")),
    "a kernel": ("config.json in .* sets _attn_implementation, which can fetch code",
                 lambda x: edit(x, _attn_implementation="evil/kernel")),
    "a hidden trunk": ("sets backbone, which can fetch", hide_trunk),
    "a trunk": ("sets backbone, which can fetch", lambda x: edit(x, backbone="hf-hub:evil/model")),
    "no names": ("not those of a detector", lambda x: edit(x, id2label=[1, 2])),
}  # fmt: skip


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("what", BAD)
def test_wrong_folders_are_refused_in_one_line(what, folder):
    said, spoil = BAD[what]
    spoil(folder)
    with pytest.raises(ConfigError, match=said) as found:
        built(folder)
    assert "\n" not in str(found.value)


def test_a_missing_tensor_is_an_error(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder_input_proj.0.0.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="1 of .* tensors are missing.*encoder_input_proj"):
        built(folder)


@pytest.mark.parametrize("name", ["PekingU/rtdetr_r50vd", "nobody/nothing@main", "a b"])
def test_without_a_network_the_files_are_named(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = f"config.json of {name} is not on this machine.*Put config.json.*into a folder"
    with pytest.raises(ConfigError, match=f"--teacher: {said}"):
        config(name)


def test_a_downloaded_repository_is_found_without_a_network(folder, tmp_path, monkeypatch):
    """As huggingface_hub lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--own--detr"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert commit in config("own/detr").MODEL.TRANSFORMERS.FOLDER
    assert Path(published_weights("hf:own/detr@main")).parent.name == commit


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs transformers: pip install d2kd\[hf\]"):
        config(tmp_path)
