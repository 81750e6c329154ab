"""The leader's objectives: functions of the policy, of trajectories, or of preferences among trajectories.

Constraints on x must not be here and belong to `problems`; differentiation through the follower belongs to estimators.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
