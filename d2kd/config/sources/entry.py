"""What is known of published teachers without opening their weights."""

import difflib
from typing import Iterable, NamedTuple

from ...errors import ConfigError


class Entry(NamedTuple):
    """A detector, or a backbone, with weights that its authors published.

    Attributes:
        name: as it is given to --teacher.
        box_ap: on COCO's val2017, as published; None where it is no detector of COCO, or unknown.
        licence: of the weights, as their publisher states it.
        weights: address of the checkpoint; "" where its library finds it.
    """

    name: str
    box_ap: float | None
    licence: str
    weights: str = ""


def check_name(name: str, known: Iterable[str], prefix: str) -> None:
    """Refuse a name that a source does not have.

    Raises:
        ConfigError: with the nearest that it has.
    """
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise ConfigError(
            f"{prefix} has no {name!r}. Did you mean {' or '.join(f'{prefix}:{x}' for x in near)}? "
            "d2kd teachers lists all."
        )
