"""Warm-up, steps, periods and learning rate fit the length and the batch of a run."""

import functools
import json

import pytest
import yaml

from d2kd.config.keys import changed_keys
from d2kd.config.run_length import fit_run
from d2kd.engine.command_line import argument_parser, resolve_config
from d2kd.study import load_study
from tests.config.test_configs import CONFIGS, ROOT, STUDIES, load
from tests.helpers import d2kd
from tests.own_sets import yolo_set

ONE_X = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"  # 90,000 steps of 16 images
ONE_CYCLE = "quickstart/student.yaml"  # 800 steps of 16 images, AdamW


def config(path, *options, data="", resume=False):
    args = argument_parser().parse_args(["--data", str(data)] if data else [])
    args.config_file, args.opts, args.resume = str(path), list(options), resume
    return resolve_config(args, trains=True)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


load_once = functools.cache(load)


def assert_stays(path, options=()):
    own, cfg = load_once(path), load_once(path).clone()
    for key, value in zip(options[::2], options[1::2], strict=True):
        cfg.merge_from_list([key, value])
    before = cfg.clone()
    fit_run(cfg, own, options[::2], tests=False)
    assert cfg == before


WHOLE = [x for x in CONFIGS if "studies/configs" not in x or "/Base-" not in x]


@pytest.mark.parametrize("path", WHOLE)
def test_every_config_stays_as_it_is_at_its_own_length(path):
    assert_stays(path)


def test_every_row_of_every_study_stays_as_it_is():
    rows = [
        runs[0].command[2:-4] for study in map(load_study, STUDIES)
        for row, runs in study.rows.items() if row not in study.untimed
    ]  # fmt: skip
    for config_file, *options in sorted(set(map(tuple, rows))):
        if not {"--teacher", "--distill"} & set(options):
            assert_stays(config_file, options)


def test_a_short_run_warms_up_decays_saves_and_says_so(caplog):
    cfg = config(ONE_X, "SOLVER.MAX_ITER", 120, "SOLVER.IMS_PER_BATCH", 4)
    solver = cfg.SOLVER
    assert (solver.WARMUP_ITERS, solver.STEPS, solver.CHECKPOINT_PERIOD) == (12, (80, 107), 30)
    assert solver.BASE_LR == 0.005 and cfg.TEST.EVAL_PERIOD == 0
    said = [text for text in caplog.messages if "type it for another value" in text]
    assert len(said) == 4
    assert said[0] == ("SOLVER.WARMUP_ITERS is 12 instead of 1000, since that is over a quarter of "
                       "SOLVER.MAX_ITER 120; type it for another value.")  # fmt: skip


MASKD = "configs/distill/retinanet_R_50_FPN_maskd_from_retinanet_R_101_FPN_2x.yaml"
TOKENS_WARMUP = "DISTILL.MasKD.WARMUP"


def test_masks_of_the_student_count_in_a_short_run_too(caplog):
    assert config(MASKD).DISTILL.MasKD.WARMUP == -1
    assert TOKENS_WARMUP not in caplog.text
    assert config(MASKD, "SOLVER.MAX_ITER", 1000).DISTILL.MasKD.WARMUP == 40
    said = [text for text in caplog.messages if TOKENS_WARMUP in text]
    why = "a 25th of SOLVER.MAX_ITER 1000, since those of the presets are of runs of 180000"
    assert said == [f"{TOKENS_WARMUP} is 40 instead of -1, {why}; type it for another value."]
    typed = config(MASKD, "SOLVER.MAX_ITER", 1000, TOKENS_WARMUP, -1)
    assert typed.DISTILL.MasKD.WARMUP == -1
    assert config(ONE_X, "SOLVER.MAX_ITER", 1000).DISTILL.MasKD.WARMUP == -1  # without MasKD


@pytest.mark.parametrize(("before", "expected"), [(40, 40), (-1, -1)])
def test_a_run_that_goes_on_keeps_its_warmup_of_masks(before, expected):
    """-1 is of a run that began before there was such a fit."""
    own = load_once(MASKD)
    cfg = own.clone()
    cfg.SOLVER.MAX_ITER = 2000
    fit_run(cfg, own, ["SOLVER.MAX_ITER"], False, {TOKENS_WARMUP: before, "SOLVER.MAX_ITER": 1000})
    assert cfg.DISTILL.MasKD.WARMUP == expected


def test_what_is_typed_stays(caplog):
    typed = {"SOLVER.WARMUP_ITERS": 100, "SOLVER.STEPS": (500,), "SOLVER.CHECKPOINT_PERIOD": 5000,
             "SOLVER.BASE_LR": 0.02, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.MAX_ITER": 120}  # fmt: skip
    cfg = config(ONE_X, *[str(word) for pair in typed.items() for word in pair])
    assert not [text for text in caplog.messages if "type it for another value" in text]
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == (100, (500,), 0.02)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 48_000, 270_000])
def test_any_length_gives_keys_that_training_takes(length):
    cfg = config("distill/gfl_R_18_FPN_ld_from_gfl_R_101_FPN_1x.yaml", "SOLVER.MAX_ITER", length,
                 "DISTILL.SCHEDULE", "(2, 5)")  # fmt: skip
    solver = cfg.SOLVER
    assert 1 <= solver.WARMUP_ITERS <= max(1, length / 4)
    assert list(solver.STEPS) == sorted(set(solver.STEPS)) and 1 <= min(solver.STEPS) <= length
    assert 1 <= solver.CHECKPOINT_PERIOD <= max(1, length - 1)
    assert cfg.DISTILL.SCHEDULE == (2, 5)


def test_a_file_that_sets_a_length_alone_is_fitted_too(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("SOLVER: {MAX_ITER: 90, STEPS: [200, 300]}\nTEST: {EVAL_PERIOD: 100}")
    cfg = config(path)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS) == (9, (60, 80))
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (23, 5000)


def file_of(folder, solver, period=0):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"SOLVER": solver, "TEST": {"EVAL_PERIOD": period}}))
    return path


def test_steps_behind_the_end_of_the_file_stay_if_the_run_reaches_them(tmp_path, caplog):
    path = file_of(tmp_path, {"MAX_ITER": 90, "STEPS": [200, 300]})
    assert config(path, "SOLVER.MAX_ITER", 1000).SOLVER.STEPS == (200, 300)
    assert "SOLVER.STEPS" not in caplog.text
    assert config(path, "SOLVER.MAX_ITER", 150).SOLVER.STEPS == (100, 133)
    assert "SOLVER.STEPS is (100, 133) instead of (200, 300), since the run ends" in caplog.text


def test_an_evaluation_at_the_end_alone_may_be_written(tmp_path):
    path = file_of(tmp_path, {"MAX_ITER": 400}, 400)
    for length in (400, 100):
        assert config(path, "SOLVER.MAX_ITER", length).TEST.EVAL_PERIOD == 400
    assert config(file_of(tmp_path, {"MAX_ITER": 400}, 300), "SOLVER.MAX_ITER", 300
                  ).TEST.EVAL_PERIOD == 75  # fmt: skip


def test_a_wrong_value_of_a_file_may_be_replaced(tmp_path):
    path = file_of(tmp_path, {"MAX_ITER": 0, "STEPS": [5, 3], "IMS_PER_BATCH": 0})
    solver = config(path, "SOLVER.MAX_ITER", 100, "SOLVER.STEPS", "(50,)",
                    "SOLVER.IMS_PER_BATCH", 4).SOLVER  # fmt: skip
    assert (solver.MAX_ITER, solver.STEPS, solver.IMS_PER_BATCH) == (100, (50,), 4)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH is 0"):
        config(path, "SOLVER.MAX_ITER", 100, "SOLVER.STEPS", "(50,)")


def test_the_schedule_of_a_distillation_keeps_its_parts(tmp_path):
    path = tmp_path / "distil.yaml"
    path.write_text("DISTILL: {SCHEDULE: [500, -1]}\nSOLVER: {MAX_ITER: 10000}")
    assert config(path).DISTILL.SCHEDULE == (500, -1)
    assert config(path, "SOLVER.MAX_ITER", "100").DISTILL.SCHEDULE == (5, -1)


def test_the_learning_rate_of_adamw_goes_with_the_root_of_the_batch():
    cfg = config(ONE_CYCLE, "SOLVER.IMS_PER_BATCH", 4)
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.032 / 2)
    assert cfg.SOLVER.WARMUP_ITERS == 1000  # which a one-cycle schedule does not read


def test_own_data_is_evaluated_on_the_way_if_it_has_something_to_test_on(tmp_path):
    data = tmp_path / "coco"
    d2kd("convert", "yolo", yolo_set(tmp_path / "own"), data)
    assert config(ONE_X, "SOLVER.MAX_ITER", 10, data=data).TEST.EVAL_PERIOD == 3
    cfg = config(ONE_X, "SOLVER.MAX_ITER", 10, "TEST.EVAL_PERIOD", 0, data=data)
    assert cfg.TEST.EVAL_PERIOD == 0


def test_without_evaluations_there_is_no_best_one(caplog):
    cfg = config("own/student.yaml", "TEST.EVAL_PERIOD", 0)
    assert cfg.SOLVER.BEST_METRIC == "" and "SOLVER.BEST_METRIC is ''" in caplog.text
    cfg = config("own/student.yaml", "TEST.EVAL_PERIOD", 0, "SOLVER.BEST_METRIC", "bbox/AP50")
    assert cfg.SOLVER.BEST_METRIC == "bbox/AP50"  # and training refuses it


def test_a_file_may_leave_evaluations_out(tmp_path, caplog):
    path = tmp_path / "mine.yaml"
    own = {"_BASE_": str(ROOT / "configs" / "own" / "student.yaml"), "TEST": {"EVAL_PERIOD": 0}}
    path.write_text(yaml.safe_dump(own))
    data = tmp_path / "coco"
    d2kd("convert", "yolo", yolo_set(tmp_path / "own"), data)
    for given in ("", data):
        cfg = config(path, data=given)
        assert cfg.TEST.EVAL_PERIOD == 0 and cfg.SOLVER.BEST_METRIC == ""
    assert "SOLVER.BEST_METRIC is '' instead of 'bbox/AP', since TEST" in caplog.text


def run_of(folder, **solver):
    """A run's folder as far as a config needs it."""
    folder.mkdir()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    cfg = config(ONE_X)
    cfg.SOLVER.update({"MAX_ITER": 120, **solver})
    cfg.OUTPUT_DIR = str(folder)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def test_a_run_of_an_earlier_version_is_repeated_and_goes_on_as_it_began(tmp_path):
    folder = run_of(tmp_path / "old")
    for resume in (False, True):
        changed = changed_keys(config(folder, resume=resume), config(ONE_X))
        assert [x for x in changed if "SOLVER" in x or "TEST" in x] == ["SOLVER.MAX_ITER"]
    again = config(ONE_X, "SOLVER.MAX_ITER", 120, "OUTPUT_DIR", str(folder), resume=True)
    assert (again.SOLVER.WARMUP_ITERS, again.SOLVER.STEPS) == (1000, (60000, 80000))


def test_a_run_that_is_prolonged_keeps_the_schedule_that_it_began_with(tmp_path):
    folder = run_of(tmp_path / "out", WARMUP_ITERS=12, STEPS=(80, 107), BASE_LR=0.005)
    for length in (120, 240, 40_000):
        options = "SOLVER.MAX_ITER", length, "SOLVER.IMS_PER_BATCH", 4, "OUTPUT_DIR", str(folder)
        solver = config(ONE_X, *options, resume=True).SOLVER
        assert (solver.WARMUP_ITERS, solver.STEPS, solver.BASE_LR) == (12, (80, 107), 0.005)
    longer = config(folder, "SOLVER.MAX_ITER", 40_000, "OUTPUT_DIR", str(tmp_path / "new")).SOLVER
    assert longer.STEPS == (26_667, 35_667)


@pytest.mark.parametrize("edit", [{"WARMUP_ITERS": 20}, {"STEPS": [30000, 40000]}])
def test_an_edited_file_is_not_put_back_as_the_run_began(tmp_path, edit):
    """So that the check of a resumed run names it."""
    begun = {"MAX_ITER": 90_000, "WARMUP_ITERS": 1000, "STEPS": [60000, 80000]}
    folder = run_of(tmp_path / "out", WARMUP_ITERS=12, STEPS=(80, 107), MAX_ITER=240)
    changes = {"SOLVER.MAX_ITER": [120, 240]}  # it was prolonged since it began
    record = {"segments": [{"first_iteration": 0, "changes": {}},
                           {"first_iteration": 120, "changes": changes}]}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    options = "SOLVER.MAX_ITER", 360, "OUTPUT_DIR", str(folder)
    solver = config(file_of(tmp_path, begun), *options, resume=True).SOLVER
    assert (solver.WARMUP_ITERS, solver.STEPS) == (12, (80, 107))
    solver = config(file_of(tmp_path, {**begun, **edit}), *options, resume=True).SOLVER
    assert solver.WARMUP_ITERS == edit.get("WARMUP_ITERS", 12)
    assert solver.STEPS == ((120, 160) if "STEPS" in edit else (80, 107))


@pytest.mark.parametrize("pair", [("SOLVER.STEPS", "('a',)"), ("SOLVER.MAX_ITER", 0),
                                  ("SOLVER.IMS_PER_BATCH", 0)])  # fmt: skip
def test_a_wrong_value_is_named(pair):
    with pytest.raises(ValueError, match=f"{pair[0]} is"):
        config(ONE_X, *pair)


def test_what_is_written_can_be_read(tmp_path):
    cfg = config(ONE_X, "SOLVER.MAX_ITER", 120)
    assert yaml.safe_load(cfg.dump())["SOLVER"]["STEPS"] == [80, 107]
