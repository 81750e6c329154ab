"""How x enters the follower's process: rewards, transitions, initial distributions, and their pullbacks.

Solvers and objectives belong elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
