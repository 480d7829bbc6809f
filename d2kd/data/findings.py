"""What was found wrong with a data set, and what follows from it."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from detectron2.utils.logger import log_first_n
from numpy.typing import NDArray

from ..errors import ConfigError
from .listing import listed


class Finding(NamedTuple):
    """One kind of problem, with its examples.

    Attributes:
        what: what the examples are, e.g. "boxes have no width or height, ids".
        examples: all of them.
        effect: "stops" training and evaluation, "changes" what they read, or is only a "note".
        advice: what to do.
    """

    what: str
    examples: Sequence[Any] | NDArray[Any]
    effect: Literal["stops", "changes", "note"] = "note"
    advice: str = ""

    def lines(self) -> list[str]:
        """One line, or none without examples."""
        advice = f"training stops: {self.advice}" if self.effect == "stops" else self.advice
        return [line + f" ({advice})" * bool(advice) for line in listed(self.examples, self.what)]


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """The lines of all findings."""
    return [line for finding in findings for line in finding.lines()]


def stop_or_warn(findings: Sequence[Finding], key: str, name: str) -> None:
    """Raise an error for what stops training; say once, in one warning, what changes the data.

    Args:
        findings: of one data set.
        key: the config key that names the data set.
        name: of the data set, with its file.

    Raises:
        ConfigError: something stops training.
    """
    for finding in findings:
        if finding.effect == "stops":
            for line in listed(finding.examples, finding.what):
                raise ConfigError(f"{key}: {name}: {line} ({finding.advice}).")
    changes = lines_of([x for x in findings if x.effect == "changes"])
    if changes:
        message = f"{name}: {'; '.join(changes)}."
        log_first_n(logging.WARNING, message, key="message", name=__name__)
