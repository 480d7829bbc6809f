"""Published pairs: their list, their plans, what they need and cost."""

import dataclasses
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from d2kd.config.locate import resolve_config_file
from d2kd.engine.command_line import config_of
from d2kd.errors import ConfigError, MissingFileError
from d2kd.reproduce import (
    check_needs,
    cost_of,
    load_pair,
    load_pairs,
    needs,
    plan_of,
    values_of,
)
from d2kd.reproduce.costs import Cost
from d2kd.reproduce.dry_run import BATCH, DRY_RUN
from d2kd.reproduce.pairs import TOKENS
from d2kd.reproduce.plan import first_of_its_student, open_rows
from tests.docs.pages import ROOT, pages
from tests.helpers import d2kd
from tests.reproduce.results import done

PAIRS = load_pairs()
CROSSKD = "gfl_R_50_FPN_crosskd_from_gfl_R_101_FPN_1x"
PGD = "gfl_R_50_FPN_pgd_from_gfl_R_101_FPN_1x"


def test_the_list_has_every_recipe_as_the_page_shows_it():
    assert set(PAIRS) == {x.stem for x in (ROOT / "configs" / "distill").glob("*.yaml")}
    page = pages()["docs/reference/recipes.md"].splitlines()
    shown = [x for x in page if x.startswith("| `") and ".yaml` |" in x.split(" | ")[0] + " |"]
    assert shown == [f"| `{x.name}.yaml` | {x.teacher} | {x.published} |" for x in PAIRS.values()]


def test_numbers_are_those_of_the_text():
    for pair in PAIRS.values():
        assert (pair.ap is None) == (pair.tolerance is None)
        for number in (pair.plain, pair.ap):
            assert number is None or f"{number:.1f}" in pair.published, pair.name
    assert sum(x.ap is not None for x in PAIRS.values()) == 25


@pytest.mark.parametrize("name", PAIRS)
def test_every_plan_stands(name, tmp_path):
    """Its configs exist, its students are equal but for the distillation, teachers are found."""
    pair = PAIRS[name]
    study = plan_of(pair, tmp_path, stand_in=[])
    assert list(study.rows)[-2:] == [study.baseline, name]
    assert all(Path(resolve_config_file(x[0], "row")).is_file() for x in study.trained.values())
    first = first_of_its_student(pair)
    assert first.cfg.DISTILL.STUDENT == pair.cfg.DISTILL.STUDENT
    if pair.trains_teacher:
        weights = config_of(study.trained[name], distils=False).DISTILL.TEACHER.WEIGHTS[0]
        assert Path(weights).parent == study.rows[list(study.rows)[0]][0].folder


def test_pairs_share_what_is_trained_alike(tmp_path):
    names = (f"gfl_R_50_FPN_{method}_from_gfl_R_101_FPN_1x" for method in ("bckd", "ld"))
    one, other = (plan_of(PAIRS[name], tmp_path, [1, 2], 8) for name in names)
    assert one.rows[one.baseline] == other.rows[other.baseline]
    assert [run.seed for run in one.rows[one.baseline]] == [1, 2]
    assert all("--num-gpus 8" in run.shell for run in one.runs)
    pgd = plan_of(PAIRS[PGD], tmp_path)
    assert pgd.baseline != one.baseline  # another schedule
    assert list(pgd.rows)[0] == "teacher_gfl_R_101_FPN_3x_ms"


def test_a_teacher_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = PAIRS[PGD]
    typed = ["DISTILL.TEACHER.WEIGHTS", "('mine.pth',)"]
    assert list(plan_of(pair, tmp_path, options=typed).rows) == [f"plain_{PGD}", PGD]
    file = Path("output/train/gfl_R_101_FPN_3x_ms/model_final.pth")
    file.parent.mkdir(parents=True)
    file.touch()
    assert list(plan_of(pair, tmp_path).rows) == [f"plain_{PGD}", PGD]


def test_tokens_are_learnt_first(tmp_path):
    pair = PAIRS["retinanet_R_50_FPN_maskd_from_retinanet_R_101_FPN_2x"]
    study = plan_of(pair, tmp_path, [1, 2])
    tokens, *others = study.rows
    assert study.trained[tokens][0] == pair.tokens_config and len(study.rows[tokens]) == 1
    cfg = config_of(study.trained[pair.name], distils=False)
    assert Path(cfg.DISTILL.MasKD.TOKENS) == study.rows[tokens][0].folder
    done(study.rows[tokens][0], total_loss=1.0)
    assert open_rows(study) == others == [study.baseline, pair.name]
    assert [x.split(":")[0] for x in values_of(study)] == others
    typed = plan_of(pair, tmp_path, options=[TOKENS, "x"])
    assert list(typed.rows) == others


@pytest.mark.parametrize("name", PAIRS)
def test_every_stage_of_a_dry_run_is_small(name, tmp_path):
    """Eight images of 64 px in two steps, from no weights."""
    study = plan_of(PAIRS[name], tmp_path, [1], 1, [*DRY_RUN, *BATCH], [])
    for words in study.trained.values():
        cfg = config_of(words, distils=False)
        sizes = (*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST)
        assert sizes == (64, 64) and cfg.INPUT.MAX_SIZE_TRAIN == cfg.INPUT.MAX_SIZE_TEST == 107
        assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == 8 and cfg.TEST.EVAL_PERIOD == 0
        assert cfg.DATASETS.TRAIN == ("dry_train",) and not cfg.MODEL.WEIGHTS


def test_stages_of_other_options(tmp_path):
    pair, finish = PAIRS[CROSSKD], {"bbox/AP": 1.0}
    study = plan_of(pair, tmp_path)
    for row in (study.baseline, CROSSKD):
        done(study.rows[row][0], **finish)
    assert open_rows(study) == []
    with pytest.raises(ConfigError, match="type the same ones, or name another folder"):
        open_rows(plan_of(pair, tmp_path, gpus=8))


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match=f"Did you mean .*{CROSSKD}"):
        load_pair("gfl_R_50_crosskd_from_gfl_R_101_FPN_1x")
    assert load_pair(f"configs/distill/{CROSSKD}.yaml").name == CROSSKD


def test_hours(tmp_path):
    """90,000 steps of R50 plain and, with a third of R101's, distilled; without what is done."""
    pair = PAIRS["retinanet_R_50_FPN_cwd_from_retinanet_R_101_FPN_1x"]
    study = plan_of(pair, tmp_path)
    cost = cost_of(pair, study)
    assert cost.hours == pytest.approx(90_000 * 8 / 3600 * (0.21 + 0.21 + 0.29 / 3))
    done(study.rows[study.baseline][0])
    assert cost_of(pair, study).hours == pytest.approx(90_000 * 8 / 3600 * (0.21 + 0.29 / 3))
    pgd = PAIRS[PGD]
    trains = cost_of(pgd, plan_of(pgd, tmp_path))
    assert trains.hours > cost.hours and trains.disk > cost.disk > 2**30
    maskd = PAIRS["retinanet_R_50_FPN_maskd_from_retinanet_R_101_FPN_2x"]
    study = plan_of(maskd, tmp_path / "maskd")
    for row in (study.baseline, maskd.name):
        done(study.rows[row][0])
    tokens = cost_of(maskd, study)
    assert tokens.hours == pytest.approx(2000 * 8 / 3600 * 0.29 / 2) and tokens.disk == 0


def fake_coco(monkeypatch, folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir()
        (folder / f"{name}.json").write_text("{}")
        for i in range(count):
            (folder / name / f"{i}.jpg").touch()
        metadata = MetadataCatalog.get(name)
        monkeypatch.setitem(metadata.__dict__, "image_root", str(folder / name))
        monkeypatch.setitem(metadata.__dict__, "json_file", str(folder / f"{name}.json"))
    monkeypatch.setattr(needs, "IMAGES", {"coco_2017_train": 3, "coco_2017_val": 2})


def test_needs(monkeypatch, tmp_path):
    pair, cheap = PAIRS["retinanet_R_50_FPN_cwd_from_retinanet_R_101_FPN_1x"], Cost(1.0, 10)
    fake_coco(monkeypatch, tmp_path, {"coco_2017_train": 3, "coco_2017_val": 2})
    lines = check_needs(pair, tmp_path / "out" / "deep", cheap)
    assert lines == ["data: coco_2017_train, 3 images", "data: coco_2017_val, 2 images",
                     "teacher: COCO-Detection/retinanet_R_101_FPN_3x.yaml, zoo"]  # fmt: skip
    with pytest.raises(ConfigError, match="GB free, and the checkpoints take"):
        check_needs(pair, tmp_path, dataclasses.replace(cheap, disk=2**60))
    with pytest.raises(MissingFileError, match="needs teachers/gfl_r101.pth.* d2kd convert"):
        check_needs(PAIRS[CROSSKD], tmp_path, cheap)
    typed = ["DISTILL.TEACHER.WEIGHTS", "('mine.pth',)"]
    assert check_needs(PAIRS[CROSSKD], tmp_path, cheap, typed)[-1].endswith("were typed")
    assert check_needs(PAIRS[PGD], tmp_path, cheap)[-1].endswith("trained first")
    (tmp_path / "coco_2017_val" / "1.jpg").unlink()
    with pytest.raises(ConfigError, match="1 of its 2 images, .* --dry-run"):
        check_needs(pair, tmp_path, cheap)
    monkeypatch.setitem(MetadataCatalog.get("coco_2017_val").__dict__, "image_root", "gone")
    with pytest.raises(MissingFileError, match="set DETECTRON2_DATASETS"):
        check_needs(pair, tmp_path, cheap)
    asked = d2kd("reproduce", pair.name, "--estimate", "--output", tmp_path / "out")
    assert asked.exit_code == 0 and "set DETECTRON2_DATASETS" in asked.output.split("missing: ")[1]
