"""The soft Bellman operator: its policy, its linearisation and its adjoint.

For `v` (S,), with r, P, γ, τ and the reference measure μ of a `SoftMDP`:

    q_sa(v) = r_sa + γ Σ_s' P_sas' v_s'
    (T v)_s = τ log Σ_a μ_sa exp(q_sa(v)/τ)
    π_sa(v) = μ_sa exp((q_sa(v) − (T v)_s)/τ)

`V* = T V*` is the value of the follower's optimal policy `π* = π(V*)`. T is a γ-contraction in the maximum norm and
`∂T/∂v = γP^π`. Source of the fixed-point view: Yang, Gao and Yuan, AISTATS 2025, section 3 (arXiv 2405.19697).
"""

from __future__ import annotations

import attrs
import numpy as np

from bilevelrl.linear_systems import Factorization, solve_with_refinement
from bilevelrl.mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.transitions import Chain, Transitions
from bilevelrl.validation import Array, maximum_norm


@attrs.frozen(eq=False)
class Backup:
    """What one pass over the transitions yields at `v`.

    Args:
        values: `T v` (S,).
        policy: `π(v)` (S, A), rows sum to one.
        action_values: `q(v)` (S, A), without the reference measure's term.
    """

    values: Array
    policy: Array
    action_values: Array


# e^±500 leaves room on both sides of float64's range for a sum over actions.
SAFE_EXPONENT = 500.0


def soft_bellman(mdp: SoftMDP, values: Array, sweeps: int = 1) -> Array:
    """`T v` (S,), or `T^N v` for `sweeps` = N, by log-sum-exps that neither overflow nor underflow.

    Iterates on `u = v/τ`, where a backup is `u ← log Σ_a exp(z_sa)` with `z = r/τ + log μ + γPu`. The first sweep
    shifts z by its largest entry in each state. Later ones need not look for it: shifting by u itself leaves
    `Σ_a exp(z_sa − u_s) = exp((Tu − u)_s)`, and T is a γ-contraction, so `|Tu − u|` never exceeds its first value.
    """
    expectation, scaled_rewards, discount = mdp.transitions.expectation, mdp.scaled_rewards, mdp.discount
    before = values / mdp.temperature
    scaled = _scaled_backup(expectation(before * discount), scaled_rewards)
    if sweeps > 1:
        shift_by_value = maximum_norm(scaled - before) <= SAFE_EXPONENT
        ones, column = np.ones(mdp.actions), scaled[:, None]
        for _ in range(sweeps - 1):
            preferences = expectation(scaled * discount)
            if shift_by_value:
                preferences += scaled_rewards
                preferences -= column
                np.exp(preferences, preferences)
                change = preferences.dot(ones)  # sums over actions, faster than a reduction
                scaled += np.log(change, change)
            else:
                scaled = _scaled_backup(preferences, scaled_rewards)
    scaled *= mdp.temperature
    return scaled


def _scaled_backup(preferences: Array, scaled_rewards: Array) -> Array:
    """`log Σ_a exp(preferences + scaled_rewards)`, shifted by the largest; overwrites `preferences`."""
    preferences += scaled_rewards
    largest: Array = np.maximum.reduce(preferences, 1)
    preferences -= largest[:, None]
    np.exp(preferences, preferences)
    total: Array = np.add.reduce(preferences, 1)
    np.log(total, total)
    total += largest
    return total


def soft_backup(mdp: SoftMDP, values: Array) -> Backup:
    """`T v`, `π(v)` and `q(v)` from one pass over the transitions."""
    action_values = mdp.transitions.expectation(values)
    action_values *= mdp.discount
    preferences = action_values / mdp.temperature
    preferences += mdp.scaled_rewards
    action_values += mdp.rewards
    largest = np.maximum.reduce(preferences, 1)
    preferences -= largest[:, None]
    np.exp(preferences, preferences)
    total = np.add.reduce(preferences, 1)
    # Normalising by the sum, not by exp(−Tv/τ), keeps rows at one to rounding even where |q|/τ is 1e6.
    preferences /= total[:, None]
    backed_up = np.log(total)
    backed_up += largest
    backed_up *= mdp.temperature
    return Backup(backed_up, preferences, action_values)


class Linearization:
    """The derivative of `v − T v` at a policy: `I − γP^π`, as an operator and as a linear system.

    The chain is formed and factored only when first needed. Solving reuses `factorization` where one is given, even
    that of a *nearby* policy (the last Newton step's): iterative refinement against the true matrix makes the answer
    as good as a fresh factorisation, and falls back to one if the other is too far away.

    Args:
        transitions: P.
        discount: γ.
        policy: π (S, A).
        factorization: a factorisation of `I − γP^π'` for some π' near π.
    """

    def __init__(
        self,
        transitions: Transitions,
        discount: float,
        policy: Array,
        factorization: Factorization | None = None,
    ) -> None:
        self.transitions = transitions
        self.discount = discount
        self.policy = policy
        self.factorization = factorization
        self._chain: Chain = None

    @property
    def chain(self) -> Chain:
        """`P^π` (S, S)."""
        if self._chain is None:
            self._chain = self.transitions.under(self.policy)
        return self._chain

    def apply(self, values: Array) -> Array:
        """`(I − γP^π) v`."""
        product: Array = self.chain.dot(values)
        product *= -self.discount
        product += values
        return product

    def apply_transpose(self, weights: Array) -> Array:
        """`(I − γP^π)ᵀ w`."""
        product: Array = self.chain.T.dot(weights)
        product *= -self.discount
        product += weights
        return product

    def solve(self, right_hand_side: Array) -> Array:
        """`(I − γP^π)^{-1} b`."""
        return self._solve(right_hand_side, transpose=False)

    def solve_transpose(self, right_hand_side: Array) -> Array:
        """`(I − γP^π)^{-T} b`."""
        return self._solve(right_hand_side, transpose=True)

    def factorize(self) -> Factorization:
        """The exact factorisation of this matrix, kept for later solves."""
        self.factorization = Factorization.of(self.chain, self.discount)
        return self.factorization

    def _solve(self, right_hand_side: Array, *, transpose: bool) -> Array:
        apply = self.apply_transpose if transpose else self.apply
        if self.factorization is not None:
            answer = solve_with_refinement(self.factorization, apply, right_hand_side, transpose)
            if answer is not None:
                return answer
        exact = self.factorize()
        # One unconditional refinement step costs S² beside the S³ just spent, and buys the last digits at γ near 1.
        answer = exact.solve(right_hand_side, transpose)
        answer += exact.solve(right_hand_side - apply(answer), transpose)
        return answer


def policy_values(mdp: SoftMDP, policy: Array, *, regularized: bool = True) -> Array:
    """The value (S,) of a policy: `V^π = (I − γP^π)^{-1} Σ_a π_sa (r_sa − τ log(π_sa/μ_sa))`.

    With `regularized=False` the entropy term is left out: the true return of the policy.
    """
    rewards = mdp.rewards
    if regularized:
        # 0·log 0 = 0: an action never taken costs nothing.
        log_policy = np.log(policy, out=np.zeros_like(policy), where=policy > 0)
        log_reference = 0.0 if mdp.reference is None else np.log(mdp.reference)
        rewards = rewards - mdp.temperature * (log_policy - log_reference)
    system = Linearization(mdp.transitions, mdp.discount, policy)
    return system.solve((policy * rewards).sum(axis=1))


def discounted_occupancy(mdp: SoftMDP, policy: Array, initial: Array | None = None) -> Array:
    """`d_sa = Σ_t γ^t Pr(s_t = s, a_t = a)` (S, A) from `initial` (default: the MDP's ρ); sums to `1/(1−γ)`."""
    start = mdp.initial if initial is None else initial
    states = Linearization(mdp.transitions, mdp.discount, policy).solve_transpose(start)
    return states[:, None] * policy


def policy_cotangent(mdp: SoftMDP, policy: Array, policy_gradient: Array) -> Array:
    """`c = π ⊙ ∂f/∂π / τ` (S, A): the cotangent of `Q − V` under `dπ = (π/τ)(dQ − dV)`."""
    return policy * policy_gradient / mdp.temperature


def adjoint_right_hand_side(mdp: SoftMDP, cotangent: Array) -> Array:
    """`γPᵀc − Σ_a c` (S,), the right-hand side of the adjoint equation `(I − γP^π)ᵀλ = γPᵀc − Σ_a c`."""
    inflow = mdp.transitions.transpose_expectation(cotangent)
    inflow *= mdp.discount
    inflow -= np.add.reduce(cotangent, 1)
    return inflow


def adjoint_occupancy(mdp: SoftMDP, policy: Array, values: Array, cotangent: Array, adjoint: Array) -> DenseOccupancy:
    """The signed occupancy `r̄ = c + π ⊙ λ` (S, A) with its continuation `γV` (S,).

    At the exact adjoint λ it obeys the flow equation `Σ_a r̄_sa = γ Σ_s'a' P_s'a's r̄_s'a'`, so `Σ r̄ = 0`: constants
    and potential shaping change nothing.
    """
    weights = policy * adjoint[:, None]
    weights += cotangent
    return DenseOccupancy(weights, mdp.discount * values)
