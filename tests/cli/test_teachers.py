"""Published teachers: the list, what each can teach, and how good one is on data of one's own."""

import json
import shutil

import pytest
import torch
import torchvision
from PIL import Image

from d2kd.config.model_zoo import zoo_checkpoint_url
from d2kd.config.sources import zoo
from d2kd.config.sources.find import published, published_as
from d2kd.evaluation.domain_shift import mapping_by_name
from tests.helpers import d2kd

NAME = "torchvision:fcos_resnet50_fpn"


def test_the_list():
    done = d2kd("teachers")
    assert done.exit_code == 0, done.output
    for entry in published():
        assert entry.name in done.output and entry.licence in done.output
        assert entry.box_ap is None or f"{entry.box_ap:.1f}" in done.output
    assert len({entry.name for entry in published()}) == len(published())


def test_the_zoo_has_what_is_listed():
    for entry in zoo.entries():
        assert entry.weights == zoo_checkpoint_url(entry.name)
    assert "48.9 on COCO" in published_as("new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ.py")
    assert published_as("mine.yaml") == ""


def test_what_some_of_them_teach():
    done = d2kd("teachers", "torchvision:f", "--student", "detectors/fcos_R_50_FPN.yaml")
    assert done.exit_code == 0, done.output
    fcos, faster, _ = done.output.strip().split("\n")[-3:]
    assert "8-128 x 256" in fcos and " 129" in fcos and "BCKD" in fcos and "PKD" in fcos
    assert "4-64 x 256" in faster and " 167" in faster and "BCKD" not in faster and "PKD" in faster


def test_a_name_that_there_is_not():
    done = d2kd("teachers", "torchvison:fcos_resnet50_fpn")
    assert done.exit_code and f"Did you mean {NAME}" in done.output


@pytest.fixture
def photographs(tmp_path, squares):
    folder = tmp_path / "set"
    shutil.copytree(squares, folder)
    data = json.loads((squares / "squares.json").read_text())
    for category, name in zip(data["categories"], ("Person", "helmet"), strict=True):
        category["name"] = name
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(data))
    return folder


def test_evaluation_in_the_common_classes(tmp_path, photographs, monkeypatch):
    """The file of another library, 80 classes, and data with one of them."""
    torch.manual_seed(0)
    build = torchvision.models.detection.fcos_resnet50_fpn
    model = build(weights=None, weights_backbone=None)
    state = {k: x for k, x in model.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "fcos.pth")
    monkeypatch.chdir(tmp_path)
    sizes = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"]
    done = d2kd(
        "eval", NAME, "--data", photographs, "--weights", "fcos.pth", "--output", "out", *sizes
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert found["classes"] == {"measured": ["Person"], "not known": ["helmet"]}
    assert "AP-Person" in found["bbox"] and "AP-helmet" not in found["bbox"]
    for number in (1, 2, 3, 4):
        width, height = Image.open(tmp_path / "out" / f"{number}.png").size
        assert width > height
    assert "AP" in done.output and "pictures: out/1.png" in done.output


def test_what_lies_in_the_folder_stays(tmp_path, photographs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "out" / "3.png")
    words = "eval", NAME, "--data", photographs, "--weights", "none.pth", "--output", "out"
    done = d2kd(*words)
    assert done.exit_code and "out/3.png is no picture of d2kd" in done.output + str(done.exception)
    (tmp_path / "out" / "run.json").write_text("{}")
    (tmp_path / "out" / "last_checkpoint").write_text("model_final.pth")
    assert "out holds a run" in d2kd(*words).output
    assert "is no run" in d2kd("eval", NAME, "--last").output


def test_a_zoo_name_with_weights_of_ones_own_is_a_config(tmp_path, photographs, monkeypatch):
    """It then has as many classes as the data."""
    monkeypatch.chdir(tmp_path)
    name = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    done = d2kd("eval", name, "--data", photographs, "--weights", "none.pth")
    assert "MODEL.WEIGHTS" in done.output + str(done.exception)
    assert "none.pth" in done.output + str(done.exception)


def test_evaluation_without_a_common_class(tmp_path, photographs, monkeypatch):
    for path in photographs.glob("*.json"):
        path.write_text(path.read_text().replace("Person", "hat"))
    monkeypatch.chdir(tmp_path)
    done = d2kd("eval", NAME, "--data", photographs, "--weights", "none.pth")
    assert done.exit_code and "no class of the detector" in done.output + str(done.exception)


def test_mapping():
    mapping = mapping_by_name(["person", "sofa", "tv"], ["Couch", "hat", "TV"])
    assert mapping.classes == ["Couch", "TV"] and mapping.detector_to == [-1, 0, 1]
    assert mapping.dataset_to == [0, -1, 1] and mapping.ignored_dataset == ["hat"]
    with pytest.raises(ValueError, match="no class of the detector"):
        mapping_by_name(["person"], ["hat"])
