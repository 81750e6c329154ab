"""Proven bounds of how far a computed hyper-gradient can be from the true one.

Nothing here computes a gradient for an algorithm, and no other package depends on the bounds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
