"""A training that would distil nothing is refused; what takes no part in one is said."""

import pytest
import torch

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.distils import check_distils, full_iterations
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.data import register_custom_datasets
from d2kd.engine.hooks.schedule import DistillationSchedule
from d2kd.errors import ConfigError
from tests.helpers import detector, write_config


def check(*options, heads=("PKD", "CWD"), teachers=("t",), iterations=200):
    cfg = get_d2kd_cfg()
    cfg.DISTILL.HEADS, cfg.DISTILL.TEACHER.CONFIG_FILES = heads, teachers
    cfg.SOLVER.MAX_ITER = iterations
    merge_options(cfg, [str(x) for x in options])
    check_distils(cfg)


@pytest.mark.parametrize("schedule", [(1_000_000, -1), (20_000, 150), (9, 0)])
def test_schedules_that_never_distil(schedule):
    with pytest.raises(ConfigError, match=r"DISTILL.SCHEDULE is \(.* at full strength") as error:
        check("DISTILL.SCHEDULE", schedule)
    assert "\n" not in str(error.value)


def test_a_short_run_of_a_long_schedule(caplog):
    check("DISTILL.SCHEDULE", (100, 50), iterations=60)
    assert "reaches 50% of its strength by iteration 50" in caplog.text
    caplog.clear()
    check("DISTILL.SCHEDULE", (1000, -1))
    assert "reaches 20% of its strength by iteration 199" in caplog.text
    caplog.clear()
    check("DISTILL.SCHEDULE", (500, 8000), iterations=20)
    check("DISTILL.SCHEDULE", (1000, -1), iterations=20)
    assert [r.message.split("reaches ")[1][:2] for r in caplog.records] == ["4%", "2%"]


@pytest.mark.parametrize(("schedule", "iterations"), [((0, 500), 90_000), ((0, 0), 200)])
def test_distillation_for_a_moment(caplog, schedule, iterations):
    check("DISTILL.SCHEDULE", schedule, iterations=iterations)
    assert f"ends after iteration {schedule[1]} of SOLVER.MAX_ITER {iterations}." in caplog.text


@pytest.mark.parametrize("schedule", [(0, -1), (0, 2), (100, -1), (200, -1), (50, 120),
                                      (0, 10**9)])  # fmt: skip
def test_schedules_that_distil(schedule, caplog):
    check("DISTILL.SCHEDULE", schedule)
    check("DISTILL.SCHEDULE", (0, 0), iterations=1)
    assert not caplog.records


@pytest.mark.parametrize("schedule", [(0, -1), (7, -1), (7, 3), (0, 0), (30, -1), (4, 9), (20, 30)])
def test_the_sum_of_the_scales(schedule):
    scales = DistillationSchedule(*schedule)
    assert full_iterations(*schedule, 20) == pytest.approx(sum(map(scales.scale_at, range(20))))


def test_weights_of_0(caplog):
    with pytest.raises(ConfigError, match=r"DISTILL.PKD.WEIGHT is 0, as is that of every other"):
        check("DISTILL.PKD.WEIGHT", "0.0", "DISTILL.CWD.WEIGHT", "0.0")
    with pytest.raises(ConfigError, match=r"DISTILL.PKD.WEIGHT is 0, so nothing would be"):
        check("DISTILL.PKD.WEIGHT", "0.0", heads=("PKD",))
    assert not caplog.records
    check("DISTILL.CWD.WEIGHT", "0.0")
    assert [r.message.split(":")[0] for r in caplog.records] == ["DISTILL.CWD.WEIGHT is 0"]


def test_a_teacher_that_no_method_reads(caplog):
    check("DISTILL.CWD.TEACHER", 2, teachers=("a", "b", "c"))
    assert len(caplog.records) == 1 and "Teacher 1 (b) is read by no method" in caplog.text
    caplog.clear()
    options = "DISTILL.CWD.TEACHER", 1, "DISTILL.PKD.TEACHER", 1
    check(*options, "DISTILL.INIT_FROM_TEACHER", "neck", teachers=("a", "b"))
    assert not caplog.records
    check(*options, teachers=("a", "b"))
    assert "Teacher 0 (a) is read by no method" in caplog.text
    caplog.clear()
    check("DISTILL.SetKD.TEACHERS", (0, 1), heads=("SetKD",), teachers=("a", "b"))
    assert not caplog.records


IDLE = {
    "BCKD": ("RetinaNet", ["CLS_WEIGHT", "LOC_WEIGHT"]),
    "LD": ("GFL", ["LOC_WEIGHT", "VLR_WEIGHT"]),
    "Parallel": ("GFL", ["CLS_WEIGHT", "LOC_WEIGHT", "QUALITY_WEIGHT"]),
    "CrossKD": ("FCOS", ["CLS_WEIGHT", "REG_WEIGHT"]),  # distances have no quality term
    "PGD": ("FCOS", ["ALPHA", "BETA", "GAMMA", "DELTA"]),
    "MGD": ("FCOS", ["ALPHA"]),
    "StructuredKD": ("FCOS", ["FEAT_WEIGHT", "ATTENTION_WEIGHT", "NON_LOCAL_WEIGHT"]),
    "RoIKD": ("GeneralizedRCNN", ["ALPHA", "BETA"]),
    "SetKD": ("RetinaNet", ["CLS_WEIGHT", "BOX_WEIGHT"]),
    "FGD": ("FCOS", ["ALPHA", "BETA", "GAMMA", "RELATION_WEIGHT"]),
    "DetKDS": ("FCOS", ["GLOBAL_WEIGHT", "FG_WEIGHT", "BG_WEIGHT", "INSTANCE_WEIGHT"]),
}


@pytest.mark.parametrize("head", IDLE)
def test_a_method_without_a_term_is_refused_before_training(tmp_path, squares, head):
    meta, keys = IDLE[head]
    cfg = get_d2kd_cfg()
    path = write_config(tmp_path, squares, meta, MODEL__MASK_ON=False)
    merge_config_file(cfg, str(path), "--config-file")
    classes = {f"MODEL__{x}__NUM_CLASSES": 2 for x in ("RETINANET", "FCOS", "GFL", "ROI_HEADS")}
    torch.save({"model": detector(meta, seed=7, **classes).state_dict()}, tmp_path / "t.pth")
    merge_options(cfg, [
        "MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", meta, "DISTILL.HEADS",
        f"('PKD', '{head}')", "DISTILL.TEACHER.CONFIG_FILES", f"('{path}',)",
        "DISTILL.CrossKD.BLOCK", "1", "DISTILL.TEACHER.WEIGHTS", f"('{tmp_path}/t.pth',)",
        *(x for key in keys for x in (f"DISTILL.{head}.{key}", "0.0")),
    ])  # fmt: skip
    register_custom_datasets(cfg)
    with pytest.raises(ConfigError, match=rf"DISTILL.{head}: .*{keys[0]}.* leave {head} out"):
        DistillationTrainer(cfg)
