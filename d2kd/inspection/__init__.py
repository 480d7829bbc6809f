from .checkup import check_run
from .combinations import describe_method, detector_table, method_matrix

__all__ = ["check_run", "describe_method", "detector_table", "method_matrix"]
