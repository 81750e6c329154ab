"""A recipe: this plugin's components, composed."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_observatory.estimator import ObservedAdjoint
from bilevelrl_observatory.solver import FeatureIteration


@attrs.frozen
class Observatory:
    """Value iteration on features, its adjoint, and gradient descent.

    Args:
        step_size: β > 0, in the units of x.
        sweeps: of the solver, in an outer iteration.
    """

    name: ClassVar[str] = "observatory"

    step_size: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))
    sweeps: int = attrs.field(default=30, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        upper = bl.upper_level_optimizer("gradient-descent", step_size=self.step_size)
        return bl.Algorithm(FeatureIteration(sweeps=self.sweeps), ObservedAdjoint(), upper, name=self.name)
