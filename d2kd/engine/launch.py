"""Starting the ranks of a run."""

import os
import signal
import sys
from argparse import Namespace
from contextlib import contextmanager
from multiprocessing import active_children, get_start_method, set_start_method
from typing import Callable, Iterator

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ..cores import share_cores
from ..errors import ConfigError, RunError, message
from ..text import plain, plain_lines

TRACEBACK_HINT = "(D2KD_TRACEBACK=1 shows the traceback)"
Main = Callable[[Namespace], object]
_ENDED = "A rank has died, so the run has ended"
_GO_ON = "--resume goes on from the last checkpoint."


@contextmanager
def one_line_errors(hint: str = TRACEBACK_HINT) -> Iterator[None]:
    """End the process with one line, and the hint, where the user can put right what went wrong.

    With D2KD_TRACEBACK set, and in the ranks of a run, errors pass.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError, RunError) as error:
        if os.environ.get("D2KD_TRACEBACK") or comm.get_world_size() > 1:
            raise
        sys.exit(plain_lines(f"{type(error).__name__}: {message(error)}\n{hint}"))


def launch(main: Main, args: Namespace) -> None:
    """Run `main(args)` once per GPU, or once per process that `torchrun` has already started.

    Args:
        main: the function every rank runs.
        args: the result of `detectron2.engine.default_argument_parser().parse_args()`.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _launch_here(main, args)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    ranks = int(os.environ["LOCAL_WORLD_SIZE"])
    comm.create_local_process_group(ranks)
    _run_rank(main, args, ranks)


def _launch_here(main: Main, args: Namespace) -> None:
    """Detectron2's launcher; a signal for this process goes to its ranks, whose exit code it takes.

    A rank that dies ends the others.
    """
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError(
            "--num-machines needs --dist-url tcp://HOST:PORT, the same on all machines: an address "
            "of the machine of --machine-rank 0, and a free port there."
        )
    if args.num_gpus * args.num_machines > 1:
        signal.signal(signal.SIGTERM, _pass_on)
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # ranks start anew
    try:
        detectron2_launch(
            _run_rank,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args, args.num_gpus, get_start_method()),
        )
    except ProcessExitedException as error:
        if error.exit_code > 128:
            sys.exit(error.exit_code)
        sys.exit(plain_lines(f"{_ENDED}: {error}. {_GO_ON}"))
    except ProcessRaisedException as error:
        if os.environ.get("D2KD_TRACEBACK"):
            raise
        reason = plain(str(error).strip().splitlines()[-1], 1000)
        lost = "onnection" in reason or "gloo" in reason or "NCCL" in reason
        sys.exit(f"{_ENDED}: {reason}. {_GO_ON}" if lost else f"{reason}\n{TRACEBACK_HINT}")


def _run_rank(main: Main, args: Namespace, ranks: int, method: str = "") -> None:
    """One of the ranks of this machine: its share of the cores, then `main`.

    Workers of its loaders start by `method`: as in a run of one rank, and not as ranks do, which
    takes each of them seconds of imports, in every evaluation again.
    The threads of the process group end before Python does, which they could abort otherwise.
    """
    share_cores(ranks)
    set_start_method(method or get_start_method(), force=True)
    try:
        main(args)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _pass_on(number: int, _frame: object) -> None:
    for rank in active_children():
        if rank.pid is not None:
            os.kill(rank.pid, number)
