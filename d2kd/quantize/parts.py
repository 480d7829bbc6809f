"""Parts of a network that INT8 treats alike, by the names of its layers."""

import re

TRUNK, PYRAMID, TOWERS, UNNAMED = "trunk", "pyramid", "heads", "layers"
LAST = "last convolutions"
PARTS = (TRUNK, PYRAMID, TOWERS, LAST)


def part_of(weight: str) -> str:
    """Of the name of a weight, as the detector has it; tracing loses some names."""
    if not re.match(r"[A-Za-z_]\w*\.", weight):
        return UNNAMED
    if not re.search(r"backbone\.", weight):
        return TOWERS
    return TRUNK if re.search(r"backbone\.(bottom_up|net|body)\.", weight) else PYRAMID
