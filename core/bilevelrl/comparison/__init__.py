"""Fair comparisons: several algorithms on one problem, with one budget and an independent evaluation.

How a single run is made belongs to `runs`; nothing here is specific to one algorithm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
