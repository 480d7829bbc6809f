"""metrics.json, whose rows are those of a run that was never interrupted."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, TypedDict

from detectron2.utils.events import EventWriter, get_event_storage

from ..file_io import append, write_atomically
from .progress import WINDOW

TIMES = ("time", "data_time", "rank_data_time", "eta_seconds", "teacher_wait")
"""Values that are not the same when a run is repeated."""


class Position(TypedDict, total=False):
    """Where a run stands in its file: size in bytes, and the last iteration that has a row.

    `names` is that of each value, `start` that of any other; earlier versions had neither.
    """

    size: int
    written: int
    start: int
    names: Dict[str, int]


class MetricsFile(EventWriter):
    """Detectron2's `JSONWriter`, with a position that a resumed run goes back to.

    A row per iteration in which a value was put last; those of losses are medians. What is put
    after its iteration's row, as by a user's evaluation, gets a row of its own.
    """

    def __init__(self, path: Path) -> None:
        """Set the file; nothing is opened before the first row."""
        self._path, self._start = path, -1
        self._written: Dict[str, int] = {}

    def write(self) -> None:
        """Append what has no row yet, synced to the disk."""
        rows: Dict[int, Dict[str, Any]] = {}
        latest = get_event_storage().latest_with_smoothing_hint(WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._written.get(name, self._start):
                rows.setdefault(iteration, {"iteration": iteration})[name] = value
                self._written[name] = iteration
        if rows:
            text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows.values())
            append(self._path, text)

    @property
    def position(self) -> Position:
        """Where the file ends now."""
        size = self._path.stat().st_size if self._path.exists() else 0
        written = max(self._written.values(), default=self._start)
        return {"size": size, "written": written, "start": self._start,
                "names": dict(self._written)}  # fmt: skip

    def go_back(self, position: Position) -> None:
        """Cut the rows that were written after a position."""
        self._start = position.get("start", position["written"])
        self._written = dict(position.get("names", {}))
        if self._path.exists():
            self._rewrite(self._path.read_bytes()[: position["size"]])

    def keep(self, last: int) -> int:
        """Cut the rows behind iteration `last`, and any that a kill has left incomplete.

        Returns:
            How many lines are cut.
        """
        if not self._path.exists():
            return 0
        kept, lines = {}, self._path.read_bytes().splitlines(keepends=True)
        for line in lines:
            iteration = _iteration(line)
            if iteration is not None and iteration <= last:
                kept[line] = iteration
        self._start, self._written = max(kept.values(), default=-1), {}
        self._rewrite(b"".join(kept))
        return len(lines) - len(kept)

    def begin_anew(self) -> None:
        """Cut all rows, and say how many there were."""
        if dropped := self.keep(-1):
            logging.getLogger(__name__).warning(
                "--resume: no last_checkpoint in %s, so the run begins anew: %d rows of its "
                "metrics.json are dropped.", self._path.parent, dropped,
            )  # fmt: skip

    def _rewrite(self, rows: bytes) -> None:
        if rows != self._path.read_bytes():
            write_atomically(self._path, lambda part: part.write_bytes(rows))


def _iteration(line: bytes) -> int | None:
    """Of a row; None for what is none."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return None
