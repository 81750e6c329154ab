"""The soft Bellman operator: its policy, its linearisation and its adjoint.

Shapes are checked on the way in: compiled loops read what they are told to, beyond an array's end too.

For `v` (S,), with r, P, γ, τ and the reference measure μ of a `SoftMDP`:

    q_sa(v) = r_sa + γ Σ_s' P_sas' v_s'
    (T v)_s = τ log Σ_a μ_sa exp(q_sa(v)/τ)
    π_sa(v) = μ_sa exp((q_sa(v) − (T v)_s)/τ)

`V* = T V*` is the value of the follower's optimal policy `π* = π(V*)`. T is a γ-contraction in the maximum norm and
`∂T/∂v = γP^π`. Source of the fixed-point view: Yang, Gao and Yuan, AISTATS 2025, section 3 (arXiv 2405.19697).
"""

from __future__ import annotations

import numpy as np

from bilevelrl.iterative import Iteration, can_be_factored, iterates, solve_by_sweeps, structure_of
from bilevelrl.linear_systems import Factorization, solve_with_refinement
from bilevelrl.mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.passes import Backup, passes_over
from bilevelrl.products import minus_discounted
from bilevelrl.transitions import Chain, Transitions
from bilevelrl.validation import Array, check_shape


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
    """A backup and its derivative `I − γP^π(v)`; of a large kernel both come from one pass over the transitions.

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


class Linearization:
    """The derivative of `v − T v` at a policy: `I − γP^π`, as an operator and as a linear system.

    The chain is formed, and factored, only when first needed. Solving reuses `factorization` where one is given, even
    that of a *nearby* policy (the last Newton step's): iterative refinement against the true matrix makes the answer
    as good as a fresh factorisation, and falls back to one if the other is too far away.

    Large systems are solved by iteration, a preconditioned Krylov method, where that is faster than factoring. An
    iteration that stagnates gives way to a factorisation, or to plain sweeps, and `fell_back` says so.

    Args:
        transitions: P.
        discount: γ.
        policy: π (S, A).
        factorization: a factorisation of `I − γP^π'` for some π' near π.
        chain: `P^π`, where it is known already.
        method: "direct", "iterative", or "auto": the faster one, by the rules in `iterative`.

    Attributes:
        fell_back: whether an iteration stagnated, so that something slower had to take over.
        iterated: what iterations took so far, in products with the chain.
    """

    def __init__(
        self,
        transitions: Transitions,
        discount: float,
        policy: Array,
        factorization: Factorization | None = None,
        *,
        chain: Chain | None = None,
        method: str = "auto",
    ) -> None:
        self.transitions = transitions
        self.discount = discount
        self.policy = policy
        self.factorization = factorization
        self.method = method
        self.fell_back = False
        self.iterated = 0
        self._chain = chain
        self._iteration: Iteration | None = None

    @property
    def iterates(self) -> bool:
        """Whether systems are solved by iteration, so that a looser tolerance is cheaper."""
        return iterates(self.transitions, self.method) and self.factorization is None

    @property
    def chain(self) -> Chain:
        """`P^π` (S, S)."""
        if self._chain is None:
            check_shape("policy", self.policy, (self.transitions.states, self.transitions.actions))
            self._chain = self.transitions.under(self.policy)
        return self._chain

    def apply(self, values: Array) -> Array:
        """`(I − γP^π) v` for v (S,), or for each column of (S, n)."""
        check_shape("values", values, (self.transitions.states, *values.shape[1:]))
        product: Array = minus_discounted(self.chain, self.discount, values)
        return product

    def apply_transpose(self, weights: Array) -> Array:
        """`(I − γP^π)ᵀ w` for w (S,), or for each column of (S, n)."""
        check_shape("weights", weights, (self.transitions.states, *weights.shape[1:]))
        product: Array = minus_discounted(self.chain.T, self.discount, weights)
        return product

    def solve(self, right_hand_side: Array, *, tolerance: float = 0.0) -> Array:
        """`(I − γP^π)^{-1} b`.

        Args:
            right_hand_side: b (S,).
            tolerance: an iteration may stop at `‖b − Ax‖₂ ≤ tolerance·‖b‖₂`; 0: at rounding.
        """
        return self._solve(right_hand_side, tolerance, transpose=False)

    def solve_transpose(self, right_hand_side: Array, *, tolerance: float = 0.0) -> Array:
        """`(I − γP^π)^{-T} b`; arguments as of `solve`."""
        return self._solve(right_hand_side, tolerance, transpose=True)

    def factorize(self) -> Factorization:
        """The exact factorisation of this matrix, kept for later solves."""
        self.factorization = Factorization.of(self.chain, self.discount)
        return self.factorization

    def _solve(self, right_hand_side: Array, tolerance: float, *, transpose: bool) -> Array:
        check_shape("right_hand_side", right_hand_side, (self.transitions.states,))
        apply = self.apply_transpose if transpose else self.apply
        if self.factorization is not None:
            answer = solve_with_refinement(self.factorization, apply, right_hand_side, transpose)
            if answer is not None:
                return answer
        elif self.iterates:
            if self._iteration is None:
                self._iteration = Iteration(self.chain, self.discount, structure_of(self.transitions))
            found = self._iteration.solve(right_hand_side, transpose=transpose, tolerance=tolerance)
            self.iterated += found.products
            if found.converged or not np.isfinite(right_hand_side).all():
                return found.answer
            self.fell_back = True
        exact = self._factorized_within_memory()
        if exact is None:
            swept = solve_by_sweeps(apply, right_hand_side, tolerance=tolerance, discount=self.discount)
            self.iterated += swept.products
            return swept.answer
        # One unconditional refinement step costs S² beside the S³ just spent, and buys the last digits at γ near 1.
        answer = exact.solve(right_hand_side, transpose)
        answer += exact.solve(right_hand_side - apply(answer), transpose)
        return answer

    def _factorized_within_memory(self) -> Factorization | None:
        if not can_be_factored(self.transitions):
            self.fell_back = True
            return None
        try:
            return self.factorize()
        except MemoryError:
            self.fell_back = True
            return None


def policy_values(mdp: SoftMDP, policy: Array, *, regularized: bool = True) -> Array:
    """The value (S,) of a policy: `V^π = (I − γP^π)^{-1} Σ_a π_sa (r_sa − τ log(π_sa/μ_sa))`.

    With `regularized=False` the entropy term is left out: the true return of the policy.
    """
    check_shape("policy", policy, mdp.rewards.shape)
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

    At the exact adjoint λ it obeys the flow equation `Σ_a r̄_sa = γ Σ_s'a' P_s'a's r̄_s'a'`, so `Σ r̄ = 0`: constants
    and potential shaping change nothing.
    """
    weights = policy * adjoint[:, None]
    weights += cotangent
    return DenseOccupancy(weights, mdp.discount * values)
