"""A run that is interrupted and resumed ends with the bits of one that is not."""

import contextlib
import json
import random
import time

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.testing import assert_close

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.engine.metrics_file import TIMES as UNTIMED
from tests.faults.conftest import FULL
from tests.helpers import detector, write_config
from tests.ranks import start_training, two_ranks

ITERATIONS, PERIOD = 8, 2
CASES = {
    "RetinaNet": ("RetinaNet", ()),
    "RetinaNet, PKD and BCKD": ("RetinaNet", ("PKD", "BCKD")),
    "RetinaNet, MGD": ("RetinaNet", ("MGD",)),
    "FCOS, DetKDS": ("FCOS", ("DetKDS",)),
    "GFL, LD and StructuredKD": ("GFL", ("LD", "StructuredKD")),
    "DDOD": ("DDOD", ()),
    "Faster R-CNN, RoIKD": ("GeneralizedRCNN", ("RoIKD",)),
}


def options(case, folder):
    """Options of a distilled run, and its teacher's files."""
    meta, heads = CASES[case]
    if not heads:
        return []
    keys = {"MODEL__RETINANET__NUM_CLASSES": 2, "MODEL__GFL__NUM_CLASSES": 2,
            "MODEL__FCOS__NUM_CLASSES": 2, "MODEL__ROI_HEADS__NUM_CLASSES": 2}  # fmt: skip
    teacher = detector(meta, 12, seed=7, **keys)
    torch.save({"model": teacher.state_dict()}, folder / "teacher.pth")
    return ["MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", meta,
            "DISTILL.HEADS", str(heads),
            "DISTILL.TEACHER.CONFIG_FILES", f"('{folder}/t/plain.yaml',)",
            "DISTILL.TEACHER.WEIGHTS", f"('{folder}/teacher.pth',)"]  # fmt: skip


def config(case, folder, squares, out, **keys):
    meta = CASES[case][0]
    keys = {"SOLVER__MAX_ITER": ITERATIONS, "SOLVER__CHECKPOINT_PERIOD": PERIOD,
            "DATALOADER__ASPECT_RATIO_GROUPING": True, "MODEL__MASK_ON": False, **keys}  # fmt: skip
    write_config(folder / "t", squares, meta, **keys, MODEL__FPN__OUT_CHANNELS=12)
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(write_config(folder / "s", squares, meta, **keys)), "")
    cfg.merge_from_list(options(case, folder))
    cfg.OUTPUT_DIR = str(folder / out)
    return cfg


class Interruption(Exception):
    pass


def train(cfg, stop_before=None, resume=False, call_before=None):
    torch.manual_seed(random.randrange(1000) if resume else 1)  # a resumed run depends on no seed
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    step = trainer.run_step

    def run_step():
        if trainer.iter == stop_before:
            raise Interruption
        (call_before or {}).get(trainer.iter, lambda: None)()
        step()

    trainer.run_step = run_step
    trainer.train()


def result(folder):
    saved = torch.load(folder / "model_final.pth")
    rows = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    metrics = {k: v for row in rows for k, v in row.items() if k not in UNTIMED}
    return saved["model"], saved.get("distillation"), saved["trainer"]["_trainer"], metrics


@pytest.mark.parametrize("case", list(CASES))
def test_interrupted_and_resumed(tmp_path, squares, case):
    train(config(case, tmp_path, squares, "whole"))
    cfg = config(case, tmp_path, squares, "parts")
    for stop in (3, 7):
        with pytest.raises(Interruption):
            train(cfg, stop, resume=stop > 3)
    train(cfg, resume=True)
    for whole, parts in zip(result(tmp_path / "whole"), result(tmp_path / "parts"), strict=True):
        assert_close(parts, whole, rtol=0, atol=0, equal_nan=True)


def test_a_kill_between_the_last_checkpoint_and_the_final_one(tmp_path, squares):
    train(config("RetinaNet, PKD and BCKD", tmp_path, squares, "out"))
    final, last = tmp_path / "out" / "model_final.pth", f"model_{ITERATIONS - 1:07d}.pth"
    expected = torch.load(final)
    final.unlink()
    (tmp_path / "out" / "last_checkpoint").write_text(last)
    train(config("RetinaNet, PKD and BCKD", tmp_path, squares, "out"), resume=True)
    found = torch.load(final)
    assert found["iteration"] == expected["iteration"] == ITERATIONS - 1
    for key in ("model", "distillation"):
        assert_close(found[key], expected[key], rtol=0, atol=0)
    assert (tmp_path / "out" / "last_checkpoint").read_text() == final.name


def start(cfg, path):
    path.write_text(cfg.dump())
    return start_training("--resume", "--config-file", path)


def wait_for_training(folder, process):
    """Until the run has written its first new checkpoint, or has ended."""
    while process.is_alive() and not (folder / "last_checkpoint").exists():
        time.sleep(0.05)


@pytest.mark.parametrize("seed", range(20 if FULL else 3))
def test_killed(tmp_path, squares, seed):
    """SIGKILL at a random moment, more than once, in processes of their own."""
    case, rng = list(CASES)[seed % len(CASES)], random.Random(seed)
    whole = start(config(case, tmp_path, squares, "whole"), tmp_path / "whole.yaml")
    cfg = config(case, tmp_path, squares, "parts")
    for _ in range(2):
        process = start(cfg, tmp_path / "run.yaml")
        wait_for_training(tmp_path / "parts", process)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
    last = start(cfg, tmp_path / "run.yaml")
    for process in (last, whole):
        process.join()
        assert process.exitcode == 0
    found = zip(result(tmp_path / "whole"), result(tmp_path / "parts"), strict=True)
    for whole, parts in list(found)[:3]:
        assert_close(parts, whole, rtol=0, atol=0, equal_nan=True)


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


@pytest.mark.parametrize("case", ["RetinaNet, PKD and BCKD", "Faster R-CNN, RoIKD"])
def test_two_ranks(tmp_path, squares, case):
    """Each rank has its own moving average."""
    paths = []
    for name in ("whole", "parts"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(config(case, tmp_path, squares, name).dump())
        paths.append(str(path))
    two_ranks(on_rank, str(tmp_path), paths)
    found = zip(result(tmp_path / "whole"), result(tmp_path / "parts"), strict=True)
    for whole, parts in list(found)[:3]:
        assert_close(parts, whole, rtol=0, atol=0, equal_nan=True)
    averages = torch.load(tmp_path / "parts" / "model_final.pth")["trainer"]["hooks"]["ExactResume"]
    assert len(averages["averages"]) == 2


def test_other_number_of_ranks(tmp_path, squares):
    """One process goes on where two stopped, with the first rank's average."""
    case = "RetinaNet, PKD and BCKD"
    cfg = config(case, tmp_path, squares, "parts")
    with pytest.raises(Interruption):
        train(cfg, 5)
    path = tmp_path / "parts" / "model_0000003.pth"
    saved = torch.load(path)
    saved["trainer"]["hooks"]["ExactResume"]["averages"] = [
        {"loss_normalizer": 12.5}, {"loss_normalizer": 99.0}
    ]  # fmt: skip
    torch.save(saved, path)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.iter == 3 and trainer.distiller.student.loss_normalizer == 12.5
