"""Sampling: simulators, policies, trajectories, and occupancies and hyper-gradients estimated from samples.

Only the tabular simulator may use transition probabilities.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
