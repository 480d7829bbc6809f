"""From a folder to a student: what is chosen, the plan, its stages, and one run to the end."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from d2kd.data.folder import Split
from d2kd.data.prepare import prepare_folder
from d2kd.errors import ConfigError
from d2kd.file_io import locked
from d2kd.pipeline import (
    Plan,
    Wishes,
    commands,
    hold_plan,
    read_plan,
    remove_plan,
    run_plan,
    write_plan,
)
from d2kd.pipeline.choose import Costs, choose_size, choose_steps, estimate, fit_time
from d2kd.pipeline.commands import Commands
from tests.conftest import ROOT
from tests.helpers import d2kd

STAGE = """
import sys
from pathlib import Path
words = sys.argv[1:]
with open("calls.txt", "a") as file: file.write(" ".join(words) + "\\n")
folder = Path(words[-1])
folder.mkdir(parents=True, exist_ok=True)
if words[0] == "train": (folder / "run.json").write_text("{}")
sys.exit(int(words[1] == "bad.yaml" and len(Path("calls.txt").read_text().splitlines()) < 4))
"""
BARE = "MODEL.TIMM.CHECKPOINT", ""
SLOW = """
import signal, sys, time
from pathlib import Path
got = []
for x in (signal.SIGINT, signal.SIGTERM): signal.signal(x, lambda number, _: got.append(number))
Path("ready").write_text("")
while not got: time.sleep(0.01)
time.sleep(1)
Path("saved").write_text("")
sys.exit({})
"""
SMALL = """
_BASE_: {}/configs/own/student.yaml
MODEL: {{TIMM: {{NAME: mobilenetv3_small_050, CHECKPOINT: ""}}, FPN: {{OUT_CHANNELS: 8}},
         GFL: {{NUM_CONVS: 1, SCORE_THRESH_TEST: 0.0}}}}
DATALOADER: {{NUM_WORKERS: 0}}
"""
COSTS = Costs(size=256, plain=1.0, teacher=2.0, distilled=1.6, memory=5, base=1, disk=0, start=15.0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d2kd.py").write_text(STAGE)  # found by `python -m d2kd` before the real one
    return tmp_path


def wishes(**keys):
    return Wishes(**{"folder": "photos", "output": "out", **keys})


def plan(*stages, **keys):
    commands = {name: ["d2kd", *words.split()] for name, words in stages}
    asked = json.loads(json.dumps(vars(wishes(**keys))))
    return Plan(asked, 256, {"student": 10}, {"minutes": 1, "memory_mb": 1, "disk_mb": 1}, commands)


def split_of(tmp_path, width, height, side, count=4):
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, side, side],
              "area": side**2, "iscrowd": 0} for i in range(1, count + 1)]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "width": width, "height": height}
              for i in range(1, count + 1)]  # fmt: skip
    path = tmp_path / "train.json"
    data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(data))
    return Split(path, tmp_path, ["a"])


@pytest.mark.parametrize(("image", "side", "size"), [
    ((1000, 800), 400, 320),  # large boxes
    ((1000, 800), 15, 448),  # 8 px of 15 are 427 of 800
    ((1000, 800), 4, 640), ((4000, 3000), 30, 640),  # never above 640
    ((200, 150), 100, 160), ((64, 64), 10, 128),  # nor, by much, above the images
])  # fmt: skip
def test_size(tmp_path, image, side, size):
    assert choose_size(split_of(tmp_path, *image, side)) == size


def test_steps():
    assert choose_steps(wishes(steps=7), 1000, 8) == 7
    assert choose_steps(wishes(epochs=2.5), 100, 8) == 32  # 31.25
    assert [choose_steps(wishes(), n, 8) for n in (10, 100, 10**6)] == [300, 750, 5000]


@pytest.mark.parametrize(("keys", "expected"), [
    ({}, 419), ({"plain": False}, 502), ({"teacher": "run"}, 1081)])  # fmt: skip
def test_time_is_kept_and_used(keys, expected):
    """By hand: (3000 - 15 * 9 - 13 * 7.5) / (2 * 2 + 1 + 1.6), and with fewer runs."""
    wanted = wishes(seconds=3000.0, **keys)
    costs = Costs(256, 1.0, 0.0, 1.6, 0, 0, 0, 15.0) if "teacher" in keys else COSTS
    size, steps = fit_time(wanted, 256, costs, (500, 100), 8)
    found = estimate(wanted, size, steps, costs, 100, 8)
    assert size == 256 and 3000 - 6.7 < found <= 3000
    assert steps == expected


def test_memory_grows_with_the_pixels():
    assert COSTS.memory_at(256) == 5 and COSTS.memory_at(128) == 2


def test_little_time_takes_smaller_images_before_few_steps():
    size, steps = fit_time(wishes(seconds=900.0), 256, COSTS, (500, 40), 8)
    assert size == 192 and steps >= 200
    with pytest.raises(ConfigError, match=r"0.0167m is too short: .* Give --time \d+m for 200"):
        fit_time(wishes(seconds=1.0), 256, COSTS, (500, 40), 8)
    assert fit_time(wishes(seconds=900.0, size=256), 256, COSTS, (500, 40), 8)[0] == 256


def test_stages_go_on_where_they_stopped(here):
    """A stage fails; typed again, the one before is not run again, and that one resumes."""
    made = plan(("teacher", "train good.yaml OUTPUT_DIR out/teacher"),
                ("plain", "train bad.yaml OUTPUT_DIR out/plain"),
                ("report", "report out/plain --output out/r"))  # fmt: skip
    write_plan(made)
    said = []
    with pytest.raises(ConfigError, match="plain ended with exit code 1; what it needs mended"):
        run_plan(made, said.append)
    again = read_plan(wishes())
    assert again == made
    with pytest.raises(ConfigError):
        run_plan(again, said.append)
    run_plan(again, said.append, quiet=True)
    assert Path("calls.txt").read_text().splitlines() == [
        "train good.yaml OUTPUT_DIR out/teacher", "train bad.yaml OUTPUT_DIR out/plain",
        *["train bad.yaml --resume OUTPUT_DIR out/plain"] * 2,
        "report out/plain --output out/r"]  # fmt: skip
    assert said.count("[1/3] teacher: finished before") == 2


def test_another_plan_stays_as_it_is(here):
    write_plan(plan(("report", "report a --output out/r")))
    with pytest.raises(ConfigError, match=r"plan of another command \(seed 1\): type that again"):
        read_plan(wishes(seed=2))
    with pytest.raises(ConfigError, match="is inside of photos: give a folder beside"):
        read_plan(wishes(output="photos/out"))
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"did not write \(thesis.tex\): give another folder"):
        read_plan(wishes(output="mine"))
    Path("out/plan.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="was not written by d2kd distill"):
        read_plan(wishes())


def test_overwrite_removes_what_a_plan_wrote_and_nothing_else(here):
    write_plan(plan(("report", "report a --output out/r")))
    Path("out/teacher").mkdir()
    Path("out/mine.txt").write_text("")
    Path("data").mkdir()
    Path("data/results.csv").write_text("")
    Path("plan.yaml").write_text("- buy milk")
    result = d2kd("distill", "photos", "--output", ".", "--overwrite")
    assert "plan.yaml was not written by d2kd distill" in result.output
    assert Path("data/results.csv").exists() and Path("plan.yaml").exists()
    result = d2kd("distill", "photos", "--output", "out", "--overwrite", *BARE)
    assert "photos: there is no such file" in result.output and Path("out/teacher").exists()
    Path("photos").mkdir()
    result = d2kd("distill", "photos", "--output", "out", "--overwrite", *BARE)
    assert "holds files that d2kd distill did not write (mine.txt)" in result.output
    assert sorted(x.name for x in Path("out").iterdir()) == [".lock", "mine.txt"]


@pytest.mark.parametrize("place", ["out", "out/teacher"])
def test_overwrite_removes_nothing_of_a_plan_that_runs(here, place):
    write_plan(plan(("report", "report a --output out/r")))
    Path("out/teacher").mkdir()
    Path("photos").mkdir()
    with locked(Path(place, ".lock")):
        result = d2kd("distill", "photos", "--output", "out", "--overwrite", *BARE)
    said = f"{place} is in use by process {os.getpid()}"
    assert result.exit_code == 1 and said in result.output, result.output
    assert Path("out/plan.yaml").exists() and Path("out/teacher").exists()


def test_a_folder_that_came_to_nothing_is_removed(here):
    with pytest.raises(KeyError), hold_plan(wishes(output="new/out")):
        raise KeyError
    assert not Path("new").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["--time", "soon"], "'soon' is no time: type 45s, 30m or 2h"),
    (["--time", "-3m"], "is no time"),
    (["--time", "1h", "--steps", 3], "--time, --steps and --epochs say the same"),
    (["--lr", 0], "not in the range x>0"), (["--val", 0.95], "not in the range"),
    (["--student", "--import=x"], "No such option"),
    (["--overwrite", "--dry-run"], "--dry-run removes nothing"),
])  # fmt: skip
def test_wrong_options(here, words, said):
    result = d2kd("distill", "photos", *words)
    assert result.exit_code == 2 and said in result.output


def test_a_call_that_came_to_no_plan_leaves_nothing_and_is_forgotten(here, squares):
    """Neither its own data nor those of a call that was killed are taken for the next."""
    shutil.copytree(squares, "photos")
    words = "distill", "photos", "--output", "out", "--size", 64, "--dry-run"
    failed = d2kd(*words, "--student", "own/student.yaml", "MODEL.TIMM.NAME", "no_such_net")
    assert failed.exit_code == 1 and not Path("out").exists(), failed.output
    prepare_folder(Path("photos"), Path("out/data"), 0.2, 1)
    Path("out/data/instances_train.json").write_text("of another time")
    Path("out/planning").touch()
    failed = d2kd(*words, "MODEL.TIMM.CHECKPOINT", "", "MODEL.TIMM.NAME", "no_such_net")
    assert "no_such_net" in failed.output and "another time" not in failed.output
    assert not Path("out").exists()


def test_data_of_another_command_stay(here, squares):
    shutil.copytree(squares, "photos")
    prepare_folder(Path("photos"), Path("out/data"), 0.2, 1)
    failed = d2kd("distill", "photos", "--output", "out", "--dry-run", *BARE,
                  "MODEL.TIMM.NAME", "no_such_net")  # fmt: skip
    assert "no_such_net" in failed.output
    assert {x.name for x in Path("out").iterdir()} == {"data", ".lock"}


def test_a_data_folder_of_the_users_stays(here, squares):
    shutil.copytree(squares, "photos")
    mine = Path("project/data/instances_train.json")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    words = "distill", "photos", "--output", "project", "--steps", 2, "--size", 64, *BARE
    failed = d2kd(*words)
    assert "project/data holds other files, which stay there: name another folder" in failed.output
    write_plan(replace(plan(), asked={**plan().asked, "output": "project"}))
    remove_plan(wishes(output="project", options=BARE))
    assert mine.read_text() == "mine" and not Path("project/plan.yaml").exists()


def test_a_dry_run_waits_for_nobody_and_spoils_nothing(here, squares):
    """Another command is planning there: its data stay."""
    shutil.copytree(squares, "photos")
    with hold_plan(wishes()):
        prepare_folder(Path("photos"), Path("out/data"), 0.2, 1)
        Path("out/planning").touch()
        failed = d2kd("distill", "photos", "--output", "out", "--dry-run", *BARE)
        assert "out is in use by process" in failed.output
        assert Path("out/data/dataset.yaml").exists() and Path("out/planning").exists()


def test_a_stage_whose_result_is_gone_runs_again_and_so_do_those_behind(here):
    stages = [(name, f"train OUTPUT_DIR out/{name}") for name in ("plain", "distilled")]
    given = plan(*stages, ("report", "report --output out/report"))
    write_plan(given)
    said = []
    run_plan(given, said.append)
    shutil.rmtree("out/distilled")
    del said[:]
    run_plan(given, said.append)
    assert said[0] == "[1/3] plain: finished before"
    assert said[1].startswith("[2/3] distilled: d2kd train") and "d2kd report" in said[2]
    del said[:]
    run_plan(given, said.append)
    assert [line.split(": ")[1] for line in said] == ["finished before"] * 3


def test_what_the_plan_chooses_is_no_key(here):
    Path("photos").mkdir()
    failed = d2kd("distill", "photos", "SOLVER.MAX_ITER", 5)
    assert "SOLVER.MAX_ITER is chosen by the plan: type --steps instead." in failed.output


def test_what_the_last_stage_needs_is_said_first(here, monkeypatch):
    Path("photos").mkdir()
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    failed = d2kd("distill", "photos", *BARE)
    assert "for which onnx, onnxscript, onnxruntime must be there: pip install" in failed.output


def test_missing_weights_of_a_trunk_are_said_first(here):
    Path("photos").mkdir()
    failed = d2kd("distill", "photos", "MODEL.TIMM.CHECKPOINT", "datasets/weights/no.safetensors")
    assert "run python datasets/prepare_weights.py" in failed.output


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, "0"),  # of a training in its last step
    (signal.SIGTERM, "1"),  # of one that has just begun
])  # fmt: skip
def test_a_signal_stops_the_stage_alone_and_says_how_to_go_on(here, warm_python, number, code):
    """The stage gets the signal, and has all the time it needs to save."""
    Path("d2kd.py").write_text(SLOW.format(code))
    write_plan(plan(("teacher", "train OUTPUT_DIR out/a"), ("plain", "train OUTPUT_DIR out/b")))
    text = "from d2kd.pipeline import *; run_plan(read_plan(Wishes('photos', 'out')), print)"
    heard = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # as in a shell
    )
    path = f"import sys; sys.path.append({str(ROOT)!r}); sys.path.pop(0)"
    Path("go.py").write_text("\n".join([heard, path, text]))
    process = subprocess.Popen([warm_python, "go.py"], stdout=subprocess.PIPE, text=True)
    while not Path("ready").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert "teacher is stopped: type the same command again to go on." in said
    assert Path("saved").exists() and "[2/2]" not in said
    assert Path("out/finished.yaml").exists() == (code == "0")


def test_a_dry_run_leaves_nothing(squares, tmp_path, monkeypatch, quick_starts):
    monkeypatch.chdir(tmp_path)
    for name in ("student.yaml", "teacher.yaml"):
        (tmp_path / name).write_text(SMALL.format(ROOT))
    done = d2kd("distill", squares, "--student", "student.yaml", "--teacher", "teacher.yaml",
                "--steps", 2, "--size", 64, "--output", "out", "--dry-run")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "steps: teacher 4, student 2." in done.output and not Path("out").exists()
    assert "So few steps teach a student little" in done.output
    assert "d2kd train student.yaml --data out/data --teacher out/teacher" in done.output


def test_a_config_without_weights_is_trained_as_the_teacher(here):
    """Of a config that has weights, of a run and of the zoo, no training is planned."""
    Path("mine.yaml").write_text("MODEL: {META_ARCHITECTURE: GFL, WEIGHTS: ''}")
    Path("trained.yaml").write_text("MODEL: {META_ARCHITECTURE: GFL, WEIGHTS: mine.pth}")
    Path("run").mkdir()
    zoo = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    found = {x: Commands(wishes(teacher=x), Path("data")).stages(64, 5, "GFL")
             for x in ("mine.yaml", "trained.yaml", "run", zoo)}  # fmt: skip
    assert found["mine.yaml"]["teacher"][2] == "mine.yaml"
    assert ["--teacher", "out/teacher"] == found["mine.yaml"]["distilled"][5:7]
    assert not [x for x, y in found.items() if "teacher" in y and x != "mine.yaml"]
    assert ["--teacher", zoo] == found[zoo]["distilled"][5:7]


def test_a_student_that_no_file_can_hold_is_exported_as_a_folder():
    made = Commands(wishes(), Path("data"))
    names = {x: made.stages(64, 5, x)["export"][4] for x in ("GFL", "GeneralizedRCNN", "Own")}
    assert names == {
        **dict.fromkeys(["GFL", "GeneralizedRCNN"], "out/student.onnx"),
        "Own": "out/student",
    }
