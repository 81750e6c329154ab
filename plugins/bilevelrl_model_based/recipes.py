"""Algorithms composed of this plugin's components."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_model_based.estimators import Implicit, WarmStartAdjoint
from bilevelrl_model_based.solvers import SoftPolicyIteration, SoftValueIteration


@attrs.frozen
class MSoBiRL:
    """M-SoBiRL, the model-based algorithm of Yang, Gao and Yuan (AISTATS 2025, algorithm 1).

    N warm-started soft Bellman backups, one gradient step on the adjoint equation, one gradient step on x. With
    constant ξ, β and N, `min_k ‖∇φ(x_k)‖² = O(1/K)`.

    Args:
        step_size: β > 0, of the gradient step on x.
        adjoint_step_size: ξ > 0, of the gradient step on the adjoint.
        sweeps: N ≥ 1, Bellman backups in an outer iteration.
    """

    name: ClassVar[str] = "m-sobirl"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    adjoint_step_size: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0))
    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        return bl.Algorithm(
            lower=SoftValueIteration(sweeps=self.sweeps),
            estimator=WarmStartAdjoint(step_size=self.adjoint_step_size),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )


@attrs.frozen
class ExactGradient:
    """The exact hyper-gradient at every iterate: the follower solved to 1e-10, one adjoint solve, any optimizer.

    The other algorithms approximate this. It is for problems whose linear systems are small enough to solve.

    Args:
        step_size: β > 0, of the optimizer's steps.
        upper: "gradient-descent", "adam", "basin-hopping", or any other optimizer that has a `step_size`.
    """

    name: ClassVar[str] = "exact-gradient"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    upper: str = attrs.field(default="gradient-descent", validator=attrs.validators.instance_of(str))

    def build(self) -> bl.Algorithm:
        """The composition."""
        return bl.Algorithm(
            lower=SoftPolicyIteration(),
            estimator=Implicit(),
            upper=bl.upper_level_optimizer(self.upper, step_size=self.step_size),
            name=self.name,
        )
