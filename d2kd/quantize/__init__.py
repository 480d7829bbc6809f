"""Students that are trained to be INT8."""

from .parts import PARTS
from .state import (
    Ranges,
    beside,
    check_measured,
    copy_ranges,
    load_known,
    load_quantized,
    load_with_ranges,
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
    "load_known",
    "load_quantized",
    "load_with_ranges",
    "quantize_student",
    "quantized_convolutions",
    "rounds",
    "check_measured",
    "copy_ranges",
    "set_rounding",
    "share_ranges",
    "with_ranges",
]
