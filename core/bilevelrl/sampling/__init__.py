"""Followers that can only be simulated: simulators, trajectories, and occupancies estimated from samples.

Transition probabilities are used by the tabular simulator alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
