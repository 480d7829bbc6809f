"""Every config builds, without its weights; plain ones are what stock tools expect."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model

from d2kd import Distiller
from d2kd.build import student_config
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file, merge_options, without_pretrained
from d2kd.config.locate import resolve_config_file
from d2kd.config.model_zoo import zoo_config_file
from d2kd.config.sources import find, transformers
from d2kd.engine.command_line import argument_parser, resolve_config
from d2kd.solver import build_lr_scheduler, build_optimizer
from d2kd.study import load_study
from tests.tiny_transformers import save

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = import_module("d2kd.teachers.from_config")  # the function has its name
FOLDERS = (ROOT / "configs", ROOT / "studies" / "configs")
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for x in FOLDERS for p in x.rglob("*.yaml"))
DISTILLED = [p for p in CONFIGS if 'META_ARCHITECTURE: "Distiller"' in (ROOT / p).read_text()]
OURS = (
    "timm",
    "fcos",
    "atss",
    "autoassign",
    "ddod",
    "gfl",
    "reppoints",
    "anchorpoint",
)  # detectors and backbones of d2kd
STOCK = [p for p in CONFIGS if "/detectors/" in p and not any(w in p.lower() for w in OURS)]


def load(path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, path, "--config-file")
    cfg.MODEL.DEVICE = "cpu"
    return without_pretrained(cfg)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def without_random_numbers(monkeypatch):
    """Weights, which no test looks at, are not drawn: it would take much of the time."""
    for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.fixture(autouse=True)
def without_the_hub(monkeypatch, tmp_path):
    """Its files are those of a tiny detector of COCO's classes."""

    def file(repository, name):
        pytest.importorskip("transformers")
        if not (tmp_path / name).exists():
            names = [x["name"] for x in COCO_CATEGORIES if x["isthing"]]
            save("RTDetr", tmp_path, do_normalize=False)
            config = json.loads((tmp_path / "config.json").read_text())
            config["id2label"] = dict(enumerate(names))
            config["label2id"] = {name: i for i, name in enumerate(names)}
            (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path / name)

    monkeypatch.setattr(transformers, "hub_file", file)


def test_there_are_configs():
    assert len(DISTILLED) >= 8 and len(STOCK) >= 6 and len(CONFIGS) > len(DISTILLED) + len(STOCK)


ABSTRACT = ("/schedules/", "Base-AnchorPoint", "Base-timm-ResNet", "Base-crowdhuman",
            "Base-faster", "Base-mask", "Base-tokens", "bccd/Base-own", "digits/Base-own",
            "Base-photographs", "Base-people", "Base-aquarium", "people/Base-ddod")  # fmt: skip


@pytest.mark.parametrize("path", [p for p in CONFIGS if not any(w in p for w in ABSTRACT)])
def test_config_builds(path, monkeypatch):
    loaded = []
    monkeypatch.setattr(TEACHERS, "load_detector", lambda *args: loaded.append(args[1]))
    monkeypatch.setitem(find._FILES, "timm", lambda name: f"{name}.safetensors")  # no download
    cfg = load(path)
    model = build_model(cfg)
    assert isinstance(model, Distiller) == (path in DISTILLED or "_released" in path)
    if path in DISTILLED:
        assert len(loaded) == len(cfg.DISTILL.TEACHER.CONFIG_FILES) and all(loaded)
        assert len(model.heads) == len(cfg.DISTILL.HEADS)


@pytest.mark.parametrize("path", [p for p in CONFIGS if "/train/" in p])
def test_a_trunk_without_weights_is_trained_whole(path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, path, "--config-file")
    if not cfg.MODEL.WEIGHTS and "timm" not in cfg.MODEL.BACKBONE.NAME:
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM != "FrozenBN"
    if "timm" in cfg.MODEL.BACKBONE.NAME and not cfg.MODEL.TIMM.PRETRAINED:
        assert cfg.MODEL.TIMM.FREEZE_AT == 0 and not cfg.MODEL.BACKBONE.NORM_EVAL


TRAINED = {  # teachers of several studies, by their folders
    "output/study/people/teacher/seed_1": "studies/configs/people/gfl_teacher.yaml",
    "output/study/digits/gfl_teacher": "studies/configs/digits/gfl_teacher.yaml",
}
STUDIES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [*(ROOT / "studies").glob("*.yaml"), *(ROOT / "studies").glob("*/*.yaml")]
    if p.parent.name != "robustness"
)


@pytest.mark.parametrize("path", STUDIES)
def test_every_row_of_a_study_builds(path, monkeypatch):
    monkeypatch.setattr(TEACHERS, "load_detector", lambda *args: None)
    study = load_study(path)
    teachers = {str(study.rows[row][0].folder): study.trained[row][0] for row in study.teachers}
    for words in study.trained.values():
        args = argument_parser().parse_args(["--config-file", *words])
        args.teacher = [teachers.get(x) or TRAINED[x] for x in args.teacher]
        args.teacher_weights = ["x.pth" for _ in args.teacher]
        cfg = resolve_config(args)
        cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
        cfg.DISTILL.MasKD.TOKENS = ""  # of a run of its own
        if cfg.DISTILL.SetKD.OFFLINE:  # a file that is not here, of images that are not
            cfg.DISTILL.SetKD.OFFLINE = ""
            cfg.DISTILL.TEACHER.CONFIG_FILES = (words[0],)
            cfg.DISTILL.TEACHER.WEIGHTS = ("x.pth",)
        build_lr_scheduler(cfg, build_optimizer(cfg, build_model(cfg)))
    for row in study.data.get("tune", {"rows": {}})["rows"].values():
        for pairs in row["try"]:
            merge_options(load(row["config"]), list(map(str, pairs)))


@pytest.mark.parametrize("path", [p for p in CONFIGS if "/schedules/" in p])
def test_schedule_builds(path):
    cfg = load(path)
    parameter = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, parameter)
    build_lr_scheduler(cfg, optimizer)
    assert cfg.SOLVER.MAX_ITER > 0


@pytest.mark.parametrize("path", DISTILLED)
def test_distillation_configs_are_short(path):
    lines = [x for x in (ROOT / path).read_text().splitlines() if x and not x.startswith("#")]
    assert 6 <= len(lines) <= 15, path


@pytest.mark.parametrize("path", STOCK)
def test_plain_detector_loads_in_stock_detectron2(path):
    cfg = get_cfg()
    cfg.merge_from_file(path, allow_unsafe=False)
    assert cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "GeneralizedRCNN")


@pytest.mark.parametrize(("ours", "zoo"), [
    ("configs/detectors/retinanet_R_50_FPN.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"),
    ("configs/detectors/faster_rcnn_R_50_FPN.yaml", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"),
    ("configs/detectors/mask_rcnn_R_101_FPN.yaml",
     "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml"),
    ("configs/detectors/cascade_mask_rcnn_R_50_FPN.yaml",
     "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"),
])  # fmt: skip
def test_detectors_are_those_of_the_model_zoo(ours, zoo):
    mine, stock = get_cfg(), get_cfg()
    mine.merge_from_file(ours, allow_unsafe=False)
    stock.merge_from_file(str(zoo_config_file(zoo)))
    mine.MODEL.PIXEL_MEAN = stock.MODEL.PIXEL_MEAN
    assert mine.MODEL == stock.MODEL
    assert mine.INPUT == stock.INPUT and mine.DATASETS == stock.DATASETS


def test_student_config_is_plain():
    cfg = load(DISTILLED[0])
    plain = student_config(cfg)
    assert plain.MODEL.META_ARCHITECTURE == cfg.DISTILL.STUDENT
    assert cfg.MODEL.META_ARCHITECTURE == "Distiller"


def test_configs_of_the_studies_are_found_at_their_old_place(monkeypatch):
    """Run folders of 0.1.0 name them so."""
    monkeypatch.chdir(ROOT)
    found = resolve_config_file("configs/study/digits/gfl_teacher.yaml", "")
    assert Path(found).samefile(ROOT / "studies" / "configs" / "digits" / "gfl_teacher.yaml")
