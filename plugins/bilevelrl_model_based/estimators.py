"""Hyper-gradients from the adjoint of the soft Bellman equation: solved exactly, or tracked by one step per call."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl

# The residual of a tracked adjoint that starts at zero never exceeds its right-hand side, unless the step size is too
# large; then it grows geometrically. The factor allows for right-hand sides that change between calls.
DIVERGENCE = 1e6


@attrs.frozen
class Implicit:
    """The exact hyper-gradient, by one adjoint solve with the solver's own factorisation.

        c              = π ⊙ ∂f/∂π / τ
        (I − γP^π)ᵀ λ  = γPᵀc − Σ_a c
        r̄              = c + π ⊙ λ
        ∇φ(x)          = ∂f/∂x + pullback(x, r̄)

    Exact at the follower's optimum; otherwise its error is proportional to that of the follower's solution. Adding a
    number per state to ∂f/∂π changes nothing, and the one that makes Σ_a c vanish loses the fewest digits.

    Source: Yang, Gao and Yuan, AISTATS 2025, section 3 (arXiv 2405.19697).

    Args:
        tolerance: relative, in the Euclidean norm, of a solution of the adjoint equation by iteration. A
            factorisation solves it to rounding.
    """

    name: ClassVar[str] = "implicit"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    tolerance: float = attrs.field(default=1e-12, validator=bl.validation.is_real(at_least=0.0))

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)`; one linear solve, one pullback."""
        return bl.problems.implicit_gradient(problem, x, solution, tolerance=self.tolerance)


@attrs.frozen
class WarmStartAdjoint:
    """M-SoBiRL's estimator: one warm-started gradient step per call on the adjoint equation.

    With `A = I − γP^π` and `b = Uᵀ diag(π) ∂f/∂π = Σ_a π⊙∂f/∂π − γPᵀ(π⊙∂f/∂π)`:

        w ← w − ξ (A Aᵀ w − A b)             # a step on ½‖Aᵀw − b‖²
        g = ∂f/∂x + τ⁻¹ ∂_xq(x, V)ᵀ(π⊙∂f/∂π) − τ⁻¹ ∂_xT(x, V)ᵀ w

    where `∂_xq = J_r + γ J_P V`, which is the paper's J_r if only the rewards depend on x. The last line is the
    pullback of the signed occupancy `(π⊙∂f/∂π − π⊙w)/τ`. As the outer iterates settle, w approaches the exact adjoint
    `−τλ`.

    Source: Yang, Gao and Yuan, AISTATS 2025, algorithm 1 (arXiv 2405.19697).

    Args:
        step_size: ξ > 0; below `2/‖A‖²`, or w diverges. None: `1/(‖A‖₁‖A‖∞)` at the given policy, which is small enough
            for every problem and costs one more pass over `P^π`. The paper's 0.5 is too large if a column of `P^π`
            sums to more than about 2, and faster otherwise.
    """

    name: ClassVar[str] = "warm-start-adjoint"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("tracking")

    step_size: float | None = attrs.field(default=None, validator=bl.validation.is_real(above=0.0, optional=True))

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """The tracked gradient, by three products with `P^π` and one pullback.

        `carry["adjoint"]` is λ = −w/τ, from which the next call starts.
        """
        model, policy, system = solution.model, solution.policy, solution.linearization
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        cotangent = bl.mdp.policy_cotangent(model, policy, by_policy)
        target = bl.mdp.adjoint_right_hand_side(model, cotangent)
        # In the paper's variables b = −τ·target and w = −τλ: one step in λ is the same step in w.
        adjoint = np.zeros(model.states)
        if previous is not None:
            adjoint = bl.validation.saved_array(previous.carry, "adjoint", (model.states,), finite=False)
        mismatch = system.apply_transpose(adjoint)
        mismatch -= target
        step_size = _safe_step_size(system) if self.step_size is None else self.step_size
        adjoint = adjoint - step_size * system.apply(mismatch)
        residual = bl.validation.maximum_norm(system.apply_transpose(adjoint) - target)
        occupancy = bl.mdp.adjoint_occupancy(model, policy, solution.values, cotangent, adjoint)
        implicit = problem.lower.pullback(x, occupancy)
        return bl.HyperGradient(
            by_x,
            implicit,
            objective,
            occupancy,
            bl.Cost(products=3, passes=1),
            _status(residual, objective, previous, target),
            residual,
            carry={"adjoint": adjoint},
        )


def _safe_step_size(system: bl.mdp.Linearization) -> float:
    """`1/(‖A‖₁‖A‖∞) ≤ 1/‖A‖²` for `A = I − γP^π`, by `‖A‖∞ ≤ 1+γ` and `‖A‖₁ ≤ 1 + γ·max_s' Σ_s P^π_ss'`."""
    inflow = system.chain.sum(axis=0)
    return 1.0 / ((1.0 + system.discount) * (1.0 + system.discount * bl.validation.maximum_norm(inflow)))


def _status(residual: float, objective: float, previous: bl.HyperGradient | None, target: bl.Array) -> bl.Status:
    """Whether the tracked adjoint diverges: its residual grows, and greatly exceeds the right-hand side."""
    if not (math.isfinite(residual) and math.isfinite(objective)):
        return bl.Status.NON_FINITE
    grows = previous is not None and previous.residual is not None and residual > previous.residual
    runs_away = grows and residual > DIVERGENCE * bl.validation.maximum_norm(target)
    return bl.Status.DIVERGED if runs_away else bl.Status.BUDGET_SPENT
