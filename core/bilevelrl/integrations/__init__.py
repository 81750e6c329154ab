"""Adapters to other libraries: Gymnasium's tables and environments, and TensorBoard.

Each library must be imported inside the function that needs it, and no computation may depend on this package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
