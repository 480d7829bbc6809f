"""What happens between the steps of a training.

Their modules are imported when they are first used, since plots and statistics take long to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
