"""The trainer and train_net.py on a small data set: training, resuming, evaluating, bad input."""

import json
import logging

import numpy as np
import pytest
import torch

from d2kd import DistillationSchedule, DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.engine.command_line import argument_parser
from d2kd.engine.main import main
from tests.helpers import write_config


def run(path, *opts, resume=False, eval_only=False):
    flags = ["--resume"] * resume + ["--eval-only"] * eval_only
    return main(argument_parser().parse_args(["--config-file", str(path), *flags, *map(str, opts)]))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, squares):
    folder = tmp_path_factory.mktemp("teacher")
    path = write_config(folder, squares, MODEL__FPN__OUT_CHANNELS=12, SEED=5)
    run(path)
    return path, folder / "out" / "model_final.pth"


def distilled(teacher, *more):
    return ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "RetinaNet", "DISTILL.HEADS",
            "('PKD', 'BCKD')", "DISTILL.TEACHER.CONFIG_FILES", f"('{teacher[0]}',)",
            "DISTILL.TEACHER.WEIGHTS", f"('{teacher[1]}',)", *more]  # fmt: skip


def metrics(folder):
    """Rows of metrics.json; Detectron2 writes one per iteration that a value was last put in."""
    return [json.loads(line) for line in (folder / "out" / "metrics.json").read_text().splitlines()]


def test_a_plain_student_learns(tmp_path, squares):
    path = write_config(tmp_path, squares, SOLVER__MAX_ITER=160)
    run(path)
    rows = {row["iteration"]: row for row in metrics(tmp_path) if "total_loss" in row}
    assert 50 <= len(rows) <= 70  # enough for a curve
    # the loss normaliser is a moving average from 100 on; it has settled by then
    assert rows[159]["total_loss"] < 0.8 * rows[59]["total_loss"]
    assert not any(key.startswith("loss_PKD") for key in rows[159])


def test_distillation_end_to_end(tmp_path, squares, teacher, capsys):
    path = write_config(tmp_path, squares)
    results = run(path, *distilled(teacher, "DISTILL.GRADIENT_PERIOD", 2))
    assert results is None
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    plain = torch.load(teacher[1], weights_only=True)
    assert set(saved["model"]) == set(plain["model"])
    assert len(saved["distillation"]) == 8 and saved["iteration"] == 5
    row = {key: value for part in metrics(tmp_path) for key, value in part.items()}
    for name in ("PKD_feat", "BCKD_cls", "BCKD_loc"):
        assert row[f"loss_{name}"] > 0 and row[f"grad_norm/{name}"] > 0
    assert row["grad_norm/cls"] > 0

    weights = ["MODEL.WEIGHTS", tmp_path / "out" / "model_final.pth"]
    no_teacher = distilled((tmp_path / "absent.yaml", "absent.pth"))
    by_distilled = run(path, *no_teacher, *weights, eval_only=True)
    by_plain = run(path, *weights, eval_only=True)
    assert set(by_plain["bbox"]) >= {"AP", "AP50", "AP75"}
    np.testing.assert_equal(by_distilled["bbox"], by_plain["bbox"])  # nan equals nan


def test_two_teachers_from_yaml(tmp_path, squares, teacher):
    path = write_config(tmp_path, squares)
    opts = [str(x) for x in distilled(teacher)]
    for key in ("DISTILL.TEACHER.CONFIG_FILES", "DISTILL.TEACHER.WEIGHTS"):
        index = opts.index(key) + 1
        opts[index] = f"({opts[index][1:-2]}, {opts[index][1:-2]})"
    run(path, *opts, "DISTILL.BCKD.TEACHER", 1)
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_baseline_and_distilled_start_alike(tmp_path, squares, teacher):
    """Same initial weights and data: a distilled run of no weight is the plain run."""
    off = ["DISTILL.PKD.WEIGHT", 1e-30, "DISTILL.BCKD.WEIGHT", 1e-30]
    a, b = write_config(tmp_path / "a", squares), write_config(tmp_path / "b", squares)
    run(a)
    run(b, *distilled(teacher, *off))
    first, second = (torch.load(tmp_path / n / "out" / "model_final.pth")["model"] for n in "ab")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-6, rtol=1e-5, msg=key)


def test_resume_continues_with_projections(tmp_path, squares, teacher):
    path = write_config(tmp_path, squares)
    run(path, *distilled(teacher))
    before = torch.load(tmp_path / "out" / "model_final.pth")
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "")
    cfg.merge_from_list([str(x) for x in distilled(teacher)])
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 6
    for key, value in before["distillation"].items():
        assert torch.equal(trainer.distiller.heads.state_dict()[key], value)
    run(path, *distilled(teacher), "SOLVER.MAX_ITER", 9, resume=True)
    after = torch.load(tmp_path / "out" / "model_final.pth")
    assert after["iteration"] == 8
    assert not torch.equal(after["distillation"]["PKD.project.8.weight"],
                           before["distillation"]["PKD.project.8.weight"])  # fmt: skip


def test_lr_factor_is_of_the_projections_alone(tmp_path, squares, teacher):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(write_config(tmp_path, squares)), "")
    cfg.merge_from_list([str(x) for x in distilled(teacher, "DISTILL.LR_FACTOR", 0.25)])
    trainer = DistillationTrainer(cfg)
    projections = {id(p) for p in trainer.distiller.heads.parameters()}
    rates = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    student = {rate for p, rate in rates.items() if p not in projections}
    assert projections and projections < set(rates) and len(student) == 1
    assert {rates[p] for p in projections} == {0.25 * student.pop()}


def test_nan_names_the_loss_and_leaves_the_checkpoint(tmp_path, squares, teacher):
    path = write_config(tmp_path, squares)
    with pytest.raises(
        FloatingPointError, match=r"loss_PKD_feat.* at iteration 3; .*model_0000002"
    ):
        break_after_three(path, teacher)
    torch.load(tmp_path / "out" / "model_0000002.pth")


def break_after_three(path, teacher):
    """A teacher that starts to give NaN, as one that overflows in fp16 does."""
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "")
    cfg.merge_from_list([str(x) for x in distilled(teacher)])
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    module, calls = trainer.distiller.teachers[0].detector.backbone, []

    def overflow(_, __, output):
        calls.append(1)
        return {k: v * (float("nan") if len(calls) > 3 else 1) for k, v in output.items()}

    module.register_forward_hook(overflow)
    trainer.train()


def test_teacher_check(tmp_path, squares, teacher, caplog):
    path = write_config(tmp_path, squares)
    check = distilled(teacher, "DISTILL.TEACHER.CHECK_IMAGES", 5)
    with pytest.raises(ValueError, match=r"Teacher 0 .* under DISTILL.TEACHER.CHECK_MIN_AP = 99.9"):
        run(path, *check, "DISTILL.TEACHER.CHECK_MIN_AP", 99.9)
    assert not list((tmp_path / "out").glob("*.pth"))
    run(path, *check, "DISTILL.TEACHER.CHECK_MIN_AP", -1.0, "SOLVER.MAX_ITER", 1)


def test_amp_without_a_gpu_warns(tmp_path, squares):
    run(write_config(tmp_path, squares, SOLVER__AMP__ENABLED=True, SOLVER__MAX_ITER=1))
    assert "SOLVER.AMP.ENABLED needs a GPU" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(("schedule", "expected"), [
    ((0, -1), {0: 1.0, 99: 1.0}),
    ((10, -1), {0: 0.0, 5: 0.5, 10: 1.0, 11: 1.0}),
    ((0, 20), {0: 1.0, 20: 1.0, 21: 0.0}),
])  # fmt: skip
def test_schedule(schedule, expected):
    hook = DistillationSchedule(*schedule)
    assert {k: hook.scale_at(k) for k in expected} == expected


RCNN = """MODEL.PROPOSAL_GENERATOR.NAME RPN MODEL.RPN.IN_FEATURES ['p3','p4','p5','p6','p7']
MODEL.ROI_HEADS.NAME StandardROIHeads MODEL.ROI_HEADS.IN_FEATURES ['p3']
MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead MODEL.ROI_BOX_HEAD.NUM_FC 1
MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 3 DISTILL.STUDENT GeneralizedRCNN"""

BAD = {  # case: (options, message)
    "unknown head": (
        "DISTILL.HEADS ('BCDK',)",
        "DISTILL.HEADS: unknown 'BCDK'. Did you mean 'BCKD'",
    ),
    "no head": ("DISTILL.HEADS ()", "DISTILL.HEADS must name at least one head"),
    "unknown student": ("DISTILL.STUDENT RetinaNett", "DISTILL.STUDENT: unknown .*'RetinaNet'"),
    "no such teacher config": (
        "DISTILL.TEACHER.CONFIG_FILES ('nothing.yaml',)",
        r"DISTILL.TEACHER.CONFIG_FILES\[0\]: 'nothing.yaml' is neither a file",
    ),
    "no such weights": (
        "DISTILL.TEACHER.WEIGHTS ('nothing.pth',)",
        r"DISTILL.TEACHER.WEIGHTS\[0\]: checkpoint 'nothing.pth' not found",
    ),
    "no weights": ("DISTILL.TEACHER.WEIGHTS ('',)", r"DISTILL.TEACHER.WEIGHTS\[0\] is empty"),
    "negative weight": (
        "DISTILL.PKD.WEIGHT -1.0",
        "DISTILL.PKD.WEIGHT is -1.0: it must be at least 0",
    ),
    "negative option": ("DISTILL.BCKD.LOC_WEIGHT -1.0", "DISTILL.BCKD.LOC_WEIGHT must be"),
    "teacher index": ("DISTILL.PKD.TEACHER 2", "DISTILL.PKD.TEACHER is 2"),
    "class count of the data": (
        "MODEL.RETINANET.NUM_CLASSES 7 DISTILL.HEADS ('PKD',)",
        "MODEL.RETINANET.NUM_CLASSES",
    ),
    "class count of the teacher": (
        "MODEL.RETINANET.NUM_CLASSES 7",
        "student has 7 classes and the teacher 2",
    ),
    "unknown data set": ("DATASETS.TRAIN ('sqares',)", "DATASETS.TRAIN: no data set is named"),
    "optimizer": (
        "SOLVER.OPTIMIZER Adamw",
        "SOLVER.OPTIMIZER: unknown .Adamw.. Did you mean .AdamW",
    ),
    "precision": (
        "DISTILL.TEACHER.PRECISION fp8",
        "PRECISION: unknown 'fp8'.*fp16",
    ),
    "init": ("DISTILL.INIT_FROM_TEACHER head", "DISTILL.INIT_FROM_TEACHER: unknown 'head'"),
    "more weights than teachers": ("DISTILL.TEACHER.WEIGHTS ('a','b')", "lists 2 files for 1"),
    "compile and gradients": (
        "DISTILL.COMPILE True DISTILL.GRADIENT_PERIOD 5",
        "DISTILL.GRADIENT_PERIOD needs graphs",
    ),
    "no logits": (RCNN, "BCKD needs .*student GeneralizedRCNN provides"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained_before_the_first_iteration(tmp_path, squares, teacher, case):
    path = write_config(tmp_path, squares)
    opts, match = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        run(path, *distilled(teacher), *opts.split())
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_unsafe_and_broken_teacher_yaml(tmp_path, squares, teacher):
    path, evil = write_config(tmp_path, squares), tmp_path / "evil.yaml"
    mark = tmp_path / "ran"
    evil.write_text(f"MODEL: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(ValueError, match=r"CONFIG_FILES\[0\]: .*evil.yaml.*can run code"):
        run(path, *distilled((evil, teacher[1])))
    assert not mark.exists()
    with pytest.raises(ValueError, match="--config-file: .*evil.yaml.*can run code"):
        run(evil)
    evil.write_text("MODEL: [\n")
    with pytest.raises(ValueError, match="not valid yaml"):
        run(path, *distilled((evil, teacher[1])))
    evil.write_text("MODEL:\n  NOTHING: 1\n")
    with pytest.raises(
        ValueError, match=r"CONFIG_FILES\[0\]: .*evil.yaml: MODEL.NOTHING is no config key"
    ):
        run(path, *distilled((evil, teacher[1])))


def test_a_head_that_does_not_reach_the_student_is_reported(tmp_path, squares, teacher, caplog):
    """A gated BCKD on a batch where no level has a positive anchor, and PKD which does reach."""
    path = write_config(tmp_path, squares, MODEL__RETINANET__IOU_THRESHOLDS=[0.98, 0.99])
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "")
    cfg.merge_from_list([str(x) for x in distilled(teacher, "DISTILL.BCKD.GATE", "official")])
    cfg.SOLVER.MAX_ITER = 1
    trainer = DistillationTrainer(cfg)
    # every anchor background: without low-quality matches nothing is positive here
    trainer.distiller.student.anchor_matcher.allow_low_quality_matches = False
    logging.getLogger("d2kd").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer.train()
    messages = [r.getMessage() for r in caplog.records if "does not reach" in r.getMessage()]
    assert any("loss_BCKD_cls" in m for m in messages)
    assert not any("loss_PKD" in m for m in messages)
