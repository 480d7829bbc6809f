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


def test_what_transformers_and_timm_teach(tmp_path, monkeypatch):
    """Of a folder, of a repository that was downloaded before or was not, and of any model."""
    pytest.importorskip("transformers")
    from tests.tiny_transformers import save

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "PekingU/rtdetr_r18vd_coco_o365"
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    assert "known once its library" in d2kd("teachers", name).output
    (repository / "refs" / "main").write_text("0" * 40)
    save("RTDetr", folder)
    student = "--student", "detectors/retinanet_R_50_FPN.yaml"
    for text, said in (
        (name, "49.0      Apache-2.0  8-32 x 32"), (f"hf:{folder}", "8-32 x 32"),
        ("timm:resnet18", "4-32 x 64, 128, 256, 512  45"), ("timm:vit_small", "16 x 384"),
    ):  # fmt: skip
        done = d2kd("teachers", text, *student)
        assert done.exit_code == 0 and said in done.output, done.output
        assert ("SetKD" in done.output) == ("timm" not in text) and "PKD" in done.output
    assert "Did you mean timm:resnet18" in d2kd("teachers", "timm:resnet81").output


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


def test_evaluation_of_a_detector_of_transformers(tmp_path, photographs, monkeypatch):
    pytest.importorskip("transformers")
    from tests.tiny_transformers import save

    for path in photographs.glob("*.json"):
        path.write_text(path.read_text().replace("Person", "Fish"))
    save("RTDetr", tmp_path / "rtdetr")
    monkeypatch.chdir(tmp_path)
    sizes = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"]
    done = d2kd("eval", "hf:rtdetr", "--data", photographs, "--output", "out", *sizes)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert found["classes"] == {"measured": ["Fish"], "not known": ["helmet"]}
    assert (tmp_path / "out" / "4.png").is_file()


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
    text = (
        r"no class of the detector \(person\) .* data set \(hat\): say .* DISTILL.TEACHER.CLASS_MAP"
    )
    with pytest.raises(ValueError, match=text):
        mapping_by_name(["person"], ["hat"])
    assert mapping_by_name(["person"], ["hat"], [("person", "hat")]).classes == ["hat"]


def test_a_model_whose_name_is_part_of_a_listed_one():
    """It comes first, with its own licence and maps, behind it what is listed."""
    rows = d2kd("teachers", "timm:convnext_small").output.splitlines()
    assert [x.split()[0] for x in rows if x.startswith("timm:")] == [
        "timm:convnext_small", "timm:convnext_small.dinov3_lvd1689m"
    ]  # fmt: skip


def test_a_repository_that_is_not_here_is_not_asked_for(monkeypatch):
    monkeypatch.setattr("d2kd.config.sources.transformers.hub_file", None)
    done = d2kd("teachers", "hf:nobody/nothing")
    assert done.exit_code == 0 and "hf:nobody/nothing" in done.output, done.output
