"""What the leader minimises: objectives of the policy, of trajectories, of preferences.

Constraints on x belong to `problems`; how an objective is differentiated through the follower belongs to estimators.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
