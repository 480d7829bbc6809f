"""Detectron2's LazyConfigs as teachers."""

import pytest
import torch
from detectron2.modeling import build_model

from d2kd.adapters import build_adapter
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.lazy import trust
from d2kd.config.loading import merge_config_file
from d2kd.config.model_zoo import zoo_checkpoint_url
from d2kd.config.naming import construct
from d2kd.errors import ConfigError
from d2kd.teachers.from_config import build_teacher
from tests.helpers import d2kd

ZOO = [
    f"new_baselines/mask_rcnn_{trunk}_FPN_{epochs}ep_LSJ.py"
    for trunk in ("R_50", "R_101", "regnetx_4gf_dds", "regnety_4gf_dds")
    for epochs in (100, 200, 400)
]
TWINS = [
    "COCO-Detection/retinanet_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",
]
OTHERS = [
    "COCO-Detection/fcos_R_50_FPN_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py",
    "common/models/cascade_rcnn.py",
]
MINE = """
from detectron2.config import LazyConfig
from d2kd.config.model_zoo import zoo_folder
model = LazyConfig.load(str(zoo_folder() / "configs/common/models/retinanet.py")).model
model.backbone.bottom_up.stages.depth = 18
del model.backbone.bottom_up.stages.stride_in_1x1
model.backbone.bottom_up.freeze_at = 0
model.pixel_mean, model.input_format, model.num_classes = [1.0, 2.0, 3.0], "RGB", 2
model.backbone.out_channels = 32
model.backbone.top_block.in_channels = 512
model.backbone.top_block.out_channels = 32
"""


def config(name):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, name, "--teacher")
    cfg.MODEL.DEVICE = "meta"
    return cfg


def built(name_or_config):
    cfg = config(name_or_config) if isinstance(name_or_config, str) else name_or_config
    with torch.device("meta"):
        return construct(cfg)


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", [*ZOO, *OTHERS])
def test_installed_configs_are_built_by_name_and_pass_the_adapter(name):
    cfg = config(name)
    assert build_adapter(built(cfg)).spec().num_classes == 80
    assert (zoo_checkpoint_url(name) is not None) == (name in ZOO)
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.INPUT.MIN_SIZE_TEST == 800 and cfg.INPUT.MAX_SIZE_TEST == 1333


@pytest.mark.parametrize("name", TWINS)
def test_the_twins_of_yaml_configs_have_their_tensors_and_pixels(name):
    lazy, cfg = config(f"{name}.py"), config(f"{name}.yaml")
    with torch.device("meta"):
        model = build_model(cfg)
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    assert {key: x.shape for key, x in built(lazy).state_dict().items()} == shapes
    assert lazy.MODEL.META_ARCHITECTURE == cfg.MODEL.META_ARCHITECTURE
    assert lazy.MODEL.PIXEL_MEAN == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert lazy.MODEL.PIXEL_STD == cfg.MODEL.PIXEL_STD
    assert lazy.INPUT.FORMAT == cfg.INPUT.FORMAT
    assert zoo_checkpoint_url(f"{name}.py") == zoo_checkpoint_url(f"{name}.yaml")


def test_what_the_adapter_refuses_is_refused_by_name():
    with pytest.raises(TypeError, match="PanopticFPN overrides"):
        build_adapter(built("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py"))


def test_it_is_refused_before_its_weights_are_downloaded(monkeypatch):
    name, cfg = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py", get_d2kd_cfg()
    cfg.MODEL.DEVICE, cfg.DISTILL.TEACHER.CONFIG_FILES = "cpu", (name,)
    monkeypatch.setattr("d2kd.teachers.from_config.load_detector", None)
    said = f"CONFIG_FILES.0.: {name} cannot teach: PanopticFPN overrides"
    with pytest.raises(ConfigError, match=said) as error:
        build_teacher(cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["common/optim.py", "Misc/mmdet_mask_rcnn_R_50_FPN_1x.py"])
def test_what_holds_no_detector(name):
    with pytest.raises(ConfigError, match=f"{name} holds no detector"):
        config(name)


def test_a_file_of_ones_own_is_executed_where_it_is_trusted_alone(tmp_path, mine):
    mine.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{MINE}")
    with pytest.raises(ConfigError, match="Python file|lazy config"):
        config(str(mine))
    assert not (tmp_path / "ran").exists()
    trust(str(mine))
    cfg = config(str(mine))
    assert (tmp_path / "ran").exists()
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 2 and cfg.INPUT.FORMAT == "RGB"
    mine.write_text("1 / 0")
    with pytest.raises(ConfigError, match="cannot be executed: ZeroDivisionError"):
        config(str(mine))


def test_it_is_no_student(tmp_path, squares, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = d2kd("train", "common/models/retinanet.py", "--data", squares, "--output", "out")
    assert "retinanet.py is a LazyConfig, which is no student: name it with" in done.output


def test_near_names_are_those_of_the_zoo_too():
    with pytest.raises(ConfigError, match="mean new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"):
        config("new_baselines/mask_rcnn_R_50_FPN_100e_LSJ.py")


def test_it_teaches_a_student(tmp_path, mine, squares, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trust(str(mine))
    cfg = config(str(mine))
    cfg.MODEL.DEVICE = "cpu"
    torch.save({"model": construct(cfg).state_dict()}, "teacher.pth")
    words = [
        "train", "own/student.yaml", "--data", squares, "--teacher", mine, "--trust-config", mine,
        "--teacher-weights", "teacher.pth", "--output", "out", "MODEL.TIMM.CHECKPOINT", "",
        "MODEL.TIMM.NAME", "mobilenetv3_small_050", "SOLVER.MAX_ITER", 2, "INPUT.MIN_SIZE_TRAIN",
        "(64,)", "INPUT.MAX_SIZE_TRAIN", 96, "INPUT.MIN_SIZE_TEST", 64,
    ]  # fmt: skip
    done = d2kd(*words)
    assert done.exit_code == 0, done.output
    assert "loss_PKD" in (tmp_path / "out" / "metrics.json").read_text()
