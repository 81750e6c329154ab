"""A solver that sweeps the states one after another, as a lighthouse sweeps the sea."""

from __future__ import annotations

import bilevelrl as bl
from bilevelrl_lighthouse.solver import GaussSeidel


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """Value iteration in place."""
    return [GaussSeidel]
