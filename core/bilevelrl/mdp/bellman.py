"""The soft Bellman operator: its policy, its linearisation and its adjoint.

Shapes are checked first, since compiled loops do not check the bounds of arrays.

For `v` (S,), with r, P, γ, τ and the reference measure μ of a `SoftMDP`:

    q_sa(v) = r_sa + γ Σ_s' P_sas' v_s'
    (T v)_s = τ log Σ_a μ_sa exp(q_sa(v)/τ)
    π_sa(v) = μ_sa exp((q_sa(v) − (T v)_s)/τ)

`V* = T V*` is the value of the follower's optimal policy `π* = π(V*)`. T is a γ-contraction in the maximum norm and
`∂T/∂v = γP^π`. Source of the fixed-point view: Yang, Gao and Yuan, AISTATS 2025, section 3 (arXiv 2405.19697).
"""

from __future__ import annotations

import numpy as np

from bilevelrl.linear.factorization import Factorization
from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.passes import Backup, passes_over
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.validation.arrays import Array, check_shape


def soft_bellman(mdp: SoftMDP, values: Array, sweeps: int = 1) -> Array:
    """`T v` (S,), or `T^N v` for `sweeps` = N, by log-sum-exps that neither overflow nor underflow."""
    check_shape("values", values, (mdp.states,))
    return passes_over(mdp.transitions).sweeps(mdp, values, sweeps)


def soft_backup(mdp: SoftMDP, values: Array) -> Backup:
    """`T v`, `π(v)` and `q(v)` from one pass over the transitions."""
    check_shape("values", values, (mdp.states,))
    return passes_over(mdp.transitions).backup(mdp, values)


def linearized_backup(
    mdp: SoftMDP, values: Array, *, factorization: Factorization | None = None, method: str = "auto"
) -> tuple[Backup, Linearization]:
    """A backup and its derivative `I − γP^π(v)`; for a large kernel one pass over the transitions gives both.

    Args:
        mdp: the follower's MDP.
        values: v (S,).
        factorization: see `Linearization`.
        method: see `Linearization`.
    """
    check_shape("values", values, (mdp.states,))
    backup, chain = passes_over(mdp.transitions).linearized(mdp, values)
    system = Linearization(mdp.transitions, mdp.discount, backup.policy, factorization, chain=chain, method=method)
    return backup, system


def policy_values(mdp: SoftMDP, policy: Array, *, regularized: bool = True) -> Array:
    """The value (S,) of a policy: `V^π = (I − γP^π)^{-1} Σ_a π_sa (r_sa − τ log(π_sa/μ_sa))`.

    With `regularized=False` the entropy term is left out: the true return of the policy.
    """
    check_shape("policy", policy, mdp.rewards.shape)
    rewards = mdp.rewards
    if regularized:
        # 0·log 0 = 0: an action that is never taken contributes nothing.
        log_policy = np.log(policy, out=np.zeros_like(policy), where=policy > 0)
        log_reference = 0.0 if mdp.reference is None else np.log(mdp.reference)
        rewards = rewards - mdp.temperature * (log_policy - log_reference)
    system = Linearization(mdp.transitions, mdp.discount, policy)
    return system.solve((policy * rewards).sum(axis=1))


def discounted_occupancy(mdp: SoftMDP, policy: Array, initial: Array | None = None) -> Array:
    """`d_sa = Σ_t γ^t Pr(s_t = s, a_t = a)` (S, A) from `initial` (default: the MDP's ρ); sums to `1/(1−γ)`."""
    check_shape("policy", policy, mdp.rewards.shape)
    start = mdp.initial if initial is None else initial
    check_shape("initial", start, (mdp.states,))
    states = Linearization(mdp.transitions, mdp.discount, policy).solve_transpose(start)
    return states[:, None] * policy


def policy_cotangent(mdp: SoftMDP, policy: Array, policy_gradient: Array) -> Array:
    """`c = π ⊙ ∂f/∂π / τ` (S, A): the cotangent of `Q − V` under `dπ = (π/τ)(dQ − dV)`."""
    return policy * policy_gradient / mdp.temperature


def adjoint_right_hand_side(mdp: SoftMDP, cotangent: Array) -> Array:
    """`γPᵀc − Σ_a c` (S,), the right-hand side of the adjoint equation `(I − γP^π)ᵀλ = γPᵀc − Σ_a c`."""
    check_shape("cotangent", cotangent, mdp.rewards.shape)
    inflow = mdp.transitions.transpose_expectation(cotangent)
    inflow *= mdp.discount
    inflow -= np.add.reduce(cotangent, 1)
    return inflow


def adjoint_occupancy(mdp: SoftMDP, policy: Array, values: Array, cotangent: Array, adjoint: Array) -> DenseOccupancy:
    """The signed occupancy `r̄ = c + π ⊙ λ` (S, A) with its continuation `γV` (S,).

    At the exact adjoint λ it satisfies the flow equation `Σ_a r̄_sa = γ Σ_s'a' P_s'a's r̄_s'a'`, so `Σ r̄ = 0`:
    constants and potential shaping of the reward have no effect.
    """
    weights = policy * adjoint[:, None]
    weights += cotangent
    return DenseOccupancy(weights, mdp.discount * values)
