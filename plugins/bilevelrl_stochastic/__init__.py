"""Stochastic estimators: truncated or randomised, from a finite batch a call."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_stochastic.estimators import StocSoBiRL
from bilevelrl_stochastic.recipes import StocSoBiRLRecipe


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """Stoc-SoBiRL's estimator."""
    return [StocSoBiRL]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """Stoc-SoBiRL."""
    return [StocSoBiRLRecipe]
