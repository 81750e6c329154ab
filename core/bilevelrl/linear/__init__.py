"""Solvers of `(I − γC) v = b` for a Markov chain C and for its transpose: factorisation, iteration and aggregation.

Chains are plain matrices here; policies and transition kernels must not be used here and belong to `mdp`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
