"""Checks of input, and the errors they raise: one sentence with the field, the value and what was expected.

Nothing here knows any other package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
