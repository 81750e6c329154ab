"""Runs: the outer loop driven to its end, once or for several seeds, with callbacks, pictures and resumption.

What one iteration does belongs to `outer_loop`; drivers only call it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
