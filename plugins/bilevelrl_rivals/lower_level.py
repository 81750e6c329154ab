"""The follower's problem as an optimisation over policies: its value, its gradient, its second derivatives.

`J(x, π) = V^π_x(ρ)`, regularised, with softmax logits θ:

    A_sa      = r_sa − τ log(π_sa/μ_sa) + γ(PV^π)_sa − V^π_s
    d_s       = Σ_t γ^t Pr(s_t = s)
    ∂J/∂θ_sa  = d_s π_sa A_sa                                  (Sutton et al. 2000, with the regulariser's term)
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

import bilevelrl as bl


def start_distribution(model: bl.SoftMDP, initial: str) -> bl.Array:
    """ρ of J: the follower's "own", or "uniform" over all states."""
    return model.initial if initial == "own" else np.full(model.states, 1.0 / model.states)


@attrs.frozen(eq=False)
class LowerLevel:
    """J and its derivatives at one policy.

    Args:
        model: the follower's MDP.
        policy: π (S, A), any policy.
        system: solves with `I − γP^π` and its transpose.
        values: `V^π` (S,), regularised.
        visits: d (S,).
        advantage: A (S, A); zero where π is zero.
    """

    model: bl.SoftMDP
    policy: bl.Array
    system: bl.mdp.Linearization
    values: bl.Array
    visits: bl.Array
    advantage: bl.Array

    @classmethod
    def at(cls, model: bl.SoftMDP, system: bl.mdp.Linearization, initial: bl.Array) -> LowerLevel:
        """J at the policy of `system`, from ρ = `initial`: two linear solves, one pass over P."""
        policy = system.policy
        taken = policy > 0  # 0·log 0 = 0: an action that is never taken contributes to no value and no derivative
        log_policy = np.log(policy, out=np.zeros_like(policy), where=taken)
        log_reference = 0.0 if model.reference is None else np.log(model.reference)
        rewards = model.rewards - model.temperature * (log_policy - log_reference)
        values = system.solve((policy * rewards).sum(axis=1))
        visits = np.maximum(system.solve_transpose(initial), 0.0)  # rounding may give an unreached state −1e-17
        advantage = rewards + model.discount * model.transitions.expectation(values) - values[:, None]
        return cls(model, policy, system, values, visits, np.where(taken, advantage, 0.0))

    @property
    def metric(self) -> bl.Array:
        """`τ d π` (S, A): `−∇²_θθ J` at the optimum is `u ↦ metric ⊙ (u − Σ_a π u)`, τ times the Fisher information."""
        return self.model.temperature * self.visits[:, None] * self.policy

    def tangent(self, direction: bl.Array) -> tuple[bl.Array, bl.Array, bl.Array, bl.Array]:
        """`ũ = u − Σ_a πu`, and the derivatives along u: `π' = π⊙ũ` (S, A), `V'` (S,), `d'` (S,).

        `(I − γP^π) V' = Σ_a π'A` and `(I − γP^π)ᵀ d' = γPᵀ(d π')`: two linear solves, one pass over P.
        """
        centred = direction - (self.policy * direction).sum(axis=1, keepdims=True)
        policy = self.policy * centred
        values = self.system.solve((policy * self.advantage).sum(axis=1))
        inflow = self.model.transitions.transpose_expectation(self.visits[:, None] * policy)
        visits = self.system.solve_transpose(self.model.discount * inflow)
        return centred, policy, values, visits

    def hessian_product(self, direction: bl.Array) -> bl.Array:
        """`−∇²_θθ J · u` (S, A): forward over reverse, no Hessian.

        The derivative of `d π A` along u is `d'πA + dπ'A + dπA'` with `A' = −τũ + γPV' − V'`. At the optimum A and V'
        vanish and the result is `metric ⊙ ũ`; away from it the Hessian is indefinite.
        """
        centred, policy, values, visits = self.tangent(direction)
        moved = self.model.discount * self.model.transitions.expectation(values) - values[:, None]
        moved -= self.model.temperature * centred
        product = visits[:, None] * self.policy * self.advantage
        product += self.visits[:, None] * (policy * self.advantage + self.policy * moved)
        return -product

    def mixed_product(self, lower: Any, x: bl.Array, direction: bl.Array, *, own_initial: bool) -> bl.Array:
        """`∇²_xθ J · u` (n,): the derivative in x of `⟨∇_θ J, u⟩`, by two pullbacks.

        `∂_x J` is the pullback of `w = dπ` with the continuation γV and the initial cotangent V. Along u these
        change by `w' = d'π + dπ'`, γV' and V', so the cotangent of r is w', that of P is `w'⊗γV + w⊗γV'`, that of ρ is
        V'. A pullback takes one outer product: for any t > 0,

            w'⊗γV + w⊗γV' = (w' + tw) ⊗ γV  −  tw ⊗ γ(V − V'/t)

        and both sides have w' as the cotangent of r. With `t = ‖w'‖₁/‖w‖₁` nothing large cancels. At the optimum V' = 0
        and the whole is the pullback of w', the signed occupancy of `bilevelrl.mdp.adjoint_occupancy`.
        """
        _, policy, values, visits = self.tangent(direction)
        occupancy = self.visits[:, None] * self.policy
        moved = visits[:, None] * self.policy + self.visits[:, None] * policy
        size = float(np.abs(moved).sum() / occupancy.sum())
        if size == 0.0:
            return np.zeros_like(x)
        discount, share = self.model.discount, size * occupancy
        first = bl.occupancy.DenseOccupancy(moved + share, discount * self.values, values if own_initial else None)
        second = bl.occupancy.DenseOccupancy(-share, discount * (self.values - values / size))
        return np.asarray(lower.pullback(x, first) + lower.pullback(x, second))
