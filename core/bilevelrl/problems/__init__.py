"""Bilevel problems with a follower, an objective and a feasible set, their evaluation, and problems over several
contexts.

Concrete problems must not be here and belong to plugins.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
