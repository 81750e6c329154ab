"""Bilevel problems: a follower, an objective, a feasible set, and several contexts as one problem.

Ready-made problems belong to plugins.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
