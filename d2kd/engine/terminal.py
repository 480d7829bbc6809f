"""What a run shows where it was typed; log.txt is complete in any case."""

import logging
import shutil
import sys
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence

from detectron2.utils.events import EventWriter, get_event_storage
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from . import progress

_LOGGERS = ("fvcore", "detectron2", "d2kd")
_FORMAT = "[%(asctime)s %(name)s] %(levelname)s: %(message)s"


class _Console(logging.StreamHandler):
    """Lines without colour codes, above the live one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:
            self.handleError(record)


def set_up(folder: str, rank: int, mode: str) -> bool:
    """Log to `folder`/log.txt, and to the console as far as the mode says.

    Args:
        folder: OUTPUT_DIR.
        rank: of the process; the first alone has a console.
        mode: "" for all lines, or on a terminal those of d2kd and one that lives; "quiet" for
            warnings, "json" for warnings on stderr.

    Returns:
        bool: whether there is a live line.
    """
    setup_logger(folder, distributed_rank=rank, name="d2kd", abbrev_name="d2kd")
    setup_logger(folder, distributed_rank=rank, name="fvcore")  # as default_setup calls them
    setup_logger(folder, distributed_rank=rank)
    live = not mode and rank == 0 and sys.stdout.isatty()
    for name in _LOGGERS if rank == 0 else ():
        logger = logging.getLogger(name)
        for handler in _consoles(logger):
            logger.removeHandler(handler)
        console = _Console(sys.stderr if mode == "json" else sys.stdout)
        console.setFormatter(logging.Formatter(_FORMAT, "%m/%d %H:%M:%S"))
        shown = not mode and (name == "d2kd" or not live)
        console.setLevel(logging.INFO if shown else logging.WARNING)
        if live:
            console.addFilter(lambda record: record.name != progress.__name__)
        logger.addHandler(console)
    return live


@contextmanager
def file_only() -> Iterator[None]:
    """What is logged goes to log.txt, and to the console if it is a warning."""
    consoles = [x for name in _LOGGERS for x in _consoles(logging.getLogger(name))]
    levels = [console.level for console in consoles]
    for console in consoles:
        console.setLevel(logging.WARNING)
    yield
    for console, level in zip(consoles, levels, strict=True):
        console.setLevel(level)


def _consoles(logger: logging.Logger) -> list[logging.Handler]:
    streams = (sys.stdout, sys.stderr)
    return [x for x in logger.handlers if getattr(x, "stream", None) in streams]


class LiveLine(EventWriter):
    """The line of `ProgressPrinter`, written anew at each step."""

    def __init__(self, max_iter: int, methods: Sequence[str]) -> None:
        """Set the last step, and the names of the heads."""
        self._printer = progress.ProgressPrinter(max_iter, methods)
        self._bar: Optional[tqdm] = None
        self._max_iter = max_iter

    def write(self) -> None:
        """Show this step."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        is_first, size = self._bar is None, shutil.get_terminal_size()  # 80 x 24 if not known
        self._bar = self._bar or tqdm(total=self._max_iter, file=sys.stdout, nrows=size.lines,
                                      bar_format="{bar:10} {desc}", miniters=0)  # fmt: skip
        self._bar.ncols = size.columns - 1
        self._bar.set_description_str(self._printer.text(storage), refresh=False)
        self._bar.update(storage.iter + 1 - self._bar.n)
        if is_first:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None
