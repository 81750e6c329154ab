"""Solving `(I − γC) v = b` for a Markov chain C and for its transpose: by factorisation, by iteration, by aggregation.

Chains are plain matrices here; what made them (policies, transition kernels) belongs to `mdp`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
