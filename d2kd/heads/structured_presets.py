"""Published weights and temperatures of Structured KD; see `StructuredKD` for their sources."""

from typing import NamedTuple

from .options import check_options, filled_in


class Values(NamedTuple):
    """Weights of the terms, T of the masks, and 1 or 0 for a mask over channels or none."""

    feat: float
    attention: float
    non_local: float
    temperature: float
    channel_mask: int


PRESETS = {
    "one_stage": Values(4.2e-4, 2.4e-2, 4.2e-4, 0.1, 1),
    "two_stage": Values(7e-5, 4e-3, 7e-5, 0.5, 0),
    "one_stage_paper": Values(4e-4, 2e-2, 4e-4, 0.5, 1),
    "two_stage_paper": Values(7e-5, 4e-3, 7e-5, 0.1, 1),
}


def resolve(preset: str, two_stage: bool, given: Values) -> Values:
    """The preset's values with those given in place of -1, checked.

    Args:
        preset: a name in `PRESETS`, or "auto".
        two_stage: what "auto" means, "two_stage" or "one_stage".
        given: -1 for the preset's value.

    Raises:
        ValueError: another preset, a negative weight, or T not above 0.
    """
    check_options("StructuredKD", choices={"PRESET": (preset, ("auto", *PRESETS))})
    if preset == "auto":
        preset = "two_stage" if two_stage else "one_stage"
    values = filled_in(given, PRESETS[preset])
    check_options(
        "StructuredKD",
        terms={
            "FEAT_WEIGHT": values.feat,
            "ATTENTION_WEIGHT": values.attention,
            "NON_LOCAL_WEIGHT": values.non_local,
        },
        above_zero={"TEMPERATURE": values.temperature},
    )
    return values
