"""Proven bounds of how far a computed hyper-gradient can be from the true one.

Nothing here computes a gradient that an algorithm uses; other packages know nothing of bounds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
