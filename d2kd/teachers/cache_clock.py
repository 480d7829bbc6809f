"""Whether reading a teacher's outputs is worth it."""

import logging

_COUNT = 20  # images read, and images computed, before anything is concluded


class CacheClock:
    """Compares the time to read an image's outputs with that to compute them.

    Attributes:
        off: reading has turned out to be slower.
    """

    def __init__(self, count: int = _COUNT) -> None:
        """Set after how many images of either kind something is concluded."""
        self.off = False
        self._least = count
        self._seconds, self._counts = [0.0, 0.0], [0, 0]

    def add(self, read: bool, seconds: float) -> None:
        """Note the time of one image, read or computed."""
        self._seconds[read] += seconds
        self._counts[read] += 1
        if self.off or min(self._counts) < self._least:
            return
        computing, reading = (
            1000 * x / n for x, n in zip(self._seconds, self._counts, strict=True)
        )
        if reading > computing:
            self.off = True
            logging.getLogger(__name__).warning(
                "Teacher cache: to read an image's outputs takes %.1f ms, to compute them %.1f; "
                "nothing is read or stored any more, no value changes by that.",
                reading, computing,
            )  # fmt: skip
