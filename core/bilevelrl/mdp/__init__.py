"""The follower's Markov decision process in tables, the soft Bellman operator, its derivative, and its solutions.

Nothing here depends on x or on the leader; how x enters belongs to `parametric`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
