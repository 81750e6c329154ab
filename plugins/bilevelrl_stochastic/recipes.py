"""Stoc-SoBiRL: a solver, the stochastic estimator, gradient descent."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_stochastic.estimators import StocSoBiRL


@attrs.frozen
class StocSoBiRLRecipe:
    """Stoc-SoBiRL, the stochastic algorithm of Yang, Gao and Yuan (AISTATS 2025, algorithm 3).

    The paper reaches `‖∇φ‖² ≤ ε` in Õ(ε^{-1.5}) outer iterations and Õ(ε^{-3.5}) samples, that is Õ(ε^{-2}) samples an
    iteration, or `(k+1)^{4/3}` in the k-th: `batch_growth = 4/3`, and a truncation that grows with log k. A constant
    batch (`batch_growth = 0`) is quicker to a rough answer.

    Args:
        step_size: β > 0, of the gradient step on x.
        batch: B, groups of trajectories in the first outer iteration.
        truncation: T, steps of a continuation in the first; None for geometric random lengths.
        batch_growth: the exponent of the batch's growth.
        truncation_growth: steps added to T for each unit of log(k+1).
        samples: transitions the follower learns from in the first outer iteration.
        growth: samples of the k-th are `samples · (k+1)^growth`.
    """

    name: ClassVar[str] = "stoc-sobirl"

    step_size: float = attrs.field(default=0.1, validator=bl.is_real(above=0.0))
    batch: int = attrs.field(default=16, validator=bl.is_integer(at_least=1))
    truncation: int | None = attrs.field(default=None, validator=bl.is_integer(at_least=1, optional=True))
    batch_growth: float = attrs.field(default=0.0, validator=bl.is_real(at_least=0.0))
    truncation_growth: float = attrs.field(default=0.0, validator=bl.is_real(at_least=0.0))
    samples: int = attrs.field(default=20_000, validator=bl.is_integer(at_least=1))
    growth: float = attrs.field(default=0.0, validator=bl.is_real(at_least=0.0))

    def build(self) -> bl.Algorithm:
        """The composition."""
        return bl.Algorithm(
            lower=bl.lower_level_solver("soft-q-learning", samples=self.samples, growth=self.growth),
            estimator=StocSoBiRL(
                batch=self.batch,
                truncation=self.truncation,
                batch_growth=self.batch_growth,
                truncation_growth=self.truncation_growth,
            ),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )
