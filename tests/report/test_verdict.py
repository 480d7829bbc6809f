"""The verdict on distilled runs beside plain ones: by seeds, by images, or none and why."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2kd.data import register_custom_datasets
from d2kd.evaluation import FastCOCOEvaluator
from d2kd.evaluation.bootstrap import match, weighted_ap
from d2kd.report.pairs import compare_runs
from d2kd.report.runs import read_run
from d2kd.report.verdict import verdicts
from d2kd.testing import tiny_cfg
from tests.helpers import d2kd
from tests.report.test_page import Page

STUDENT = {"FPN": {"OUT_CHANNELS": 64}, "WEIGHTS": "a.pth", "DEVICE": "cpu"}


def run(folder, ap, *, seed=1, steps=10, time=1.0, heads=(), done=None, width=64, data="a",
        lr=0.1, classes=()):  # fmt: skip
    """The files of a run; its AP75 is half its AP."""
    folder.mkdir(parents=True)
    model = {**STUDENT, "FPN": {"OUT_CHANNELS": width}}
    model["META_ARCHITECTURE"] = "Distiller" if heads else "GFL"
    distill = {"HEADS": list(heads), "STUDENT": "GFL" if heads else ""}
    config = {"MODEL": model, "DISTILL": distill, "SEED": seed, "OUTPUT_DIR": str(folder),
              "DATASETS": {"TRAIN": ["train"], "TEST": ["val"]},
              "SOLVER": {"MAX_ITER": steps, "BASE_LR": lr}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"iteration": i, "total_loss": 1.0, "time": time} for i in range(done or steps)]
    (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in rows))
    box = {
        "AP": ap,
        "AP75": ap / 2,
        **{f"AP-{k}": x for k, x in zip("xyzw", classes, strict=False)},
    }
    of = {"iterations": done or steps, "datasets": {"train": "t", "val": data}}
    (folder / "results.json").write_text(json.dumps({"results": {"bbox": box}, "run": of}))
    (folder / "run.json").write_text(json.dumps({"command": [], "datasets": of["datasets"]}))
    return read_run(folder, folder.name)


def by_seed(folder, name, values, **keys):
    return [run(folder / f"{name}{i}", x, seed=i, **keys) for i, x in enumerate(values)]


def only(runs):
    (found,) = verdicts(runs)
    return found


def test_three_seeds_by_hand(tmp_path):
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); equal time: -1, 0, 1."""
    runs = by_seed(tmp_path, "plain", [40.0, 41.0, 42.0], classes=[40, 40, 40, 40])
    runs += by_seed(tmp_path, "kd", [41.0, 43.0, 45.0], heads=("PKD",), time=2.0,
                    classes=[50, 40, 35, 41])  # fmt: skip
    longer = by_seed(tmp_path, "longer", [42.0, 43.0, 44.0], steps=18)
    assert only(runs).text == (
        "Distillation (PKD) makes no difference that 3 seeds can show: AP +2.0 (0.6), AP75 +1.0 "
        "(0.3), in brackets the standard error; no plain run of equal time is among the runs (a "
        "distilled step takes 2.0 times as long: SOLVER.MAX_ITER 20); the largest changes of 4 "
        "classes: x +10.0 (0.0), z -5.0 (0.0), w +1.0 (0.0)."
    )
    found = only([*runs, *longer])
    assert (
        "against plain training that took 0.90 times its time it makes no difference that 3 seeds "
        "can show: AP +0.0 (0.6), AP75 +0.0 (0.3)" in found.text
    )
    assert "95 % are 4.3 standard errors" in found.notes[0] and len(found.notes) == 1
    assert [(x.name, x.change) for x in found.rows] == [
        ("AP", 2), ("AP75", 1), ("x", 10), ("y", 0), ("z", -5), ("w", 1)]  # fmt: skip
    assert [(x.name, x.change) for x in found.longer] == [("AP", 0), ("AP75", 0)]


def test_a_repetition_is_no_second_seed(tmp_path):
    runs = [run(tmp_path / "plain", 40.0)]
    runs += [run(tmp_path / name, 41.0, heads=("PKD",)) for name in ("kd", "again")]
    found = only(runs)
    assert found.rows[0].seeds == 1 and "again: a repetition of kd." in found.notes


def test_alone(tmp_path):
    found = only([run(tmp_path / "kd", 41.0, heads=("PKD",))])
    assert found.notes[0].startswith("kd: no plain student of this architecture")


@pytest.mark.parametrize(("distilled", "words"), [
    ([38.0, 39.0], "hurts with 2 seeds"),
    ([38.0, 38.5], "makes no difference that 2 seeds can show"),  # t is 12.7
    ([40.0, 41.0], "makes no difference that 2 seeds can show"),
    ([43.0, 40.5], "makes no difference that 2 seeds can show"),
])  # fmt: skip
def test_words(tmp_path, distilled, words):
    runs = by_seed(tmp_path, "plain", [40.0, 41.0])
    found = only([*runs, *by_seed(tmp_path, "kd", distilled, heads=("PKD",))])
    assert f"Distillation (PKD) {words}: AP" in found.text
    assert "equal steps are equal time" in found.text


def test_only_plain_runs_of_equal_time(tmp_path):
    runs = [run(tmp_path / f"plain{i}", 42.0, steps=i) for i in (18, 20, 30)]
    found = only([*runs, run(tmp_path / "kd", 43.0, heads=("PKD",), time=2.0)])
    assert found.text.startswith(
        "Distillation (PKD): against plain training that took 1.00 times its time it cannot be "
        "judged by one pair of runs without its detections: AP +1.0"
    )
    assert not found.rows and found.longer[0].change == 1


def test_without_a_seed_each_plain_run_counts_once(tmp_path):
    runs = [run(tmp_path / f"plain{i}", 40.0 + i, seed=-1) for i in range(2)]
    runs += [run(tmp_path / f"kd{i}", 42.0, heads=("PKD",), seed=-1) for i in range(3)]
    found = only(runs)
    assert found.rows[0].seeds == 2 and found.rows[0].change == 1.5
    assert "kd2: without SEED, and no further plain run is among the runs." in found.notes


def test_much_longer_runs_are_not_equal_time(tmp_path):
    runs = by_seed(tmp_path, "plain", [40.0, 41.0])
    runs += by_seed(tmp_path, "long", [50.0, 51.0], steps=40)
    runs += by_seed(tmp_path, "short", [50.0, 51.0], steps=16)  # less than the distilled run's time
    found = only([*runs, *by_seed(tmp_path, "kd", [43.0, 44.0], heads=("PKD",), time=2.0)])
    assert (
        "against plain training that took 2.00 times its time it hurts with 2 seeds: AP -7.0"
        in found.text
    )


@pytest.mark.parametrize(("keys", "reason"), [
    ({"width": 96}, "no plain student of this architecture is among the runs "
                    "(MODEL.FPN.OUT_CHANNELS differ); train it with"),
    ({"data": "b"}, "evaluated on other images than plain0, plain1"),
    ({"steps": 8}, "no plain run has 10 steps too (SOLVER.MAX_ITER)"),
])  # fmt: skip
def test_no_verdict_and_the_reason(tmp_path, keys, reason):
    runs = by_seed(tmp_path, "plain", [40.0, 41.0], **keys)
    found = only([*runs, *by_seed(tmp_path, "kd", [43.0, 44.0], heads=("PKD", "BCKD"))])
    assert found.text == "No verdict on distillation (PKD, BCKD)." and not found.rows
    (note,) = found.notes
    assert note.startswith(f"kd0, kd1: {reason}")


def test_runs_without_a_counterpart_are_left_out(tmp_path):
    runs = by_seed(tmp_path, "plain", [40.0, 41.0])
    runs += by_seed(tmp_path, "kd", [43.0, 44.0, 1.0], heads=("PKD",))
    runs.append(run(tmp_path / "short", 1.0, seed=3, heads=("PKD",), done=5))
    runs += [run(tmp_path / "kd4", 1.0, seed=4, heads=("PKD",)),
             run(tmp_path / "stopped", 1.0, seed=4, done=5)]  # fmt: skip
    found = only(runs)
    assert "helps with 2 seeds: AP +3.0" in found.text
    assert found.notes[1:] == [
        "kd2: another seed than plain0, plain1, stopped; train a plain student with SEED 2.",
        "short: not finished, or no box AP in results.json.",
        "kd4: the plain student, stopped, is not finished, or has no box AP in results.json.",
    ]


def test_settings_that_differ_are_named_and_the_nearest_run_is_taken(tmp_path):
    other = by_seed(tmp_path, "other", [10.0, 10.0], lr=0.2)
    distilled = by_seed(tmp_path, "kd", [43.0, 44.0], heads=("PKD",))
    assert "Beside distillation, SOLVER.BASE_LR differ." in only([*other, *distilled]).notes
    found = only([*other, *distilled, *by_seed(tmp_path, "plain", [40.0, 41.0])])
    assert "AP +3.0" in found.text and len(found.notes) == 1


def test_groups_are_named(tmp_path):
    runs = by_seed(tmp_path, "plain", [40.0, 41.0])
    for name in ("PKD", "CWD"):
        runs += by_seed(tmp_path, name, [43.0, 44.0], heads=(name,))
    assert [x.text.partition(" with")[0] for x in verdicts(runs)] == [
        "Distillation (PKD, PKD0, PKD1) helps", "Distillation (CWD, CWD0, CWD1) helps"]  # fmt: skip
    assert compare_runs(runs[:2]) == []


@pytest.fixture
def one_seed(tmp_path, squares):
    """A plain run that finds every other box, and a distilled one that finds more."""
    truth = json.loads((squares / "squares.json").read_text())
    cfg = tiny_cfg("RetinaNet", classes=2)
    cfg.DATASETS.CUSTOM = [["verdict_squares", str(squares / "squares.json"), str(squares)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("verdict_squares",)
    register_custom_datasets(cfg)
    for name, share in (("plain", 2), ("kd", 99)):
        run(tmp_path / name, 0.0, heads=("PKD",) * (name == "kd"))
        path = tmp_path / name / "inference" / "verdict_squares" / "coco_instances_results.json"
        path.parent.mkdir(parents=True)
        boxes = [x for i, x in enumerate(truth["annotations"]) if i % share]
        path.write_text(json.dumps([{k: x[k] for k in ("image_id", "category_id", "bbox")}
                                    | {"score": 0.5} for x in boxes]))  # fmt: skip
        cfg.MODEL.META_ARCHITECTURE = "Distiller" if name == "kd" else "RetinaNet"
        cfg.DISTILL.STUDENT, cfg.DISTILL.HEADS = (
            ("RetinaNet", ("PKD",)) if name == "kd" else ("", ())
        )
        cfg.SOLVER.MAX_ITER = 10
        (tmp_path / name / "config.yaml").write_text(cfg.dump())
        write_ap(tmp_path / name, path)
    yield tmp_path / "plain", tmp_path / "kd"
    DatasetCatalog.remove("verdict_squares")
    MetadataCatalog.remove("verdict_squares")


def write_ap(folder, path):
    evaluator = FastCOCOEvaluator("verdict_squares")
    ap = weighted_ap(match(evaluator.truth, evaluator.read(path)), np.ones(12, int))
    box = {"AP": ap.mean(), "AP75": ap[5].mean(), "AP-red": ap[:, 0].mean(),
           "AP-green": ap[:, 1].mean()}  # fmt: skip
    (folder / "results.json").write_text(json.dumps({"results": {"bbox": box}}))


def test_one_seed_by_images(one_seed, tmp_path):
    done = d2kd("report", *one_seed, "--output", tmp_path / "r.html", "--images", 0)
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()[:2]
    assert first.startswith("Distillation (PKD) helps with one seed: AP +")
    assert "in brackets a 95 % interval" in first and "the largest changes of 2 classes: " in first
    assert second.startswith("One seed is weaker than several")
    text = Path(tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.stack == [] and page.unclosed == []
    assert text.index(first[:40]) < text.index("<h2>Results") and "green" in page.cells


def test_equal_steps_and_equal_time_have_intervals_of_their_own(one_seed):
    """A longer plain run that finds what the distilled one does: the difference is always 0."""
    plain, kd = one_seed
    longer = shutil.copytree(plain, plain.with_name("longer"))
    shutil.copytree(kd / "inference", longer / "inference", dirs_exist_ok=True)
    shutil.copy(kd / "results.json", longer)
    rows = [{"iteration": i, "total_loss": 1.0, "time": 1.0} for i in range(20)]
    (longer / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in rows))
    config = (longer / "config.yaml").read_text()
    (longer / "config.yaml").write_text(config.replace("MAX_ITER: 10\n", "MAX_ITER: 20\n"))
    found = only([read_run(x, x.name) for x in (plain, kd, longer)])
    assert 0 < found.rows[0].low < found.rows[0].change < found.rows[0].high
    assert found.longer[0].low == found.longer[0].change == found.longer[0].high == 0


def test_several_seeds_on_the_same_images(one_seed):
    for folder in one_seed:
        again = shutil.copytree(folder, folder.with_name(f"{folder.name}2"))
        config = (again / "config.yaml").read_text()
        (again / "config.yaml").write_text(re.sub("SEED: .*", "SEED: 7", config))
    found = only([read_run(x, x.name) for x in sorted(one_seed[0].parent.iterdir())])
    assert found.rows[0].seeds == 2 and found.rows[0].se == 0
    low, high = re.search(r"test images of this kind: AP (\S+) to (\S+)", found.notes[1]).groups()
    assert 0 < float(low) < found.rows[0].change < float(high)


def test_one_seed_without_detections(one_seed):
    path = next((one_seed[0] / "inference").rglob("*.json"))
    runs = [read_run(x, x.name) for x in one_seed]
    path.write_text("[]")
    found = only(runs)
    assert "cannot be judged by one pair of runs without its detections: AP +" in found.text
    assert "are not those of results.json" in runs[0].missing[-1]
    path.unlink()
    runs = [read_run(x, x.name) for x in one_seed]
    assert "in brackets" not in only(runs).text
    assert "coco_instances_results.json" in runs[0].missing[-1]
