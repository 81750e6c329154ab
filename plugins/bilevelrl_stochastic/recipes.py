"""Stoc-SoBiRL and its sampled rivals: a solver, a stochastic estimator, gradient descent."""

from __future__ import annotations

from typing import ClassVar

import attrs

import bilevelrl as bl
from bilevelrl_stochastic.estimators import StocSoBiRL
from bilevelrl_stochastic.hpgd import HyperPolicyGradient
from bilevelrl_stochastic.zero_order import ZeroOrder

PAPER_GROWTH = 4 / 3


@attrs.frozen
class StocSoBiRLRecipe:
    """Stoc-SoBiRL, the stochastic algorithm of Yang, Gao and Yuan (AISTATS 2025, algorithm 3).

    The paper reaches `‖∇φ‖² ≤ ε` in Õ(ε^{-1.5}) outer iterations and Õ(ε^{-3.5}) samples, that is Õ(ε^{-2}) samples per
    iteration, or `(k+1)^{4/3}` in the k-th. With `schedule="paper"` the batch and the follower's samples grow at this
    rate, and the squared bias of a truncation falls at it; `schedule="constant"` keeps all three, which is faster to a
    rough answer.

    Args:
        step_size: β > 0, of the gradient step on x. The implicit part has the size of the loss over τ: a follower
            with a low temperature needs small steps.
        batch: B, groups of trajectories in the first outer iteration.
        truncation: T, steps of a continuation in the first; None for geometric random lengths.
        samples: the follower's transitions in the first outer iteration.
        schedule: "constant" or "paper".
    """

    name: ClassVar[str] = "stoc-sobirl"

    step_size: float = attrs.field(default=0.02, validator=bl.validation.is_real(above=0.0))
    batch: int = attrs.field(default=16, validator=bl.validation.is_integer(at_least=1))
    truncation: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))
    samples: int = attrs.field(default=20_000, validator=bl.validation.is_integer(at_least=1))
    schedule: str = attrs.field(default="constant", validator=bl.validation.is_choice("constant", "paper"))

    def build(self) -> bl.Algorithm:
        """The composition."""
        growth = PAPER_GROWTH if self.schedule == "paper" else 0.0
        return bl.Algorithm(
            lower=bl.lower_level_solver("soft-q-learning", samples=self.samples, growth=growth),
            estimator=StocSoBiRL(
                batch=self.batch, truncation=self.truncation, batch_growth=growth, truncation_growth=growth / 2
            ),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )


@attrs.frozen
class HPGD:
    """HPGD (Thoma et al., NeurIPS 2024): a follower that learns from samples, the hyper policy gradient, descent.

    For a leader's return along the follower's trajectories, or any `StepwiseObjective`. The paper does not specify how
    the follower learns; here it uses soft Q-learning.

    Args:
        step_size: β > 0, of the gradient step on x.
        batch: trajectories in each outer iteration.
        truncation: T, steps of a continuation; None for geometric random lengths, as in the paper.
        samples: the follower's transitions in an outer iteration.
    """

    name: ClassVar[str] = "hpgd"

    step_size: float = attrs.field(default=0.02, validator=bl.validation.is_real(above=0.0))
    batch: int = attrs.field(default=32, validator=bl.validation.is_integer(at_least=1))
    truncation: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))
    samples: int = attrs.field(default=20_000, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        return bl.Algorithm(
            lower=bl.lower_level_solver("soft-q-learning", samples=self.samples),
            estimator=HyperPolicyGradient(batch=self.batch, truncation=self.truncation),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )


@attrs.frozen
class ZeroOrderRecipe:
    """Two-point Gaussian smoothing of φ (Nesterov and Spokoiny 2017), with a follower solved to 1e-10.

    Args:
        step_size: β > 0, of the gradient step on x. An estimate from m directions in R^n is about `√(1 + n/m)` times as
            long as the gradient: many coordinates need small steps.
        directions: m ≥ 1 in each outer iteration, each with two solutions of the follower.
        smoothing: δ > 0, in the units of x.
        groups: groups of trajectories for each value, for an objective of trajectories.
    """

    name: ClassVar[str] = "zero-order"

    step_size: float = attrs.field(default=0.01, validator=bl.validation.is_real(above=0.0))
    directions: int = attrs.field(default=16, validator=bl.validation.is_integer(at_least=1))
    smoothing: float = attrs.field(default=1e-3, validator=bl.validation.is_real(above=0.0))
    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))

    def build(self) -> bl.Algorithm:
        """The composition."""
        return bl.Algorithm(
            lower=bl.lower_level_solver("soft-policy-iteration"),
            estimator=ZeroOrder(directions=self.directions, smoothing=self.smoothing, groups=self.groups),
            upper=bl.upper_level_optimizer("gradient-descent", step_size=self.step_size),
            name=self.name,
        )
