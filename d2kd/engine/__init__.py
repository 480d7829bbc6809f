"""Training and evaluation runs."""

import lazy_loader

from ..errors import ignore_warnings_of_dependencies

ignore_warnings_of_dependencies()  # here, since each rank of a run imports this first

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
