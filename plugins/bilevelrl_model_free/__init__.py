"""Solvers and estimators that see only trajectories: soft Q-learning, soft actor-critic, SoBiRL."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_model_free.estimators import SoBiRL


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """SoBiRL's estimator."""
    return [SoBiRL]
