"""What is at --output already."""

from pathlib import Path
from typing import Any, Callable

import click

from ..errors import ConfigError
from ..file_io import check_output, read_head

_HEAD = 1024  # bytes
PAGE = b'<meta name="generator" content="d2kd">'
"""What the head of a report has."""


class Output(click.Path):
    """A file or folder to write, for which there must be place before anything begins."""

    def __init__(self, folder: bool | None = True) -> None:
        """Set whether it is a folder; None for either."""
        super().__init__(path_type=Path)
        self._folder = folder

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A path, with the folder that "~" stands for.

        Raises:
            ConfigError: see `check_output`.
        """
        name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
        check_output(value, name, self._folder)
        return Path(value).expanduser()


def with_overwrite(function: Callable) -> Callable:
    """Decorator: the option --overwrite, for `refuse_existing`."""
    text = "Replace what is there already."
    return click.option("--overwrite", is_flag=True, help=text)(function)


def refuse_existing(
    output: Path, overwrite: bool = False, own: bytes = b"", option: str = "--output"
) -> None:
    """Keep what a user has at --output.

    Args:
        output: a file or folder.
        overwrite: whether the user lets it be replaced.
        own: what the head of a file has that d2kd wrote, and may replace.
        option: what names it.

    Raises:
        ConfigError: it exists, unless it is an empty folder.
    """
    is_used = any(output.iterdir()) if output.is_dir() else output.exists()
    if own and output.is_file() and own in read_head(output, _HEAD):
        return
    if is_used and not overwrite:
        hint = "" if own else ", or add --overwrite"
        raise ConfigError(f"{option} {output} exists: name another{hint}.")
