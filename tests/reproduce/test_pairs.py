"""Published pairs: their list, their plans, what they need, cost and must reach."""

import dataclasses
import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from d2kd.config.locate import resolve_config_file
from d2kd.engine.main import config_of
from d2kd.errors import ConfigError, MissingFileError
from d2kd.reproduce import check_needs, cost_of, load_pair, load_pairs, needs, plan_of, verdict_of
from d2kd.reproduce.costs import Cost
from d2kd.reproduce.plan import first_of_its_student
from tests.docs.pages import ROOT, pages

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
    assert sum(x.ap is not None for x in PAIRS.values()) == 24


@pytest.mark.parametrize("name", PAIRS)
def test_every_plan_stands(name, tmp_path):
    """Its configs exist, its students are equal but for the distillation, teachers are found."""
    pair = PAIRS[name]
    study = plan_of(pair, tmp_path, trains_all=not pair.is_downloaded)
    assert list(study.rows)[-2:] == [study.baseline, name]
    assert all(Path(resolve_config_file(x[0], "row")).is_file() for x in study.trained.values())
    first = first_of_its_student(pair)
    assert first.cfg.DISTILL.STUDENT == pair.cfg.DISTILL.STUDENT
    assert first_of_its_student(first) == first
    if not pair.is_downloaded:
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


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match=f"Did you mean .*{CROSSKD}"):
        load_pair("gfl_R_50_crosskd_from_gfl_R_101_FPN_1x")
    assert load_pair(f"configs/distill/{CROSSKD}.yaml").name == CROSSKD


def test_hours(tmp_path):
    """90,000 steps of R50 plain and, with a third of R101's, distilled."""
    pair = PAIRS["retinanet_R_50_FPN_cwd_from_retinanet_R_101_FPN_1x"]
    cost = cost_of(pair, plan_of(pair, tmp_path))
    assert cost.hours == pytest.approx(90_000 * 8 / 3600 * (0.21 + 0.21 + 0.29 / 3))
    pgd = PAIRS[PGD]
    trains = cost_of(pgd, plan_of(pgd, tmp_path))
    assert trains.hours > cost.hours and trains.disk > cost.disk > 2**30


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
    fake_coco(monkeypatch, tmp_path, {"coco_2017_train": 3, "coco_2017_val": 1})
    lines = check_needs(pair, tmp_path / "out" / "deep", cheap)
    assert lines[0] == "data: coco_2017_train, 3 images" and "a part of it" in lines[1]
    with pytest.raises(ConfigError, match="GB free, and the checkpoints take"):
        check_needs(pair, tmp_path, dataclasses.replace(cheap, disk=2**60))
    with pytest.raises(MissingFileError, match="needs teachers/gfl_r101.pth.* d2kd convert"):
        check_needs(PAIRS[CROSSKD], tmp_path, cheap)
    monkeypatch.setitem(MetadataCatalog.get("coco_2017_val").__dict__, "image_root", "gone")
    with pytest.raises(MissingFileError, match="set DETECTRON2_DATASETS"):
        check_needs(pair, tmp_path, cheap)


@pytest.mark.parametrize(("counts", "plain", "ap", "said"), [
    ((3, 2), 40.0, 43.3, "published 43.7, here 43.3 (-0.4, tolerance 0.5): agrees"),
    ((3, 2), 40.0, 44.5, "here 44.5 (+0.8, tolerance 0.5): **does not agree**"),
    ((3, 1), 40.0, 43.7, "not compared with what was published: COCO is not complete"),
])  # fmt: skip
def test_verdict(monkeypatch, tmp_path, counts, plain, ap, said):
    splits = dict(zip(("coco_2017_train", "coco_2017_val"), counts, strict=True))
    fake_coco(monkeypatch, tmp_path, splits)
    study = plan_of(PAIRS[CROSSKD], tmp_path / "out")
    for row, value in ((study.baseline, plain), (CROSSKD, ap)):
        run = study.rows[row][0]
        run.folder.mkdir(parents=True)
        (run.folder / "result.json").write_text(
            json.dumps({"command": run.command, "bbox/AP": value})
        )
    lines = verdict_of(PAIRS[CROSSKD], study)
    assert said in lines[-1]
    assert ("plain: published 40.2, here 40.0 (-0.2)" in lines) == (counts == (3, 2))


def test_nothing_was_published(monkeypatch, tmp_path):
    pair = PAIRS["retinanet_R_50_FPN_cwd_from_retinanet_R_101_FPN_1x"]
    fake_coco(monkeypatch, tmp_path, {"coco_2017_train": 3, "coco_2017_val": 2})
    lines = verdict_of(pair, plan_of(pair, tmp_path / "out"))
    assert lines[0].endswith("not run") and "no AP to compare with" in lines[-1]
