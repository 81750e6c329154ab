"""Adam (Kingma and Ba, ICLR 2015)."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class Adam:
    """Adaptive moment estimation: `x ← x − β m̂ / (√v̂ + ε)` with bias-corrected running moments m̂, v̂.

    Source: Kingma and Ba, "Adam: A method for stochastic optimization", ICLR 2015, algorithm 1.

    Args:
        step_size: β > 0.
        first_decay: of the running mean m, in [0, 1).
        second_decay: of the running mean square v, in [0, 1).
        epsilon: ε > 0, which keeps the quotient finite.
    """

    name: ClassVar[str] = "adam"

    step_size: float = attrs.field(default=0.01, validator=bl.validation.is_real(above=0.0))
    first_decay: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    second_decay: float = attrs.field(default=0.999, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    epsilon: float = attrs.field(default=1e-8, validator=bl.validation.is_real(above=0.0))

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """Both moments at zero."""
        return bl.OptimizerState(0, {"mean": np.zeros_like(x), "square": np.zeros_like(x)})

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """One step of the algorithm."""
        steps, gradient = state.steps + 1, hyper.gradient
        mean = self.first_decay * state.arrays["mean"] + (1.0 - self.first_decay) * gradient
        square = self.second_decay * state.arrays["square"] + (1.0 - self.second_decay) * gradient**2
        corrected_mean = mean / (1.0 - self.first_decay**steps)
        corrected_square = square / (1.0 - self.second_decay**steps)
        step = self.step_size * corrected_mean / (np.sqrt(corrected_square) + self.epsilon)
        return x - step, bl.OptimizerState(steps, {"mean": mean, "square": square})
