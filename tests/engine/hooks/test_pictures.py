"""Pictures of the heads' maps: of every head that has some, in TensorBoard and as files."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from d2kd import DistillationTrainer, Teacher
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.engine.hooks.pictures import Pictures
from d2kd.inference.detections import compare_detections, draw_detections, renamed
from d2kd.inference.distillation_maps import distillation_maps, draw_batch, draw_maps
from d2kd.testing import make_batch
from tests.helpers import d2kd, detector, distill, pair, write_config


def test_maps_are_the_heads_cropped_to_the_image():
    student, model = pair("GFL", ("PGD", "BCKD"), 12)
    batch = make_batch(sizes=((96, 128), (80, 64)))
    state = {k: v.clone() for k, v in student.state_dict().items()}
    first, second = distillation_maps(model, batch)
    assert list(first) == [
        f"PGD: {x}" for x in ("classification weight", "regression weight", "background")
    ]
    assert first["PGD: background"][8].shape == (12, 16)
    assert second["PGD: background"][8].shape == (10, 8)
    assert second["PGD: background"][32].shape == (3, 2)
    output = model.run_student(batch)
    head = model.heads["PGD"]
    teacher = model.run_teachers(batch, output)[0]
    weight = head.weight_maps(output, teacher)[0][8].view(2, 12, 16)[1, :10, :8]
    assert_close(second["PGD: classification weight"][8], weight)
    assert model.training and student.training
    assert all(torch.equal(v, state[k]) for k, v in student.state_dict().items())


def test_a_figure_has_a_row_a_map_and_a_column_a_level():
    image = np.zeros((40, 50, 3), np.uint8)
    maps = {"a": {8: torch.rand(5, 7), 16: torch.rand(3, 4)}, "b": {8: torch.zeros(5, 7)}}
    figure = draw_maps(image, np.array([[1.0, 2, 30, 20]]), maps)
    assert len(figure.axes) == 2 * 3 and len(figure.axes[0].patches) == 1
    assert figure.axes[1].get_title() == "stride 8 px"
    shown = figure.axes[2].images[1].get_array()
    assert shown.shape == (40, 50) and float(shown[20, 40]) == maps["a"][16][1, 2].item()


def test_heads_without_maps_give_no_pictures():
    _, model = pair("GFL", ("BCKD",), 8)
    assert draw_batch(model, make_batch()) == []


@pytest.fixture
def config(tmp_path, squares):
    """A tiny RetinaNet, and a distilled one, with a checkpoint of the teacher."""
    plain = write_config(tmp_path, squares)
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()},
               tmp_path / "teacher.pth")  # fmt: skip
    text = f"""_BASE_: plain.yaml
MODEL: {{META_ARCHITECTURE: Distiller}}
DISTILL:
  STUDENT: RetinaNet
  HEADS: ["PGD"]
  TEACHER:
    CONFIG_FILES: ["{plain}"]
    WEIGHTS: ["{tmp_path / "teacher.pth"}"]
"""
    path = tmp_path / "distilled.yaml"
    path.write_text(text)
    return path


def test_training_draws_before_between_and_after(config, tmp_path):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(config), "--config-file")
    cfg.DISTILL.PICTURES.PERIOD, cfg.DISTILL.PICTURES.IMAGES = 4, 1
    cfg.DISTILL.PGD.WEIGHT = 1e-6
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    names = sorted(p.name for p in (tmp_path / "out" / "maps").iterdir())
    assert names == [f"image0_{i:07d}.png" for i in (0, 4, 6)]
    event = next((tmp_path / "out").glob("events.out.tfevents.*"))
    assert event.read_bytes().count(b"maps/0") >= 2
    assert sorted(p.name for p in (tmp_path / "out" / "detections").iterdir()) == names
    assert event.read_bytes().count(b"detections/0") >= 2


def test_no_images_to_draw_on():
    cfg = get_d2kd_cfg()
    cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match="DATASETS.TEST, which is empty"):
        Pictures(cfg)


def test_the_command_draws_several_checkpoints(config, tmp_path):
    torch.save({"model": detector(seed=3, MODEL__RETINANET__NUM_CLASSES=2).state_dict()},
               tmp_path / "after.pth")  # fmt: skip
    done = d2kd("maps", config, "--output", tmp_path / "png", "--images", 2,
                "--weights", "", "--weights", tmp_path / "after.pth",
                "DISTILL.TEACHER.CACHE_DIR", tmp_path / "cache")  # fmt: skip
    assert done.exit_code == 0 and not (tmp_path / "cache").exists(), done.output
    assert len(list((tmp_path / "png").glob("*.png"))) == 4


def test_the_command_says_what_is_wrong(config, tmp_path):
    out = ["--output", tmp_path / "png"]
    plain = d2kd("maps", tmp_path / "plain.yaml", *out)
    assert plain.exit_code == 1 and "does not distil" in plain.output
    none = d2kd("maps", config, *out, "DISTILL.HEADS", "('BCKD',)")
    assert none.exit_code == 1
    assert "None of DISTILL.HEADS ('BCKD',) has maps to draw" in none.output


def test_detections_side_by_side():
    """Panels of the same image, in which only the second has a box, in its place."""
    image = np.full((50, 100, 3), 128, np.uint8)
    nothing = Instances((50, 100), pred_boxes=Boxes(torch.zeros(0, 4)),
                        pred_classes=torch.zeros(0, dtype=torch.long))  # fmt: skip
    box = torch.tensor([[20.0, 10, 60, 40]])
    one = Instances((50, 100), pred_boxes=Boxes(box), pred_classes=torch.tensor([1]),
                    scores=torch.tensor([0.9]))  # fmt: skip
    figure = draw_detections(image, {"ground truth": nothing, "student": one}, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes] == ["ground truth", "student"]
    empty, drawn = (axis.get_images()[0].get_array() for axis in figure.axes)
    assert (empty == 128).all() and (drawn != 128).any()
    rows, columns = (x / (drawn.shape[1] / 100) for x in np.nonzero((drawn != 128).any(-1)))
    assert abs(columns.min() - 20) < 2 and abs(columns.max() - 60) < 2
    assert abs(rows[columns > 50].max() - 40) < 2  # the label is on the left


def test_a_teacher_of_another_channel_order_sees_its_own():
    """Turned images for a turned teacher give what plain ones give for a plain one."""
    _, plain = pair()
    turned = distill(plain.student, [Teacher(plain.teachers[0].detector, input_format="RGB")])
    seen = []
    plain.teachers[0].detector.forward = lambda x: seen.append(x[0]["image"]) or [
        {"instances": Instances((64, 64), pred_boxes=Boxes(torch.zeros(0, 4)),
                                scores=torch.zeros(0), pred_classes=torch.zeros(0))}]  # fmt: skip
    batch = make_batch()[:1]
    for model in (plain, turned):
        compare_detections(model, batch, [])
    assert torch.equal(seen[0].flip(0), seen[1])
    turned.teachers[0].size = 120, 200
    compare_detections(turned, batch, [])
    assert seen[2].shape[1:] == ResizeShortestEdge.get_output_shape(*seen[1].shape[1:], 120, 200)
    assert_close(seen[2].mean(), seen[1].float().mean(), rtol=0.01, atol=0)


@pytest.mark.parametrize("draw", [lambda x, y: compare_detections(x, y, []), distillation_maps])
def test_the_mode_comes_back_after_an_error(draw):
    _, model = pair()
    with pytest.raises(AttributeError):
        draw(model, [{**make_batch()[0], "image": {}}])
    assert model.training and model.student.training


def test_a_teachers_detections_have_the_students_classes():
    found = Instances((4, 4), pred_classes=torch.tensor([0, 1, 2, 0]), scores=torch.arange(4.0))
    ours = renamed(found, ["sofa", "tv", "dog"], ["dog", "couch"])
    assert ours.pred_classes.tolist() == [1, 0, 1] and ours.scores.tolist() == [0, 2, 3]
    assert renamed(found, [], ["dog"]) is found
    assert len(renamed(found[:0], ["sofa"], ["dog"])) == 0
