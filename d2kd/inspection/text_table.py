"""Tables for a terminal."""

from typing import Sequence

from tabulate import tabulate


def format_table(
    rows: Sequence[Sequence[object]], headers: Sequence[str] = (), widest: int | None = None
) -> str:
    """Rows as text, in columns; the last one is wrapped at `widest` characters."""
    widths = [None] * (len(rows[0]) - 1) + [widest] if rows and widest else None
    return tabulate(rows, headers, tablefmt="simple", maxcolwidths=widths, disable_numparse=True)
