"""Basin hopping: many short descents, each begun somewhere around the best point so far."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_optimizers.adam import Adam


@attrs.frozen
class BasinHopping:
    """Short descents by Adam's steps, for landscapes with flat and poor local optima.

    Every `period` updates a descent ends and the next begins at `x* + u σ ξ`, with x* the point of the smallest
    objective so far, u ~ U(0, 1) drawn anew, so that hops are of all sizes, and ξ ~ N(0, I). After the last hop a final
    descent begins at x* itself and goes on until the run ends. Whatever is tried counts: an update is one iteration of
    the run, of which it takes `period · (hops + 2)` to give the final descent its period too.

    The objective is compared between iterations, so it should be exact, or its noise small beside the differences
    that matter. Hops follow from `seed` alone: two runs differ in them only where it differs.

    Sources: Wales and Doye, J. Phys. Chem. A 1997, "Global optimization by basin-hopping"; hops from the best point
    only: Leary, J. Global Optimization 2000.

    Args:
        step_size: β > 0, of Adam's steps.
        period: updates in a descent, at least 1.
        hops: how many, at least 0.
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
        """A first descent from x; no point is known to be good yet."""
        return self._state(0, Adam().init(x), x, np.inf)

    def update(
        self, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState
    ) -> tuple[bl.Array, bl.OptimizerState]:
        """A step of the descent, or a hop where one is due; x is remembered if it is the best so far."""
        best, value = state.arrays["best"], float(state.arrays["value"])
        if hyper.objective < value:
            best, value = x, hyper.objective
        steps = state.steps + 1
        hop, since = divmod(state.steps, self.period)
        if since == 0 and 1 <= hop <= self.hops + 1:
            return self._landing(best, hop), self._state(steps, Adam().init(x), best, value)
        # Steps since the descent began: a hop takes an update of its own, and the final descent has no end.
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
