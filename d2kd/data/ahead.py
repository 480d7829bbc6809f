"""A training loader that shows its batches to someone before they are due."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Batch = list[dict[str, Any]]
NUMBER = "batch number"  # of a batch's first record: one that no other batch of the process has
_numbers = itertools.count()


class AheadLoader:
    """The batches of another loader, of which the next ones are shown in advance.

    What is yielded, and in which order, is what the loader yields; each batch's first record gets
    its number. What the loader raises is raised when its batch is due.

    Attributes:
        dataset: of the loader.
    """

    def __init__(
        self, loader: Iterable[Batch], look_ahead: Callable[[Batch], None], depth: int
    ) -> None:
        """Wrap a loader.

        Args:
            loader: of a training.
            look_ahead: called once with every batch, `depth` batches before it is yielded.
            depth: above 0.
        """
        self._loader, self._look_ahead, self._depth = loader, look_ahead, depth
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        stream, waiting, failure = iter(self._loader), deque[Batch](), None
        while True:
            while failure is None and len(waiting) <= self._depth:
                try:
                    batch = next(stream)
                except Exception as error:  # noqa: BLE001 - raised below
                    failure = error
                    continue
                batch[0][NUMBER] = next(_numbers)
                self._look_ahead(batch)
                waiting.append(batch)
            if not waiting:
                break
            yield waiting.popleft()
        if failure and not isinstance(failure, StopIteration):
            raise failure
