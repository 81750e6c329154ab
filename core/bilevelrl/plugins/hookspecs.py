"""The six hooks through which a plugin offers its components and commands.

A plugin is a module or object that implements some of them, marked with `bilevelrl.hookimpl`, and that an entry point
in the group `bilevelrl` names. A hook takes no arguments and returns an iterable of classes, or of click commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pluggy

PROJECT = "bilevelrl"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of a hook."""


@hookspec
def bilevelrl_lower_level_solvers() -> Iterable[type]:  # type: ignore[empty-body]
    """Classes of the protocol `LowerLevelSolver`."""


@hookspec
def bilevelrl_hypergradient_estimators() -> Iterable[type]:  # type: ignore[empty-body]
    """Classes of the protocol `HyperGradientEstimator`."""


@hookspec
def bilevelrl_upper_level_optimizers() -> Iterable[type]:  # type: ignore[empty-body]
    """Classes of the protocol `UpperLevelOptimizer`."""


@hookspec
def bilevelrl_problems() -> Iterable[type]:  # type: ignore[empty-body]
    """Problem factories: classes whose `build()` returns a `BilevelProblem`."""


@hookspec
def bilevelrl_algorithms() -> Iterable[type]:  # type: ignore[empty-body]
    """Recipes: classes whose `build()` returns an `Algorithm`."""


@hookspec
def bilevelrl_commands() -> Iterable[Any]:  # type: ignore[empty-body]
    """Commands of the command line: `click.Command` objects, such as `bilevelrl label`."""
