"""A follower whose policy is a function of what it observes."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_observatory.estimator import ObservedAdjoint
from bilevelrl_observatory.recipe import Observatory
from bilevelrl_observatory.solver import FeatureIteration


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Value iteration on features."""
    return [FeatureIteration]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """The adjoint at a policy of observations."""
    return [ObservedAdjoint]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """Both, composed."""
    return [Observatory]
