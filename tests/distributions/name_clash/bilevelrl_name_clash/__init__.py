"""Fails when its components are added: a first-party solver has the name of one of them."""

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class Impostor:
    """Calls itself what the first-party solver is called, and does nothing."""

    name: ClassVar[str] = "soft-policy-iteration"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(self, problem: bl.BilevelProblem, x: bl.Array, warm_start: Any, rng: np.random.Generator) -> Any:
        """Not to be reached."""
        raise AssertionError("the impostor was called")


@attrs.frozen
class Bystander:
    """Never moves. Its name is free, but its plugin is left out as a whole."""

    name: ClassVar[str] = "bystander"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """Nothing to remember."""
        return bl.OptimizerState()

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """The same x."""
        return x, state


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    """The clash."""
    return [Impostor]


@bl.hookimpl
def bilevelrl_upper_level_optimizers() -> list[type]:
    """No clash."""
    return [Bystander]
