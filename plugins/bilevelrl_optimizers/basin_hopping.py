"""Basin hopping: many short descents, each from a random point near the best point so far."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_optimizers.adam import Adam


@attrs.frozen
class BasinHopping:
    """Short descents with Adam's steps, for objectives with flat regions and poor local optima.

    Every `period` updates a descent ends and the next begins at `x* + u σ ξ`, with x* the point of the smallest
    objective so far, a new u ~ U(0, 1), so that hops have all sizes, and ξ ~ N(0, I). After the last hop a final
    descent begins at x* itself and continues until the run ends. Every update is one iteration of the run;
    `period · (hops + 2)` iterations give the final descent a full period too.

    The objective is compared between iterations, so it should be exact, or its noise small relative to the relevant
    differences. The hops depend only on `seed`.

    Sources: Wales and Doye, J. Phys. Chem. A 1997, "Global optimization by basin-hopping"; hops from the best point
    only: Leary, J. Global Optimization 2000.

    Args:
        step_size: β > 0, of Adam's steps.
        period: updates in a descent, at least 1.
        hops: the number of hops, at least 0.
        spread: σ > 0, in the units of x.
        seed: of the hops, an integer of at least 0.
    """

    name: ClassVar[str] = "basin-hopping"

    step_size: float = attrs.field(default=0.3, validator=bl.validation.is_real(above=0.0))
    period: int = attrs.field(default=40, validator=bl.validation.is_integer(at_least=1))
    hops: int = attrs.field(default=13, validator=bl.validation.is_integer(at_least=0))
    spread: float = attrs.field(default=3.0, validator=bl.validation.is_real(above=0.0))
    seed: int = attrs.field(default=0, validator=bl.validation.is_integer(at_least=0))

    def init(self, x: bl.Array) -> bl.OptimizerState:
        """A first descent from x, without a best point yet."""
        return self._state(0, Adam().init(x), x, np.inf)

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """A step of the descent, or a hop at the end of a period; x is recorded if it is the best so far."""
        best, value = state.arrays["best"], float(state.arrays["value"])
        if hyper.objective < value:
            best, value = x, hyper.objective
        steps = state.steps + 1
        hop, since = divmod(state.steps, self.period)
        if since == 0 and 1 <= hop <= self.hops + 1:
            return self._landing(best, hop), self._state(steps, Adam().init(x), best, value)
        # Steps since the descent began: a hop is an update of its own, and the final descent has no end.
        taken = since if hop == 0 else state.steps - min(hop, self.hops + 1) * self.period - 1
        moments = bl.OptimizerState(taken, {name: state.arrays[name] for name in ("mean", "square")})
        moved, moments = Adam(step_size=self.step_size).update(x, hyper, moments)
        return moved, self._state(steps, moments, best, value)

    def _landing(self, best: bl.Array, hop: int) -> bl.Array:
        if hop > self.hops:
            return best
        rng = bl.randomness.stream(self.seed, self.name, hop)
        return best + self.spread * rng.random() * rng.standard_normal(best.size)

    def _state(self, steps: int, moments: bl.OptimizerState, best: bl.Array, value: float) -> bl.OptimizerState:
        return bl.OptimizerState(steps, {**moments.arrays, "best": best, "value": np.array(value)})
