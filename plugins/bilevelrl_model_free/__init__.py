"""Solvers and estimators that use only trajectories: soft Q-learning, soft actor-critic, SoBiRL."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_model_free.estimators import SoBiRL
from bilevelrl_model_free.recipes import SoBiRLRecipe
from bilevelrl_model_free.solvers import SoftActorCritic, SoftQLearning


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Soft Q-learning and soft actor-critic."""
    return [SoftQLearning, SoftActorCritic]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """SoBiRL's estimator."""
    return [SoBiRL]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """SoBiRL."""
    return [SoBiRLRecipe]
