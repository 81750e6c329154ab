"""The follower's tabular Markov decision process, the soft Bellman operator with its derivative, and exact solutions.

Code here must not depend on x or on the leader; functions of x belong to `parametric`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
