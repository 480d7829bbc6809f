"""The run folders of Detectron2's tools/lazyconfig_train_net.py."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.lazy import trust
from d2kd.config.lazy_yaml import read_lazy_yaml
from d2kd.config.loading import merge_config_file
from d2kd.config.model_zoo import zoo_folder
from d2kd.config.naming import construct
from d2kd.errors import ConfigError
from d2kd.inspection.teachers import NumbersOnCpu
from d2kd.teachers.from_config import build_teacher
from tests.config.test_lazy import MINE
from tests.helpers import d2kd

SAVED = [
    "COCO-Detection/retinanet_R_50_FPN_1x.py",
    "COCO-Detection/fcos_R_50_FPN_1x.py",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    "common/models/mask_rcnn_c4.py",
    "common/models/cascade_rcnn.py",
    "common/models/mask_rcnn_vitdet.py",
]
LSJ = [f"new_baselines/mask_rcnn_{x}_FPN_100ep_LSJ.py" for x in ("R_50", "regnety_4gf_dds")]
TRAINED = f"""{MINE}
from detectron2.layers import ShapeSpec
model.head.input_shape, model.head.conv_dims = [ShapeSpec(channels=32)] * 5, [32]
size = {{"short_edge_length": 64, "max_size": 96}}
dataloader = {{"train": {{"dataset": {{"names": "coco_2017_val"}}}}}}
dataloader["test"] = {{"mapper": {{"augmentations": [size]}}}}
"""
HEAD = "model:\n  _target_: detectron2.modeling.RetinaNet\n  pixel_mean: [0]\n  backbone: {}\n"


def saved(name, folder):
    """A config of the zoo, and the folder of a run with it."""
    lazy = LazyConfig.load(str(zoo_folder() / "configs" / name))
    folder.mkdir(exist_ok=True)
    LazyConfig.save(lazy, str(folder / "config.yaml"))
    return lazy


def config(path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "--teacher")
    return cfg


@pytest.mark.parametrize("name", SAVED)
def test_what_was_saved_is_built_again(name, tmp_path):
    lazy, cfg = saved(name, tmp_path), config(tmp_path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"), NumbersOnCpu():
        ours, theirs = construct(cfg), instantiate(lazy.model)
    shapes = {key: x.shape for key, x in theirs.state_dict().items()}
    assert {key: x.shape for key, x in ours.state_dict().items()} == shapes
    assert str(ours) == str(theirs)
    assert cfg.INPUT.FORMAT == lazy.model.get("input_format", "BGR")
    assert cfg.MODEL.META_ARCHITECTURE == type(theirs).__name__


def test_channel_order_of_a_detector_that_has_none(tmp_path):
    saved(SAVED[1], tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(file.read_text().replace("image_format: BGR", "image_format: RGB"))
    cfg = config(tmp_path)
    assert cfg.INPUT.FORMAT == "RGB" and cfg.DATASETS.TRAIN == ("coco_2017_train",)


@pytest.mark.parametrize("name", LSJ)
def test_lambdas_cannot_be_loaded_by_anybody(name, tmp_path):
    saved(name, tmp_path)
    (tmp_path / "config.yaml.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"box_head\.conv_norm is a lambda.*--teacher NAME\.py "
                       r"--teacher-weights .*model_final\.pth") as error:  # fmt: skip
        config(tmp_path)
    assert "\n" not in str(error.value)


def read(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return read_lazy_yaml(str(file))


@pytest.mark.parametrize("value", [
    "{_target_: detectron2.modeling.mmdet_wrapper.MMDetBackbone, backbone: {type: os.system}}",
    "{_target_: detectron2.modeling.ResNet, cfg: {MODEL: {}}}",
    "{_target_: detectron2.modeling.ResNet.make_stage, cfg_per_block: [{MODEL: {}}]}",
    "{_target_: detectron2.modeling.backbone.vit.nn.Linear}",
    "{_target_: detectron2.modeling.ResNet.__init__}",
    "{_target_: detectron2.modeling.ResNet.forward}",
    "{_target_: detectron2.modeling.build_model}",
    "{_target_: torch.nn}",
    "{_target_: torch.nn.functional.relu}",
    "{_target_: torch.nn.nothing.here}",
    "{_target_: {a: 1}}",
    "{_target_: '${.a}', a: torch.nn.Linear}",
    "[!!python/name:os.system '']",
    "!!python/object/apply:functools.partial {args: [!!python/name:os.system ''], state: "
    "!!python/tuple [!!python/name:os.system '', !!python/tuple [], {}, null]}",
    "!!python/object/apply:functools.partial {args: [!!python/name:torch.nn.Linear ''], state: "
    "!!python/tuple [!!python/name:torch.nn.Linear '', !!python/tuple [], {}, {a: 1}]}",
    "!!python/object/apply:functools.partial [!!python/name:torch.nn.Linear '']",
    "!!python/object:detectron2.layers.ShapeSpec {channels: 1}",
    "!!python/module:os ''", "!!python/long '1'", "!other 1", "2020-01-01", "!!binary aGk=",
    "!!set {a}", f"0x{'f' * 4000}", "{1: 2}", "???",
    "${oc.env:HOME}", "a${..pixel_mean}", "${oc.decode:'1'}", "${nowhere}", "${..backbone}",
    "${....model}", f"${{..pixel_mean.{'9' * 5000}}}", "$${..pixel_mean}",
])  # fmt: skip
def test_what_is_neither_layer_nor_value_is_refused(value, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml: model\.x") as error:
        read(tmp_path, f"{HEAD}  x: {value}\n")
    assert "\n" not in str(error.value)


def test_references_do_not_multiply(tmp_path):
    lines = [f"  x{i}: ['${{..x{i + 1}}}', '${{..x{i + 1}}}']" for i in range(40)]
    with pytest.raises(ConfigError, match="refers to no number"):
        read(tmp_path, "\n".join([HEAD, *lines, "  x40: [1]"]))
    with pytest.raises(ConfigError, match="nested too deep"):
        read(tmp_path, HEAD + "  x: ${.y}\n  y: ${.x}\n")


def test_what_is_named_elsewhere_is_not_looked_at(tmp_path):
    text = f"{HEAD}  x: [1]\n  y: ${{.x}}\n  z: ${{.x.0}}\ntrain: !!python/name:os.system ''\n"
    loader = "dataloader: {train: !!python/object/apply:os.system [touch RAN], a: '${oc.env:HOME}'}"
    lazy = read(tmp_path, text + loader)
    assert lazy.model.y == [1] and lazy.model.z == 1
    assert set(lazy) == {"model", "dataloader"} and lazy.dataloader == {"train": None, "a": None}


@pytest.mark.parametrize("text", ["", "[]", "model: [{_target_: a}]", "model:\n  _target_: 1", HEAD,
                                  HEAD.replace("backbone: {}", "roi_heads: 3")])  # fmt: skip
def test_what_holds_no_detector_is_one_line(text, tmp_path):
    (tmp_path / "config.yaml").write_text(f"#\n  _target_:\n{text}")
    with pytest.raises(ConfigError) as error:
        config(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that a training with a LazyConfig leaves, and its detector."""
    folder = tmp_path_factory.mktemp("lazy")
    (folder / "mine.py").write_text(TRAINED)
    lazy = LazyConfig.load(str(folder / "mine.py"))
    torch.manual_seed(0)
    model = instantiate(lazy.model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = SimpleTrainer(model, [None], optimizer)
    (folder / "run").mkdir()
    LazyConfig.save(lazy, str(folder / "run" / "config.yaml"))
    checkpointer = DetectionCheckpointer(model, str(folder / "run"), trainer=trainer)
    checkpointer.save("model_final", iteration=1)
    return folder / "run", model.eval()


def test_the_teacher_is_the_detector_of_the_run(run):
    folder, model = run
    cfg = get_d2kd_cfg()
    cfg.MODEL.DEVICE, cfg.DISTILL.TEACHER.CONFIG_FILES = "cpu", (str(folder),)
    teacher = build_teacher(cfg)
    assert teacher.weights == str(folder / "model_final.pth")
    assert teacher.input_format == "RGB" and teacher.classes == []  # two classes, not COCO's 80
    image = torch.rand(3, 64, 96) * 255
    output = teacher([{"image": image}], 32, "RGB", frozenset({"features", "cls_logits"}))
    images = model.preprocess_image([{"image": image}])
    maps = model.backbone(images.tensor)
    assert all(map(torch.equal, output.features.values(), maps.values()))
    found, expected = (x([{"image": image}])[0]["instances"] for x in (teacher.detector, model))
    assert torch.equal(found.scores, expected.scores)


def test_it_teaches_a_student(run, squares, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train", "own/student.yaml", "--data", squares, "--teacher", run[0], "--output", "out",
        "MODEL.TIMM.CHECKPOINT", "", "MODEL.TIMM.NAME", "mobilenetv3_small_050", "SOLVER.MAX_ITER",
        2, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 96, "INPUT.MIN_SIZE_TEST", 64,
    ]  # fmt: skip
    done = d2kd(*words)
    assert done.exit_code == 0, done.output
    assert "loss_PKD" in (tmp_path / "out" / "metrics.json").read_text()


def test_it_is_evaluated_and_draws_but_is_no_student(run, squares, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = f"[['squares_lazy', '{squares}/squares.json', '{squares}']]"
    tested = "DATASETS.CUSTOM", entry, "DATASETS.TEST", "('squares_lazy',)"
    done = d2kd("eval", run[0], "--output", "out", *tested)
    assert done.exit_code == 0 and "box AP" in done.output, done.output
    done = d2kd("predict", run[0], squares / "1.png", "--output", "drawn")
    assert done.exit_code == 0 and (tmp_path / "drawn" / "1.png").is_file(), done.output
    for command in ("train", "check"):
        assert "is a LazyConfig, which is no student" in d2kd(command, run[0]).output


def test_trust_does_not_unpickle_a_yaml(run, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"{HEAD}  x: !!python/object/apply:os.system ['touch {tmp_path}/RAN']\n")
    trust(str(file))
    with pytest.raises(ConfigError, match="os.system', which could run code"):
        config(file)
    assert not (tmp_path / "RAN").exists()
