"""Students as ONNX files and torch.export programs that need no d2kd."""

from .check import BOX_TOLERANCE, SCORE_TOLERANCE, Comparison, check_export
from .device_bundle.write import export_device_bundle
from .evaluate import evaluate_file
from .formats import export_int8, export_openvino
from .measure import Measurement, measure_export
from .options import Options
from .runner import Exported, fit_image, open_exported
from .student import export_student
from .write import export_onnx, export_pt2

__all__ = [
    "BOX_TOLERANCE",
    "Comparison",
    "Exported",
    "Measurement",
    "Options",
    "SCORE_TOLERANCE",
    "check_export",
    "evaluate_file",
    "export_device_bundle",
    "export_int8",
    "export_onnx",
    "export_openvino",
    "export_pt2",
    "export_student",
    "fit_image",
    "measure_export",
    "open_exported",
]
