"""How work is executed: compiled loops, threads, and maps over processes or machines.

Nothing here knows what is computed, and nothing here may change a result.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
