"""Runs of both stages of MasKD: what is typed, what is written, and that kills leave no trace."""

import contextlib
import json
import re
import shutil

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2kd import Teacher
from d2kd.checkpoint.values import digest
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.heads.tokens_file import FILE, read_tokens
from d2kd.losses import mean_over_ranks
from d2kd.teachers import TokenLearner
from tests.engine.hooks.test_exact_resume import Interruption, result, train
from tests.engine.test_ddp import gradients, whole_batch, worker
from tests.helpers import d2kd, detector, write_config
from tests.ranks import start_training, two_ranks

CLASSES = {"MODEL__RETINANET__NUM_CLASSES": 2, "MODEL__GFL__NUM_CLASSES": 2,
           "MODEL__ROI_HEADS__NUM_CLASSES": 2}  # fmt: skip


def teacher(folder, squares, meta="RetinaNet", **keys):
    """A config and a checkpoint of a trained detector, as far as a test needs."""
    keys = {"MODEL__FPN__OUT_CHANNELS": 12, "MODEL__MASK_ON": False, **keys}
    path = write_config(folder, squares, meta, **keys)
    mask = {"MODEL__MASK_ON": keys["MODEL__MASK_ON"]}
    torch.save({"model": detector(meta, 12, seed=7, **CLASSES, **mask).state_dict()},
               folder / "teacher.pth")  # fmt: skip
    return path, folder / "teacher.pth"


def config(folder, squares, out, meta="RetinaNet", **keys):
    """Eight steps of stage 1, with a checkpoint every two."""
    path, weights = teacher(folder / "t", squares, meta)
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "")
    merge_config_file(cfg, "tokens/Base-tokens.yaml", "")
    cfg.DISTILL.STUDENT = meta
    cfg.DISTILL.TEACHER.CONFIG_FILES, cfg.DISTILL.TEACHER.WEIGHTS = (str(path),), (str(weights),)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SEED = 8, 2, 1
    cfg.OUTPUT_DIR = str(folder / out)
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def same_ends(whole, parts):
    for a, b in zip(result(whole), result(parts), strict=True):
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    assert (whole / FILE).read_bytes() == (parts / FILE).read_bytes()


@pytest.mark.parametrize("meta", ["RetinaNet", "GFL", "GeneralizedRCNN"])
def test_interrupted_and_resumed(tmp_path, squares, meta):
    """The teacher's weights are as before, and the checkpoint holds tokens alone."""
    train(config(tmp_path, squares, "whole", meta))
    cfg = config(tmp_path, squares, "parts", meta)
    for stop in (3, 7):
        with pytest.raises(Interruption):
            train(cfg, stop, resume=stop > 3)
        assert not (tmp_path / "parts" / FILE).exists()
    train(cfg, resume=True)
    same_ends(tmp_path / "whole", tmp_path / "parts")
    saved, metrics = result(tmp_path / "whole")[0], result(tmp_path / "whole")[3]
    assert all(name.startswith("levels.") for name in saved)
    assert metrics["loss_dice"] < 5 and len(load_file(tmp_path / "whole" / FILE)) == 15


def test_killed(tmp_path, squares):
    """SIGKILL behind the first checkpoint, in a process of its own."""
    train(config(tmp_path, squares, "whole"))
    path = tmp_path / "run.yaml"
    path.write_text(config(tmp_path, squares, "parts").dump())
    for kills in (True, False):
        process = start_training("--resume", "--config-file", path)
        while kills and process.is_alive() and not (tmp_path / "parts/last_checkpoint").exists():
            process.join(0.05)
        if kills:
            process.kill()
        process.join()
    assert process.exitcode == 0
    for a, b in list(zip(*(result(tmp_path / x) for x in ("whole", "parts")), strict=True))[:3]:
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    assert (tmp_path / "whole" / FILE).read_bytes() == (tmp_path / "parts" / FILE).read_bytes()


def test_a_kill_before_the_file(tmp_path, squares):
    cfg = config(tmp_path, squares, "out")
    train(cfg)
    expected = (tmp_path / "out" / FILE).read_bytes()
    (tmp_path / "out" / FILE).unlink()
    train(cfg, resume=True)
    assert (tmp_path / "out" / FILE).read_bytes() == expected


def on_rank(rank, folder, paths):
    """A whole run, then one that stops and goes on, in one process of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    whole, parts = get_d2kd_cfg(), get_d2kd_cfg()
    merge_config_file(whole, paths[0], "")
    merge_config_file(parts, paths[1], "")
    train(whole)
    with contextlib.suppress(Interruption):
        train(parts, stop_before=5)
    train(parts, resume=True)
    dist.destroy_process_group()


def test_two_ranks(tmp_path, squares):
    paths = []
    for name in ("whole", "parts"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(config(tmp_path, squares, name).dump())
        paths.append(str(path))
    two_ranks(on_rank, str(tmp_path), paths)
    for a, b in list(zip(*(result(tmp_path / x) for x in ("whole", "parts")), strict=True))[:3]:
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    assert (tmp_path / "whole" / FILE).read_bytes() == (tmp_path / "parts" / FILE).read_bytes()


def losses_and_gradients(batch, ddp):
    frozen = detector("GFL", 12, seed=1)
    torch.nn.init.constant_(frozen.head.cls_score.bias, 0)  # else its losses' divisor is 1
    torch.manual_seed(0)
    model = TokenLearner(teacher=Teacher(frozen), name="T").train()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ddp else model
    losses = wrapped(batch)
    sum(losses.values()).backward()
    return {k: mean_over_ranks(v.detach()) for k, v in losses.items()}, gradients(model)


def compare_with_one_process(rank, folder, _meta):
    mine = losses_and_gradients(whole_batch()[2 * rank : 2 * rank + 2], ddp=True)
    for values, expected in zip(mine, torch.load(f"{folder}/expected.pth"), strict=True):
        assert_close(values, expected, atol=1e-5, rtol=1e-4)


def test_two_ranks_give_the_losses_and_gradients_of_one_process(tmp_path):
    """As far as the teacher's own losses do, which those of GFL do."""
    expected = losses_and_gradients(whole_batch(), ddp=False)
    torch.save(expected, tmp_path / "expected.pth")
    two_ranks(worker, compare_with_one_process, str(tmp_path), "GFL")


def test_both_stages_from_the_command_line(tmp_path, squares):
    path, weights = teacher(tmp_path / "t", squares, QUANTIZE__ENABLED=True)
    tokens, student = tmp_path / "tokens", write_config(tmp_path / "s", squares)
    done = d2kd("train", path, "--tokens", "--teacher-weights", weights, "--output", tokens,
                "SOLVER.MAX_ITER", 3, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"tokens in {tokens / FILE}" in done.output
    of_teacher = f"--teacher {path} --teacher-weights {weights}"
    assert f"d2kd train STUDENT {of_teacher} --distill MasKD" in done.output
    keys = get_d2kd_cfg()
    merge_config_file(keys, str(tokens / "config.yaml"), "")
    solver = keys.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("Adam", 0.01, 1e-3)
    assert (solver.LR_SCHEDULER_NAME, solver.WARMUP_ITERS) == ("WarmupCosineLR", 0)
    assert keys.DISTILL.STUDENT == "RetinaNet" and solver.IMS_PER_BATCH == 4  # the teacher's
    backbone = detector("RetinaNet", 12, seed=7, **CLASSES).backbone
    assert read_tokens(tokens).digest == digest(backbone)
    words = ["train", student, "--teacher", path, "--distill", "MasKD", "DISTILL.MasKD.WARMUP", 2,
             "DISTILL.TEACHER.CHECK_IMAGES", 0, "--teacher-weights"]  # fmt: skip
    out = tmp_path / "distilled"
    named = ["DISTILL.MasKD.TOKENS", tokens]
    done = d2kd(*words, weights, "--output", out, *named)
    assert done.exit_code == 0, done.output
    saved = torch.load(out / "model_final.pth")
    assert set(saved["model"]) == set(detector("RetinaNet", **CLASSES).state_dict())
    assert saved["distillation"]["MasKD.steps"].item() == 6
    done = d2kd(*words, weights, "--output", tmp_path / "x")
    assert done.exit_code and "DISTILL.MasKD.TOKENS is empty" in done.output
    other = tmp_path / "other.pth"
    torch.save({"model": detector("RetinaNet", 12, seed=8, **CLASSES).state_dict()}, other)
    done = d2kd(*words, other, "--output", tmp_path / "x", *named)
    assert done.exit_code and "whose backbone has other weights" in done.output


def test_stage_two_goes_on_with_its_tokens_and_its_warmup(tmp_path, squares):
    """The file that the tokens are from may even have become another one."""
    cfg = config(tmp_path, squares, "tokens", SOLVER__MAX_ITER=2)
    train(cfg)
    paths = {}
    for name in ("whole", "parts"):
        paths[name] = get_d2kd_cfg()
        merge_config_file(paths[name], str(write_config(tmp_path / "s", squares)), "")
        paths[name].MODEL.META_ARCHITECTURE, paths[name].DISTILL.STUDENT = "Distiller", "RetinaNet"
        paths[name].DISTILL.HEADS, paths[name].DISTILL.MasKD.WARMUP = ("MasKD",), 4
        paths[name].DISTILL.MasKD.TOKENS = str(tmp_path / "tokens")
        paths[name].DISTILL.TEACHER = cfg.DISTILL.TEACHER.clone()
        paths[name].OUTPUT_DIR, paths[name].SOLVER.BASE_LR = str(tmp_path / name), 1e-4
    train(paths["whole"])
    with pytest.raises(Interruption):
        train(paths["parts"], 5)
    train(config(tmp_path, squares, "others", SOLVER__MAX_ITER=2, SEED=5))
    shutil.copy(tmp_path / "others" / FILE, tmp_path / "tokens" / FILE)
    train(paths["parts"], resume=True)
    for a, b in zip(*(result(tmp_path / x) for x in ("whole", "parts")), strict=True):
        assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    segment = json.loads((tmp_path / "parts" / "run.json").read_text())["segments"][1]
    assert list(segment["changes"]) == ["DISTILL.MasKD.TOKENS"]


@pytest.mark.parametrize(("words", "message"), [
    (["--teacher", "{path}"], "--tokens: CONFIG is the teacher"),
    (["--output", "{folder}"], "OUTPUT_DIR .* is where the teacher"),
    (["DATASETS.TEST", "('x',)"], "DATASETS.TEST: where tokens are learnt, set it to ()"),
    (["MODEL.WEIGHTS", "x.pth"], "MODEL.WEIGHTS: where tokens are learnt, name the teacher's"),
    (["QUANTIZE.ENABLED", "True"], "QUANTIZE.ENABLED: where tokens are learnt, set it to False"),
    (["SOLVER.EMA.DECAY", "0.9"], "SOLVER.EMA.DECAY: where tokens are learnt"),
    (["DISTILL.TOKENS.NUMBER", "0"], "DISTILL.TOKENS.NUMBER is 0: it must be above 0"),
    (["DISTILL.TEACHER.SIZE", "own"], "DISTILL.TEACHER.SIZE is own"),
])  # fmt: skip
def test_refused(tmp_path, squares, words, message):
    path, weights = teacher(tmp_path / "t", squares)
    names = {"path": path, "folder": path.parent}
    words = [word.format(**names) for word in words]
    output = [] if "--output" in words else ["--output", tmp_path / "x"]
    done = d2kd("train", path, "--tokens", "--teacher-weights", weights, *output, *words)
    assert done.exit_code
    assert re.search(message, done.output), done.output
    assert not (tmp_path / "x" / FILE).exists()


def test_checked(tmp_path, squares):
    path, weights = teacher(tmp_path / "t", squares)
    done = d2kd("check", path, "--tokens", "--teacher-weights", weights)
    assert done.exit_code == 0 and "A plain TokenLearner" in done.output, done.output


def test_masks_that_the_data_must_have(tmp_path, squares):
    path, weights = teacher(tmp_path / "t", squares, "GeneralizedRCNN", MODEL__MASK_ON=True)
    done = d2kd("train", path, "--tokens", "--teacher-weights", weights, "--output", tmp_path / "x",
                "MODEL.MASK_ON", False)  # fmt: skip
    assert done.exit_code and "MODEL.MASK_ON is False, but" in done.output


def test_data_of_other_classes(tmp_path, squares):
    path, weights = teacher(tmp_path / "t", squares)
    torch.save({"model": detector("RetinaNet", 12, seed=7).state_dict()}, weights)
    text = path.read_text().replace("NUM_CLASSES: 2", "NUM_CLASSES: 3")
    path.write_text(text)
    done = d2kd("train", path, "--tokens", "--teacher-weights", weights, "--output", tmp_path / "x")
    assert done.exit_code and "has 2 classes, but 3 are expected by" in done.output


def test_a_run_of_tokens_is_no_detector(tmp_path, squares):
    train(config(tmp_path, squares, "tokens", SOLVER__MAX_ITER=2))
    cfg = config(tmp_path, squares, "tokens")
    (tmp_path / "tokens" / "config.yaml").write_text(cfg.dump())
    for words in (["eval"], ["train", "--tokens", "--output", tmp_path / "x"]):
        done = d2kd(words[0], tmp_path / "tokens", *words[1:])
        assert done.exit_code and "Unexpected" not in done.output, done.output
