"""An upper-level optimizer: every coordinate moves by the same amount."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class SignDescent:
    """`x ← x − β_k sign(g)` with `β_k = β/√(k+1)`: the size of the gradient does not matter, only its direction.

    Source: Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD", ICML 2018.

    Args:
        step_size: β > 0, in the units of x.
    """

    name: ClassVar[str] = "sign-descent"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """No step taken."""
        return bl.OptimizerState()

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """One step against the signs."""
        step_size = self.step_size / (state.steps + 1) ** 0.5
        return x - step_size * np.sign(hyper.gradient), bl.OptimizerState(state.steps + 1)
