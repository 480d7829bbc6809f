"""`d2kd check --ranks`: one rank with nobody behind it sends what ranks of a real group send."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import register_custom_datasets
from d2kd.engine.command_line import config_of
from d2kd.engine.steps import Step
from d2kd.inspection.checkup import trainer_for_trial
from d2kd.inspection.ranks import describe_traffic, one_of, rank_problems
from tests.helpers import d2kd, detector, write_config
from tests.ranks import two_ranks

pytest.importorskip("torch.testing._internal.distributed.fake_pg")
HEADS = "PKD,BCKD"


@pytest.fixture
def words(tmp_path, squares):
    """Of a distilled run, behind `d2kd check`."""
    keys = {"MODEL__RETINANET__NUM_CLASSES": 2}
    teacher = detector("RetinaNet", 12, seed=1, **keys)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    config = write_config(tmp_path / "t", squares, MODEL__FPN__OUT_CHANNELS=12)
    student = write_config(tmp_path / "s", squares, "RetinaNet")
    return [student, "--teacher", config, "--teacher-weights", tmp_path / "teacher.pth",
            "--distill", HEADS]  # fmt: skip


def rows(text):
    """The cells of the lines of tables, by the first."""
    cells = (line.split("  ") for line in text.splitlines())
    return {x[0]: [y.strip() for y in x[1:] if y.strip()] for x in cells if len(x) > 1}


def test_what_each_gets_and_sends(words):
    done = d2kd("check", *words, "--ranks", 2)
    assert done.exit_code == 0, done.output
    found = rows(done.output)
    assert found["images of a step"] == ["2", "4"]
    assert found["training images"] == ["6", "12"]
    assert found["learning rate"] == ["0.02"]
    student = sum(x.numel() for x in detector(MODEL__RETINANET__NUM_CLASSES=2).parameters())
    projections = 4 * (8 * 12 + 12)
    assert found["allreduce of gradients"] == ["1", f"{4 * (student + projections):,}"]
    assert "broadcast" not in found and int(found["allreduce"][0]) > 1
    assert "No problem found." in done.output


def test_a_plain_student_with_few_images(words):
    done = d2kd("check", words[0], "--ranks", 8, "SOLVER.IMS_PER_BATCH", 16)
    found = rows(done.output)
    assert found["images of a step"] == ["2", "16"] and "allreduce" not in found
    assert "Note: 12 training images for steps of 16: a step has some more than once" in done.output


def test_no_group_is_left(words):
    d2kd("check", *words, "--ranks", 2)
    assert not dist.is_initialized() and comm.get_world_size() == 1
    with pytest.raises(KeyError), one_of(4):
        assert comm.get_world_size() == 4 and comm.all_gather(1) == [1] * 4
        raise KeyError
    assert not dist.is_initialized() and comm.all_gather(1) == [1]
    with one_of(3):
        assert comm.get_local_size() == 3 and len(comm.all_gather(1)) == 3


def on_rank(rank, folder, words):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    with open(f"{folder}/{rank}", "w") as file:
        file.write(traffic(words))
    dist.destroy_process_group()


def traffic(words):
    cfg = config_of(words)
    register_custom_datasets(cfg)
    with trainer_for_trial(cfg) as (trainer, _):
        return describe_traffic(trainer)


def test_real_ranks_send_as_much(words, tmp_path):
    words = list(map(str, words))
    with one_of(2):
        expected = traffic(words)
    two_ranks(on_rank, str(tmp_path), words)
    assert [(tmp_path / x).read_text() for x in "01"] == [expected] * 2


def test_what_would_fail():
    cfg = get_d2kd_cfg()
    cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.DEVICE = 12, "cuda:0"
    cfg.DISTILL.TEACHER.DEVICE = "cuda:1"
    batch, student, teacher = rank_problems(cfg, 8)
    assert batch.startswith("SOLVER.IMS_PER_BATCH is 12, ") and "8 cannot share" in batch
    assert batch.endswith("16, for example, they can.")
    assert student.startswith("MODEL.DEVICE is 'cuda:0', one GPU, but each rank needs its own")
    assert teacher.startswith("DISTILL.TEACHER.DEVICE is 'cuda:1'")
    cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.DEVICE, cfg.DISTILL.TEACHER.DEVICE = 16, "cuda", ""
    assert not list(rank_problems(cfg, 8))


class Unused(torch.nn.Module):
    """A linear layer beside one that no loss knows."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = (torch.nn.Linear(2, 2) for _ in range(2))

    def forward(self, batch):
        return {"loss": self.used(batch).sum()}


def test_a_parameter_without_gradient():
    with one_of(2):
        model = torch.nn.parallel.DistributedDataParallel(Unused())
        step = Step(model, [torch.ones(1, 2)] * 3, torch.optim.SGD(model.parameters(), 0.1))
        trainer = SimpleNamespace(model=model, data_loader=step.data_loader,
                                  optimizer=step.optimizer, _trainer=step)  # fmt: skip
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            describe_traffic(trainer)


def test_a_method_that_needs_two_images(words):
    done = d2kd("check", *words[:-1], "DetKDS", "--ranks", 4)
    assert done.exit_code == 1 and "DetKDS compares the images of a rank's batch" in done.output


def test_notes(words, tmp_path):
    folder = tmp_path / "cache"
    done = d2kd("check", *words, "--ranks", 4, "DISTILL.TEACHER.CACHE_DIR", folder,
                "MODEL.RETINANET.NORM", "BN", "INPUT.MIN_SIZE_TRAIN", "(256,)")  # fmt: skip
    assert f"The ranks share DISTILL.TEACHER.CACHE_DIR {folder}" in done.output
    assert "Note: Batch norm has one image in each rank" in done.output


def test_a_pytorch_without_it(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.testing._internal.distributed.fake_pg", None)
    done = d2kd("check", *words, "--ranks", 2)
    assert done.exit_code == 1 and f"which PyTorch {torch.__version__} does not have" in done.output
    assert not dist.is_initialized()
