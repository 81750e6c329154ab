"""Comparisons of several algorithms on one problem, with one budget and an independent evaluation.

Single runs belong to `runs`, and nothing here may be specific to one algorithm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
