"""A recipe: this plugin's components, composed."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_harbour.estimator import RichardsonAdjoint
from bilevelrl_harbour.optimizer import SignDescent
from bilevelrl_harbour.solver import AnchoredValueIteration


@attrs.frozen
class Harbour:
    """Anchored value iteration, Richardson's adjoint and descent along signs.

    Args:
        step_size: β > 0, in the units of x.
        sweeps: of the adjoint, in an outer iteration.
    """

    name: ClassVar[str] = "harbour"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition. A component of another plugin would be asked for by name, `bl.lower_level_solver("…")`."""
        return bl.Algorithm(
            lower=AnchoredValueIteration(),
            estimator=RichardsonAdjoint(sweeps=self.sweeps),
            upper=SignDescent(step_size=self.step_size),
            name=self.name,
        )
