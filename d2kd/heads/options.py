"""Checks of the options of heads."""

from types import MappingProxyType
from typing import Mapping, Sequence, Tuple, TypeVar, cast

from ..errors import check_choice

Values = TypeVar("Values", bound=Tuple[float, ...])


def check_options(
    name: str,
    at_least_zero: Mapping[str, float] = MappingProxyType({}),
    above_zero: Mapping[str, float] = MappingProxyType({}),
    choices: Mapping[str, Tuple[str, Sequence[str]]] = MappingProxyType({}),
    terms: Mapping[str, float] = MappingProxyType({}),
    below_one: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Raise a ValueError that names DISTILL.<name>.<key> of an option out of range.

    Args:
        name: of the head.
        at_least_zero, above_zero: values by key.
        choices: (value, allowed values) by key.
        terms: weights of the head's terms by key, at least 0 and not all of them 0.
        below_one: shares of what is left out, at least 0 and below 1.
    """
    for key, value in (*at_least_zero.items(), *terms.items(), *below_one.items()):
        if not value >= 0:
            raise ValueError(f"DISTILL.{name}.{key} must be at least 0, not {value}.")
    for key, value in above_zero.items():
        if not value > 0:
            raise ValueError(f"DISTILL.{name}.{key} must be above 0, not {value}.")
    for key, value in below_one.items():
        if not value < 1:
            raise ValueError(
                f"DISTILL.{name}.{key} must be below 1, not {value}: nothing would be left to "
                "compare. Set it to -1 for the preset's value."
            )
    for key, (choice, allowed) in choices.items():
        check_choice(choice, allowed, f"DISTILL.{name}.{key}")
    if terms and not any(terms.values()):
        raise ValueError(
            f"DISTILL.{name}: {', '.join(terms)} {'are all' if len(terms) > 1 else 'is'} 0, so it "
            f"would distil nothing: give a weight above 0, or leave {name} out of DISTILL.HEADS."
        )


def filled_in(given: Values, preset: Values) -> Values:
    """The values given, and the preset's in place of -1; a named tuple where the preset is one."""
    found = [b if a == -1 else a for a, b in zip(given, preset, strict=True)]
    return cast(Values, getattr(preset, "_make", tuple)(found))
