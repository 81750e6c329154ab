"""Checks of input, and their errors: one sentence with the field, the value and what was expected.

This package must not import any other package of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
