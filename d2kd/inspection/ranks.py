"""What a training on several ranks would do, tried with one of them alone.

PyTorch's fake process group says that there are others: collectives return at once and leave what
they were given. So losses are not those of that many ranks; what is sent, and what fails, is.
"""

import logging
import re
from collections import Counter
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.futures import Future
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..engine.trainer import DistillationTrainer
from ..errors import ConfigError
from .checkup import trainer_for_trial
from .text_table import format_table

_STEPS = 3


def check_ranks(cfg: CfgNode, ranks: int) -> List[str]:
    """Build the first of so many ranks, run three steps of it, and describe them, in texts.

    Nothing is written to OUTPUT_DIR, and no process group is left. Where something would stop the
    training from the start, it is all that is said.

    Args:
        cfg: not frozen; its data sets are registered.
        ranks: at least 2, all of one machine.

    Raises:
        ConfigError: whatever training would refuse, or this PyTorch has no fake process group.
    """
    problems = list(rank_problems(cfg, ranks))
    if problems:
        return [f"Problem: {x}" for x in problems]
    cache = cfg.DISTILL.TEACHER.CACHE_DIR
    with one_of(ranks), trainer_for_trial(cfg) as (trainer, said):
        texts = [describe_share(trainer, ranks), describe_traffic(trainer)]
        texts += [f"Warning: {x.getMessage()}" for x in said if x.levelno >= logging.WARNING]
        return [*texts, *(f"Note: {x}" for x in _notes(trainer, ranks, cache)), "No problem found."]


def rank_problems(cfg: CfgNode, ranks: int) -> Iterator[str]:
    """What stops so many ranks at the start, a line for each."""
    solver, teacher = cfg.SOLVER, cfg.DISTILL.TEACHER
    if solver.IMS_PER_BATCH % (solver.REFERENCE_WORLD_SIZE or ranks):
        count = solver.REFERENCE_WORLD_SIZE or ranks
        nearest = max(1, round(solver.IMS_PER_BATCH / count)) * count
        yield (
            f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}, the images of all ranks together, "
            f"which {count} cannot share equally: {nearest}, for example, they can."
        )
    devices = {"MODEL.DEVICE": cfg.MODEL.DEVICE, "DISTILL.TEACHER.DEVICE": teacher.DEVICE}
    asked = {"MODEL.DEVICE": "set it to cuda", "DISTILL.TEACHER.DEVICE": "leave it empty"}
    for key, name in devices.items():
        if re.fullmatch(r"cuda:\d+", name):
            yield f"{key} is {name!r}, one GPU, but each rank needs its own: {asked[key]}."


@contextmanager
def one_of(ranks: int) -> Iterator[None]:
    """This process as the first of so many ranks of one machine, which are not there.

    Raises:
        ConfigError: this PyTorch has no fake process group.
    """
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as error:
        raise ConfigError(
            f"--ranks needs torch.testing._internal.distributed.fake_pg, which PyTorch "
            f"{torch.__version__} does not have: leave it out, or try two ranks with d2kd train "
            "CONFIG --num-gpus 2."
        ) from error
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        comm.create_local_process_group(ranks)
        yield
    finally:
        dist.destroy_process_group()
        _forget_groups()


def _forget_groups() -> None:
    """Detectron2 keeps its groups as long as the process lives."""
    comm._LOCAL_PROCESS_GROUP = None
    comm.create_local_process_group.cache_clear()
    comm._get_global_gloo_group.cache_clear()


class Traffic(TorchDispatchMode):
    """Counts collectives, and the bytes that a rank gives to each, by their names.

    Attributes:
        count: of each.
        nbytes: of each together.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.count: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Count one."""
        self.count[name] += 1
        self.nbytes[name] += sum(x.nbytes for x in tensors)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "c10d":
            lists = [x for x in args if isinstance(x, (list, tuple))]  # what comes, what is given
            given = [x for x in tree_leaves(lists[-1:]) if isinstance(x, Tensor)]
            self.add(function.__name__.split(".")[0].rstrip("_"), given)
        return function(*args, **(kwargs or {}))

    def of_gradients(self, _state: None, bucket: dist.GradBucket) -> Future[Tensor]:
        """A communication hook of DDP, which sends nothing."""
        self.add("allreduce of gradients", [bucket.buffer()])
        done: Future[Tensor] = Future()
        done.set_result(bucket.buffer())
        return done


def describe_share(trainer: DistillationTrainer, ranks: int) -> str:
    """Batch, learning rate and loaders, of a rank and of all."""
    solver, workers = trainer.cfg.SOLVER, trainer.cfg.DATALOADER.NUM_WORKERS
    images = len(trainer.data_loader.dataset.dataset)
    rows = [
        ("images of a step", solver.IMS_PER_BATCH // ranks, solver.IMS_PER_BATCH),
        ("training images", f"{images / ranks:,.0f}", f"{images:,}"),
        ("processes that read them", workers, workers * ranks),
        ("learning rate", "", f"{solver.BASE_LR:g}"),
        ("steps", "", f"{solver.MAX_ITER:,}"),
    ]
    return format_table(rows, (f"{ranks} ranks", "each", "all"))


def describe_traffic(trainer: DistillationTrainer) -> str:
    """Collectives of the last step; in the second DDP still settles its buckets of gradients."""
    model, stream = trainer.model, iter(trainer.data_loader)
    traffic = Traffic()
    model.register_comm_hook(None, traffic.of_gradients)
    with EventStorage(0):
        for _ in range(_STEPS):
            traffic.count.clear()
            traffic.nbytes.clear()
            _step(trainer, next(stream), traffic)
    rows = [(k, n, f"{traffic.nbytes[k]:,}") for k, n in sorted(traffic.count.items())]
    return f"Collectives of a step:\n{format_table(rows, ('', 'number', 'bytes given'))}"


def _step(trainer: DistillationTrainer, batch: List[Dict[str, Any]], traffic: Traffic) -> None:
    step = trainer._trainer
    with traffic:
        with step.autocast():
            losses = trainer.model(batch)
        trainer.optimizer.zero_grad()
        step.scaled(sum(losses.values())).backward()
    step.update()


def _notes(trainer: DistillationTrainer, ranks: int, cache: str) -> Iterator[str]:
    """What goes on, but may not be what is wanted."""
    cfg, images = trainer.cfg, len(trainer.data_loader.dataset.dataset)
    batch = cfg.SOLVER.IMS_PER_BATCH
    if images < batch:
        yield f"{images} training images for steps of {batch}: a step has some more than once."
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    if batch == ranks and any(isinstance(x, norms) and x.training for x in trainer.model.modules()):
        yield "Batch norm has one image in each rank: take a larger SOLVER.IMS_PER_BATCH, or GN."
    if cache and trainer.distiller is not None:
        yield (
            f"The ranks share DISTILL.TEACHER.CACHE_DIR {cache}, of which each may "
            "fill its part of what is left: on several machines all must see one folder."
        )
    if cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.device_count() < ranks:
        yield f"This machine has {torch.cuda.device_count()} GPUs, which is fewer than the ranks."
