"""Iterative differentiation: the follower's last backups, differentiated in reverse."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class IterativeDifferentiation:
    """Reverse-mode differentiation through N soft Bellman backups `v_k = T_x v_{k-1}`, of `f(x, π_x(v_N))`.

    With v_0 taken as a constant, `π_k = π_x(v_k)`, G = ∂f/∂π at `π_N`:

        c    = π_N ⊙ (G − Σ_a π_N G) / τ          ∇ += pullback(x, c with γv_N)
        v̄_N  = γ Pᵀ c
        for k = N … 1:                             ∇ += pullback(x, π_{k-1} ⊙ v̄_k with γv_{k-1})
            v̄_{k-1} = γ Pᵀ (π_{k-1} ⊙ v̄_k)

    Every backup's transitions have a separate cotangent, `γ (π_{k-1} ⊙ v̄_k) ⊗ v_{k-1}`, so this takes N + 1
    pullbacks and has no single signed occupancy. It keeps N policies (N, S, A) in memory.

    If v_0 is the follower's exact solution, all `π_k` are π*, and only the tail of the Neumann series of the adjoint is
    missing: at most `γ^(N+1) ‖c‖₁/(1−γ) · max‖∇q‖`. If v_0 is zero, the policy itself is only `π_x(v_N)`.

    Source: Franceschi et al., "Bilevel programming for hyperparameter optimization and meta-learning", ICML 2018
    (arXiv 1806.04910), on the operator of Yang, Gao and Yuan (arXiv 2405.19697).

    Args:
        backups: N ≥ 1.
        start: v_0: "solution", the values that the lower-level solver found; or "zero".
    """

    name: ClassVar[str] = "itd"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution

    backups: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))
    start: str = attrs.field(default="solution", validator=bl.validation.is_choice("solution", "zero"))

    @property
    def tags(self) -> bl.Tags:
        """Biased by the tail of the truncated series."""
        return bl.Tags("biased", bias_bound=self._bias_bound)

    def _bias_bound(self, discount: float) -> float:
        """`γ^(N+1)` of an implicit part's largest size from the solution's values; infinite from zero (no bound)."""
        return discount ** (self.backups + 1) if self.start == "solution" else math.inf

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """The derivative of the unrolled objective, and its value.

        The reverse pass takes as many passes with Pᵀ as the forward pass took backups; `cost` has no unit for them.
        `residual` is `‖v̄_0‖∞`, the residual of the truncated series in the adjoint equation if all π_k are equal.
        """
        bl.validation.check_fits(f"the tape of {self.name!r}", (self.backups, *solution.policy.shape))
        model, pullback = solution.model, functools.partial(problem.lower.pullback, x)
        values = solution.values if self.start == "solution" else np.zeros(model.states)
        tape: list[tuple[bl.Array, bl.Array]] = []
        for _ in range(self.backups):
            backup = bl.mdp.soft_backup(model, values)
            tape.append((values, backup.policy))
            values = backup.values
        policy = bl.mdp.soft_backup(model, values).policy
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        centred = by_policy - (policy * by_policy).sum(axis=1, keepdims=True)
        weights = bl.mdp.policy_cotangent(model, policy, centred)
        implicit = pullback(bl.occupancy.DenseOccupancy(weights, model.discount * values))
        inflow = model.discount * model.transitions.transpose_expectation(weights)
        for values, policy in reversed(tape):
            weights = policy * inflow[:, None]
            implicit = implicit + pullback(bl.occupancy.DenseOccupancy(weights, model.discount * values))
            inflow = model.discount * model.transitions.transpose_expectation(weights)
        residual = bl.validation.maximum_norm(inflow)
        finite = math.isfinite(objective) and math.isfinite(residual)
        status = bl.Status.BUDGET_SPENT if finite else bl.Status.NON_FINITE
        cost = bl.Cost(backups=self.backups + 1, passes=self.backups + 1)  # there, and back with Pᵀ
        return bl.HyperGradient(by_x, implicit, objective, None, cost, status, residual)
