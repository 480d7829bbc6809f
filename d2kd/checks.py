"""Checks of options, with messages for the user."""

import difflib
from typing import Iterable


class ConfigError(ValueError):
    """A config key, or what it points to, is wrong; the message names the key and what to do."""


def check_choice(value: str, choices: Iterable[str], key: str) -> None:
    """Raise a ConfigError that names `key` and the nearest choices if `value` is not a choice."""
    choices = sorted(choices)
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"{key}: unknown {value!r}.{hint} Known: {', '.join(choices)}.")
