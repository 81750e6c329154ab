"""Gradient descent with constant or decaying steps."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl


@attrs.frozen
class GradientDescent:
    """`x ← x − β_k g`, `β_k = β/(k+1)^p`, k = 0, 1, ….

    Args:
        step_size: β > 0.
        decay_power: p in [0, 1]. 0 keeps the step constant; 1/2 and more suits noisy gradients (Robbins and Monro 1951
            require p in (1/2, 1]).
    """

    name: ClassVar[str] = "gradient-descent"

    step_size: float = attrs.field(default=0.1, validator=bl.validation.is_real(above=0.0))
    decay_power: float = attrs.field(default=0.0, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """No step taken."""
        return bl.OptimizerState()

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """One step along the negative gradient."""
        step_size = self.step_size
        if self.decay_power:
            step_size /= (state.steps + 1) ** self.decay_power
        return x - step_size * hyper.gradient, bl.OptimizerState(state.steps + 1)
