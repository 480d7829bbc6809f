"""What is said before a run has its log.txt."""

import logging
from contextlib import contextmanager
from logging import LogRecord
from logging.handlers import MemoryHandler
from typing import Iterator, List

from detectron2.utils import comm

_LOGGER = logging.getLogger("d2kd")
_MOST = 10_000  # lines


@contextmanager
def held_back() -> Iterator[List[LogRecord]]:
    """Keep what d2kd logs, in the list that it gives; after an error it is said at once."""
    kept = MemoryHandler(_MOST, logging.CRITICAL + 1)
    before = _LOGGER.handlers, _LOGGER.propagate
    _LOGGER.handlers, _LOGGER.propagate = [kept], False
    try:
        yield kept.buffer
    except BaseException:
        _LOGGER.handlers, _LOGGER.propagate = before
        say(kept.buffer)
        raise
    _LOGGER.handlers, _LOGGER.propagate = before


def say(records: List[LogRecord]) -> None:
    """Log what was kept, on the first rank alone."""
    for record in records if comm.is_main_process() else ():
        _LOGGER.handle(record)
