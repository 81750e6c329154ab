"""Adapters to other libraries: Gymnasium's tables and environments, TensorBoard.

Each library is imported inside the function that needs it; no other package of core depends on this one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
