"""The theorem behind certificates: a bound on a hyper-gradient's distance from `∇φ(x)`, from its residuals.

Given any v (S,) and any signed occupancy r̄ (S, A), with π = π(v), G = ∂f/∂π at π, and

    g  = ∂f/∂x(x, π) + J_rᵀ r̄ + J_Pᵀ (r̄ ⊗ γv)         the gradient
    u  = G/τ + k_s,  e = r̄ − π ⊙ u                      the part of r̄ that is not π ⊙ u; any k
    σ  = Σ_a r̄ − γPᵀr̄                                   the violation of the flow equation

the error is, exactly,

    ∇φ − g = ∂f/∂x(x, π*) − ∂f/∂x(x, π)
             + Σ_sa [(π* − π) ⊙ u + π* ⊙ (G* − G)/τ − e]_sa ∇(Q* − V*)_sa
             − Σ_s σ_s ∇V*_s + Σ_sa r̄_sa ∇P_sa·γ(V* − v)

with `∇V* = (I − γP^π*)⁻¹ Σ_a π*∇q`, `∇Q* = ∇q + γP∇V*`, `∇q = ∇r + γ∇P·V*`. Every factor on the right is measured or
bounded here. The proof, and what each term means, are in docs/explanation/certificate.md.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from bilevelrl.certificates.derivative_bounds import derivative_norms, gradient_change
from bilevelrl.certificates.nearby_policies import NearbyPolicies
from bilevelrl.mdp.passes import Backup
from bilevelrl.mdp.rounding import (
    EPSILON,
    TINY,
    backup_rounding,
    column_terms,
    length,
    pullback_rounding,
    row_terms,
    sum_rounding,
)
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.validation.arrays import Array, maximum_norm


@attrs.frozen(eq=False)
class FollowerError:
    """A bound on the distance of values v from V*: `|V* − v − c| ≤ h` in every state, for one constant c.

    A constant changes no policy, so only h matters. For `δ = Tv − v` the shift `c = (min δ + max δ)/(2(1−γ))`
    reduces `T(v + c) − (v + c)` to at most half of `max δ − min δ`, and T is a γ-contraction:
    `h = (max δ − min δ)/(2(1−γ))` (after MacQueen 1966 and Porteus 1971).

    Args:
        centre: c.
        measured: h as measured.
        rounded: what rounding, and rows of P that do not sum to one, add to h.
        apart: a bound on the additional difference of two entries of `γP(V* − v)` in a state, or of the computed π.
        growth: γ times the largest sum of a row of P.
    """

    centre: float
    measured: float
    rounded: float
    apart: float
    growth: float

    @classmethod
    def of(cls, model: SoftMDP, values: Array, backup: Backup, defect: float) -> FollowerError:
        """The bound for values whose backup is known; `defect` bounds the distance of row sums of P from one.

        Infinite if `γ(1 + defect)` is not below one.
        """
        discount, rounding = model.discount, backup_rounding(model, values)
        contraction = (1.0 - discount) - discount * defect
        change = backup.values - values
        low, high = float(change.min()), float(change.max())
        centre = 0.5 * (low + high) / (1.0 - discount)
        missed = maximum_norm(change - (1.0 - discount) * centre)
        lost = rounding + discount * abs(centre) * defect + 4.0 * EPSILON * max(abs(low), abs(high))
        if not contraction > 0.0:
            return cls(centre, np.inf, np.inf, np.inf, 1.0)
        apart = 2.0 * discount * abs(centre) * defect + 4.0 * rounding
        return cls(centre, missed / contraction, lost / contraction, apart, discount * (1.0 + defect))

    @property
    def half_range(self) -> float:
        """h."""
        return self.measured + self.rounded

    def oscillation(self, temperature: float) -> float:
        """ω, a bound on the spread of `log π*/π` over the actions of a state: `(2γh + apart)/τ`."""
        return (2.0 * self.growth * self.half_range + self.apart) / temperature

    @property
    def share(self) -> float:
        """The part of ω that was measured; the rest is rounding."""
        whole = 2.0 * self.growth * self.half_range + self.apart
        return 2.0 * self.growth * self.measured / whole if whole > 0.0 else 0.0


@attrs.frozen
class ErrorBound:
    """A bound on `‖g − ∇φ(x)‖₂`, by its parts.

    Args:
        follower: the effect of the follower's error through π* − π and V* − v.
        objective: its effect through the objective's own gradients, including their rounding.
        adjoint: the effect of e and σ.
        rounding: the effect of all other rounding.
    """

    follower: float
    objective: float
    adjoint: float
    rounding: float

    @property
    def total(self) -> float:
        """The bound."""
        return self.follower + self.objective + self.adjoint + self.rounding


@attrs.frozen(eq=False)
class ComputedGradient:
    """A hyper-gradient with everything that it was computed from.

    Args:
        model: the follower's `SoftMDP` at x.
        values: v (S,).
        backup: its backup, with π = π(v).
        weights: r̄ (S, A).
        by_policy: G (S, A).
        direct: `∂f/∂x` (n,).
        implicit: (n,) the pullback of r̄ with the continuation γv.
    """

    model: SoftMDP
    values: Array
    backup: Backup
    weights: Array
    by_policy: Array
    direct: Array
    implicit: Array

    @property
    def gradient(self) -> Array:
        """g (n,)."""
        return self.direct + self.implicit


def error_bound(problem: Any, x: Array, computed: ComputedGradient, follower: FollowerError) -> ErrorBound:
    """The theorem.

    Raises:
        Unbounded: if the problem does not bound its derivatives.
    """
    model, policy, weights = computed.model, computed.backup.policy, computed.weights
    temperature, discount = model.temperature, model.discount
    sizes, rounding = np.abs(weights), pullback_rounding(model, x.size)
    oscillation = follower.oscillation(temperature)
    nearby = NearbyPolicies(policy, np.full(model.states, oscillation))
    slopes = _Slopes.of(problem.lower, x, computed, follower, nearby)

    of_flow = sum_rounding(column_terms(model.transitions) + model.actions)
    scaled = computed.by_policy / temperature
    shift = weights.sum(axis=1) - (policy * scaled).sum(axis=1)
    potential = scaled + shift[:, None]
    leftover = np.abs(weights - policy * potential)
    lost = 4.0 * EPSILON * (sizes + policy * (np.abs(scaled) + np.abs(shift)[:, None]))
    missed = weights.sum(axis=1) - discount * model.transitions.transpose_expectation(weights)

    moved = float((nearby.entries * np.abs(potential) * slopes.advantages).sum()) + float((sizes * slopes.moved).sum())
    likely = np.minimum(policy + nearby.entries, 1.0)
    of_objective = gradient_change(problem.objective, x, nearby, likely * slopes.advantages / temperature)
    adjoint = float((leftover * slopes.advantages).sum()) + float(np.abs(missed).sum()) * slopes.values
    rounded = float((lost * slopes.advantages).sum()) + 2.0 * of_flow * float(sizes.sum()) * slopes.values
    rounded += rounding * float((sizes * slopes.sizes).sum())
    rounded += 4.0 * EPSILON * (length(computed.direct) + length(computed.implicit))
    parts = moved + sum(of_objective) + adjoint + rounded
    # The sums above are rounded too, and doubles that underflowed have no digits.
    rounded += (1.0 - follower.share) * moved + 8.0 * rounding * parts + TINY
    return ErrorBound(follower.share * moved, sum(of_objective), adjoint, rounded)


@attrs.frozen(eq=False)
class _Slopes:
    """Bounds on the sensitivities at V* and π*.

    Args:
        values: on `‖∇V*_s‖₂`, for every state.
        advantages: (S, A) on `‖∇(Q* − V*)_sa‖₂`.
        moved: (S, A) on `‖∇P_sa·γ(V* − v)‖₂`.
        sizes: (S, A) the size of the terms of `∇q_sa(v)`.
    """

    values: float
    advantages: Array
    moved: Array
    sizes: Array

    @classmethod
    def of(
        cls, lower: Any, x: Array, computed: ComputedGradient, follower: FollowerError, nearby: NearbyPolicies
    ) -> _Slopes:
        """`‖∇V*‖ ≤ max_s Σ_a π*‖∇q‖/(1−γ)`, and `∇(Q* − V*)_a = Σ_b π*_b (∇Q*_a − ∇Q*_b)`."""
        discount, values = computed.model.discount, computed.values
        shifted, radius = discount * (values + follower.centre), discount * follower.half_range
        lost = sum_rounding(row_terms(computed.model.transitions)) * (
            maximum_norm(shifted) + discount * abs(follower.centre)
        )
        there = derivative_norms(lower, x, shifted, radius + lost)
        between = derivative_norms(lower, x, np.full_like(values, discount * follower.centre), radius)
        slope = there.rewards.norms + there.transitions.norms
        mean = ((computed.backup.policy + nearby.entries) * slope).sum(axis=1)
        of_values = min(float(mean.max()), float(slope.max())) / (1.0 - follower.growth)
        of_action_values = slope + follower.growth * of_values
        others = np.minimum(nearby.others + nearby.entries, 1.0)
        advantages = others * (of_action_values + of_action_values.max(axis=1, keepdims=True))
        # The continuation that was pulled back is the sum of these two.
        sizes = there.rewards.sizes + there.transitions.sizes + between.transitions.sizes
        return cls(of_values, advantages, between.transitions.norms, sizes)
