"""A training overwrites nothing: no teacher, no weights, no data, no other run."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from d2kd.checkpoint import convert_weights
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.engine.provenance import command
from d2kd.engine.run_folder import check_folder
from d2kd.errors import ConfigError
from d2kd.quickstart.stages import check_own
from tests.helpers import d2kd, detector, write_config


@pytest.fixture
def place(tmp_path, squares, monkeypatch):
    """A plain config, the run of a teacher that links lead to, data and weights of the user's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(squares, "data/images")
    shutil.copy("data/images/squares.json", "data/train.json")
    steps = {"SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0, "SOLVER__CHECKPOINT_PERIOD": 99}
    write_config(tmp_path, squares, **steps)
    teacher = Path("tea")
    teacher.mkdir()
    shutil.copy("plain.yaml", teacher / "config.yaml")
    weights = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=7).state_dict()
    torch.save({"model": weights}, teacher / "model_final.pth")
    (teacher / "last_checkpoint").write_text("model_final.pth")
    os.symlink("tea", "link")
    Path("zoo").mkdir()
    torch.save({"model": weights}, "zoo/mine.pth")
    os.symlink("../zoo/mine.pth", teacher / "linked.pth")
    return tmp_path


def contents(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


PKD, WEIGHTS = ["--distill", "PKD"], ["--teacher-weights", "zoo/mine.pth"]
READ = {
    "teacher": (["--teacher", "tea", *PKD], "tea"),
    "teacher, with --resume": (["--teacher", "tea", *PKD, "--resume"], "tea"),
    "by another path": (["--teacher", "tea", *PKD], "zoo/../tea/"),
    "by a link": (["--teacher", "link", *PKD], "tea"),
    "into a link": (["--teacher", "tea", *PKD], "link"),
    "teacher's config": (["--teacher", "tea/config.yaml", *WEIGHTS, *PKD], "tea"),
    "teacher's checkpoint": (["--teacher", "plain.yaml", *WEIGHTS, *PKD], "zoo"),
    "a link to a checkpoint": (["MODEL.WEIGHTS", "tea/linked.pth"], "zoo"),
    "starting weights": (["MODEL.WEIGHTS", "zoo/mine.pth"], "zoo"),
    "data": (["--data", "data"], "data"),
    "images": (["DATASETS.CUSTOM", "[['x', 'data/train.json', 'data/images']]"], "data/images"),
    "unlabelled": (["--teacher", "tea", *PKD, "--unlabelled", "data"], "data"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(READ))
def test_what_a_run_reads_is_not_its_output(place, case):
    arguments, output = READ[case]
    before = contents(place)
    done = d2kd("train", "plain.yaml", "--output", output, *arguments)
    assert done.exit_code == 1 and "OUTPUT_DIR" in done.output, done.output
    assert "another folder" in done.output and len(done.output.strip().splitlines()) == 2
    assert contents(place) == before


def test_a_second_run_is_refused_until_it_is_resumed_or_goes_elsewhere(place):
    assert d2kd("train", "plain.yaml", "--output", "out").exit_code == 0
    before = contents(place / "out")
    for config in ("plain.yaml", "out"):
        done = d2kd("train", config, "--output", "out", "SOLVER.BASE_LR", 0.5)
        assert done.exit_code == 1 and "'out' holds a run" in done.output, done.output
        assert "--resume" in done.output and "another folder" in done.output
        assert contents(place / "out") == before
    assert d2kd("train", "out", "--output", "again").exit_code == 0
    assert d2kd("train", "plain.yaml", "--output", "out", "--resume").exit_code == 0


@pytest.mark.parametrize("left", ["run.json", "model_0000004.pth", "metrics.json"])
def test_a_run_that_has_not_finished_is_not_overwritten(place, left):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "")
    cfg.SOLVER.CHECKPOINT_PERIOD = 5
    Path("out").mkdir()
    check_folder(cfg, resume=False)
    Path("out", left).write_text("{}\n")
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        check_folder(cfg, resume=False)
    check_folder(cfg, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_the_results_of_an_evaluation_are_not_overwritten(place, resume):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "")
    Path("out").mkdir()
    Path("out", "results.json").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"results.json of an evaluation.*another folder"):
        check_folder(cfg, resume)


def test_checkpoints_that_nothing_names_are_not_overwritten(place):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "")
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    Path("out").mkdir()
    Path("out", "model_0000002.pth").touch()
    check_folder(cfg, resume=True)  # a kill came before last_checkpoint
    Path("out", "model_0000005.pth").touch()
    with pytest.raises(ConfigError, match="no last_checkpoint"):
        check_folder(cfg, resume=True)
    Path("out", "model_0000002.pth").unlink()
    with pytest.raises(ConfigError, match="no last_checkpoint"):
        check_folder(cfg, resume=True)


def test_rows_that_a_new_beginning_drops_are_said(place):
    Path("out").mkdir()
    Path("out", "metrics.json").write_text('{"iteration": 0}\n{"iteration": 1}\n')
    assert d2kd("train", "plain.yaml", "--output", place / "out", "--resume").exit_code == 0
    assert "begins anew: 2 rows of its metrics.json are dropped" in Path("out/log.txt").read_text()


def test_weights_of_the_run_itself_are_not_needed_to_resume_it(place):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "")
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = "tea", "tea/model_final.pth"
    with pytest.raises(ConfigError, match="leave it out, --resume goes on with the run's last"):
        check_folder(cfg, resume=True)


def test_a_config_of_the_user_is_not_overwritten(place):
    Path("mine").mkdir()
    shutil.copy("plain.yaml", "mine/config.yaml")
    done = d2kd("train", "mine/config.yaml", "--output", "mine")
    assert done.exit_code == 1 and "config.yaml that no run wrote" in done.output


def test_a_run_that_failed_at_once_is_started_again(place):
    """It has left its log and its config, and nothing that could be lost."""
    train = ["train", "plain.yaml", "--output", place / "out"]
    assert d2kd(*train, "SOLVER.MAX_ITER", 0).exit_code == 1
    assert not Path("out").exists()
    assert d2kd(*train, "MODEL.WEIGHTS", "no.pth").exit_code == 1
    assert Path("out", "config.yaml").exists()
    assert d2kd(*train).exit_code == 0


def test_what_lies_near_is_no_reason_to_refuse(place):
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, "plain.yaml", "")
    cfg.MODEL.WEIGHTS, cfg.DATASETS.UNLABELLED = "tea/model_final.pth", ("data",)
    for folder in (".", "tea/student", "data/out"):
        cfg.OUTPUT_DIR = folder
        check_folder(cfg, resume=False)


@pytest.mark.parametrize("into", [None, "out"])
def test_an_evaluation_leaves_the_record_of_a_run_as_it_is(place, into):
    output = ["--output", place / into] if into else []
    assert d2kd("train", "plain.yaml", "--output", "out").exit_code == 0
    before = contents(place / "out")
    done = d2kd("eval", "out", *output, "TEST.DETECTIONS_PER_IMAGE", 7)
    assert done.exit_code == 0, done.output
    after = contents(place / "out")
    assert {k: after[k] for k in before if k != "log.txt"} == {
        k: v for k, v in before.items() if k != "log.txt"
    }
    assert "eval/results.json" in after and "eval/eval/results.json" not in after
    assert d2kd("eval", "out", *output).exit_code == 0
    assert "eval/eval/results.json" not in contents(place / "out")
    if into:
        assert Path("out/eval/log.txt").read_text().count("OUTPUT_DIR holds a run") == 2


def test_an_evaluation_takes_the_keys_that_are_typed(place):
    assert d2kd("train", "plain.yaml", "--output", "out").exit_code == 0
    done = d2kd("eval", "out", "OUTPUT_DIR", "other")
    assert done.exit_code == 0, done.output
    assert Path("other/results.json").is_file() and not Path("out/eval").exists()
    done = d2kd("eval", "out", "MODEL.WEIGHTS", "none.pth")
    assert done.exit_code == 1 and "none.pth" in done.output


def test_what_is_said_before_there_is_a_log_is_in_it_once(place):
    train = ["train", "plain.yaml", "--output", place / "out", "MODEL.GFL.NUM_CONVS", 2]
    assert d2kd(*train, "TEST.AUG.FLIP", "False").exit_code == 0
    log = Path("out/log.txt").read_text()
    assert log.count("not at their defaults: MODEL.GFL.NUM_CONVS.") == 1
    assert log.count("not at their defaults: TEST.AUG.FLIP.") == 1


def test_what_is_said_before_an_error_is_not_lost(place, caplog):
    logging.getLogger("d2kd").propagate = True
    done = d2kd("train", "plain.yaml", "MODEL.GFL.NUM_CONVS", 2, "SOLVER.MAX_ITER", 0)
    assert done.exit_code == 1
    assert "not at their defaults: MODEL.GFL.NUM_CONVS." in caplog.text


def test_a_quick_start_overwrites_no_other_run(place):
    folder = place / "output" / "student"
    check_own(folder)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"command": command()}))
    check_own(folder)
    elsewhere = "/old/venv/lib/d2kd/quickstart/__main__.py"
    (folder / "run.json").write_text(json.dumps({"command": [elsewhere]}))
    check_own(folder)
    (folder / "run.json").write_text(json.dumps({"command": ["d2kd", "train"]}))
    with pytest.raises(ConfigError, match="no quick start's: give another folder with --output"):
        check_own(folder)


def test_weights_are_not_converted_into_their_source(place):
    convert_weights("tea/model_final.pth", Path("tea.safetensors"))
    os.symlink("tea.safetensors", "again.safetensors")
    with pytest.raises(ConfigError, match="again.safetensors is the source"):
        convert_weights("tea.safetensors", Path("again.safetensors"))
