"""Stochastic estimators: truncated or randomised, from a finite batch per call; HPGD and the zero-order rival."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_stochastic.estimators import StocSoBiRL
from bilevelrl_stochastic.hpgd import HyperPolicyGradient
from bilevelrl_stochastic.recipes import HPGD, StocSoBiRLRecipe, ZeroOrderRecipe
from bilevelrl_stochastic.zero_order import ZeroOrder


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """Stoc-SoBiRL's estimator, HPGD's, and two-point smoothing."""
    return [StocSoBiRL, HyperPolicyGradient, ZeroOrder]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """Stoc-SoBiRL, HPGD, zero-order."""
    return [StocSoBiRLRecipe, HPGD, ZeroOrderRecipe]
