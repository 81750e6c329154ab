"""Penalty-based bilevel reinforcement learning: the follower's optimality as a penalty, not as a constraint."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_rivals.lower_level import LowerLevel, start_distribution

# The penalty is a difference of two values times σ, at a policy computed from many exponentials. This is its rounding
# error, as a share of the terms that cancel.
ROUNDING = 1e-8


@attrs.frozen
class ValuePenalty:
    """PBRL: `L_σ(x, π) = f(x, π) + σ (V*_x(ρ) − V^π_x(ρ))`, alternating in π and x.

    `V*` is the value of the follower's policy, evaluated again. For an inaccurate follower it is a lower bound, and π
    may be the better of the two. A policy π_θ of the leader's own, softmax in logits θ, is kept from call to call. A
    call takes K steps on it,

        θ ← θ + η (A^π/τ − (G − Σ_a πG)/(στ d))          # G = ∂f/∂π at π, A^π and d from ρ

    which is gradient descent on `L_σ(x, ·)` in the metric `στ · d π`, that is mirror descent (without f and with η = 1
    it is soft policy iteration), and then differentiates L_σ in x with π held fixed (the envelope theorem: at its
    minimum nothing else remains):

        g = ∂f/∂x + σ (∇_x V*_x(ρ) − ∇_x V^π_x(ρ))       # two pullbacks of occupancies, d*π* and dπ

    It needs no second derivative and no adjoint. But the bias is O(1/σ), and for a large σ the difference of two nearly
    equal gradients is multiplied by a large number: an error of π counts σ times.

    Source: Shen, Yang and Chen, "Principled penalty-based methods for bilevel reinforcement learning and RLHF",
    ICML 2024 and JMLR 26, 2025 (arXiv 2402.06886), which projects gradient steps in π; the metric here makes η free of
    scale.

    Args:
        penalty: σ > 0, in units of f over units of reward.
        steps: K ≥ 1, steps on π in a call.
        step_size: η in (0, 1].
        initial: ρ of the penalty: "uniform", so that the penalty includes every state; or "own", the follower's own
            initial distribution: in states that it does not reach, π then solves the follower's problem only.
    """

    name: ClassVar[str] = "pbrl"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", tolerance=ROUNDING)

    penalty: float = attrs.field(default=30.0, validator=bl.validation.is_real(above=0.0))
    steps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))
    step_size: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0, at_most=1.0))
    initial: str = attrs.field(default="uniform", validator=bl.validation.is_choice("uniform", "own"))

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∂_x L_σ(x, π)`; `objective` and `direct` are f and ∂f/∂x at the solution, `implicit` is the rest.

        `carry["logits"]` is θ, `carry["gap"]` is `V*_x(ρ) − V^π_x(ρ)`. `residual` is the next step's `|Δθ|∞/η`: how far
        log π is from stationary. The cotangent of P is a difference of two outer products: no single occupancy.
        """
        model = solution.model
        if not (np.isfinite(solution.values).all() and np.isfinite(solution.policy).all()):
            return self._not_finite(x)
        initial = start_distribution(model, self.initial)
        logits = _log(solution.policy)
        if previous is not None:
            logits = bl.validation.saved_array(previous.carry, "logits", logits.shape, finite=False)
        for _ in range(self.steps):
            logits = logits + self.step_size * self._step(problem, x, self._level(model, logits, initial))[1]
            if not np.isfinite(logits).all():  # values that are not finite are not factorised
                return self._not_finite(x)
        level = self._level(model, logits, initial)
        by_x, ahead = self._step(problem, x, level)
        residual = bl.validation.maximum_norm(ahead)
        objective, direct, _ = problem.objective.value_and_gradients(x, solution.policy)
        best = LowerLevel.at(model, solution.linearization, initial)
        penalty = self.penalty * (self._value_gradient(problem, x, best) - self._value_gradient(problem, x, level))
        implicit = penalty + (by_x - direct)
        finite = math.isfinite(objective) and math.isfinite(residual) and bool(np.isfinite(implicit).all())
        return bl.HyperGradient(
            direct,
            implicit,
            float(objective),
            None,
            bl.Cost(linear_solves=2 * self.steps + 4, backups=self.steps + 2),
            bl.Status.BUDGET_SPENT if finite else bl.Status.NON_FINITE,
            residual,
            carry={"logits": logits, "gap": np.array(initial @ (best.values - level.values))},
        )

    def _not_finite(self, x: bl.Array) -> bl.HyperGradient:
        nothing = np.full_like(x, np.nan)
        return bl.HyperGradient(nothing, nothing, math.nan, None, bl.Cost(), bl.Status.NON_FINITE)

    def _level(self, model: bl.SoftMDP, logits: bl.Array, initial: bl.Array) -> LowerLevel:
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        return LowerLevel.at(model, bl.mdp.Linearization(model.transitions, model.discount, policy), initial)

    def _step(self, problem: bl.Problem, x: bl.Array, level: LowerLevel) -> tuple[bl.Array, bl.Array]:
        """`∂f/∂x` (n,) at the level's policy, and `A/τ − (G − Σ_a πG)/(στ d)` (S, A); where d is zero, A/τ alone."""
        _, by_x, by_policy = problem.objective.value_and_gradients(x, level.policy)
        centred = by_policy - (level.policy * by_policy).sum(axis=1, keepdims=True)
        visits = level.visits[:, None]
        direction = level.advantage - np.divide(
            centred, self.penalty * visits, out=np.zeros_like(centred), where=visits > 0
        )
        return by_x, np.asarray(direction / level.model.temperature)

    def _value_gradient(self, problem: bl.Problem, x: bl.Array, level: LowerLevel) -> bl.Array:
        """`∇_x V^π_x(ρ)` at a fixed π; ρ's own dependence on x counts if it is the follower's."""
        start = level.values if self.initial == "own" else None
        occupancy = level.visits[:, None] * level.policy
        return np.asarray(
            problem.lower.pullback(
                x, bl.occupancy.DenseOccupancy(occupancy, level.model.discount * level.values, start)
            )
        )


def _log(policy: bl.Array) -> bl.Array:
    """`log π`, the smallest normal number standing in for zero."""
    return np.asarray(np.log(np.maximum(policy, np.finfo(np.float64).tiny)))
