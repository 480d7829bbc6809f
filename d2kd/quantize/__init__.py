"""Students that are trained to be INT8."""

from .parts import PARTS
from .state import (
    Ranges,
    beside,
    load_quantized,
    load_with_ranges,
    say_unmeasured,
    share_ranges,
    with_ranges,
)
from .student import (
    fix_ranges,
    is_quantized,
    quantize_student,
    quantized_convolutions,
    rounds,
    set_rounding,
)

__all__ = [
    "PARTS",
    "Ranges",
    "beside",
    "fix_ranges",
    "is_quantized",
    "load_quantized",
    "load_with_ranges",
    "quantize_student",
    "quantized_convolutions",
    "rounds",
    "say_unmeasured",
    "set_rounding",
    "share_ranges",
    "with_ranges",
]
