"""Knowledge distillation of object detectors on Detectron2.

The names below are imported when they are first used; `__init__.pyi` says from where.
"""

from importlib.util import find_spec

import lazy_loader

__version__ = "0.1.0"

if find_spec("detectron2") is None:
    raise ImportError(
        "d2kd needs Detectron2, which has no PyPI release: pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git'"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
