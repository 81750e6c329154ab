"""Solvers and estimators with a transition model: exact ones, and the paper's M-SoBiRL."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_model_based.estimators import Implicit, WarmStartAdjoint
from bilevelrl_model_based.recipes import ExactGradient, MSoBiRL
from bilevelrl_model_based.solvers import SoftPolicyIteration, SoftValueIteration


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Soft value iteration and soft policy iteration."""
    return [SoftValueIteration, SoftPolicyIteration]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    """The exact implicit gradient and the warm-started adjoint."""
    return [Implicit, WarmStartAdjoint]


@bl.hookimpl
def bilevelrl_algorithms() -> list[type]:
    """M-SoBiRL, and descent along the exact gradient."""
    return [MSoBiRL, ExactGradient]
