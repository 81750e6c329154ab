"""Contexts one by one: each follower is solved and differentiated in a separate task, which workers may share."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_contexts.estimator import PerContextEstimator
from bilevelrl_contexts.recipe import PerContext
from bilevelrl_contexts.solver import PerContextSolver


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Any solver, context by context."""
    return [PerContextSolver]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """Any estimator, context by context."""
    return [PerContextEstimator]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """Any recipe, context by context."""
    return [PerContext]
