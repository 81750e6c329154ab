"""The follower's process as a function of x: rewards, transitions, initial distributions, and their pullbacks.

Solvers and objectives must not be here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
