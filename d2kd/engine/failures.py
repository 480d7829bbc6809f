"""What stops a training step, in words for the user."""

import contextlib
import re
from typing import Callable, Iterator, Optional

from torch import nn

from ..errors import RunError
from .blame import Blame, find_blame


@contextlib.contextmanager
def explained_failures(
    iteration: int, last_checkpoint: Callable[[], str], model: nn.Module
) -> Iterator[None]:
    """Name the losses or the worker that stop a step, and the way on.

    Args:
        iteration: of the step.
        last_checkpoint: gives the file to go on from; called when something fails.
        model: that is trained, without its DDP wrapper.

    Raises:
        FloatingPointError: with the names of the losses, whose outputs are not finite, and the
            last checkpoint.
        RunError: a data-loader worker died.
    """
    try:
        yield
    except FloatingPointError as error:
        bad = re.findall(r"'([^']+)': [^,}]*?(?:nan|inf)", str(error))
        whose, advice = Blame()
        with contextlib.suppress(Exception):  # what computes again may fail, too
            whose, advice = find_blame(model)
        raise FloatingPointError(
            f"{', '.join(bad) or 'the loss'} became infinite or NaN at iteration {iteration}; "
            f"the last checkpoint is {last_checkpoint()}. {whose}{advice}"
        ) from error
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and not _is_of_worker(error):
            raise
        raise _dead_worker(error, last_checkpoint()) from error


@contextlib.contextmanager
def named_dead_workers(last_checkpoint: Callable[[], str]) -> Iterator[None]:
    """Name a worker that dies between steps.

    PyTorch raises from its handler of SIGCHLD, so wherever the run is: in a step, where
    `explained_failures` sees it, or as well in a hook that writes a checkpoint.

    Args:
        last_checkpoint: gives the file to go on from; called when a worker has died.

    Raises:
        RunError: a data-loader worker died.
    """
    try:
        yield
    except Exception as error:
        cause: Optional[BaseException] = None if isinstance(error, RunError) else error
        while cause is not None and not _is_of_worker(cause):
            cause = cause.__context__  # what the interrupted code said to it
        if not isinstance(cause, RuntimeError):
            raise
        raise _dead_worker(cause, last_checkpoint()) from error


def _is_of_worker(error: BaseException) -> bool:
    """PyTorch's own error, not one of the interrupted code that quotes it."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _dead_worker(error: Exception, checkpoint: str) -> RunError:
    reason = str(error).split("\n")[0].strip() or "its pipe is closed."
    return RunError(
        f"A DataLoader worker has died: {reason} It may have run out of memory or shared memory: "
        f"lower DATALOADER.NUM_WORKERS, and go on with --resume from {checkpoint}."
    )
