"""`I − γP^π`, the derivative of `v − T v`: as an operator, and as a linear system."""

from __future__ import annotations

import numpy as np

from bilevelrl.linear.chain_patterns import COARSEST, ChainStructure
from bilevelrl.linear.factorization import Factorization, solve_with_refinement
from bilevelrl.linear.iterative import Iteration, solve_by_sweeps
from bilevelrl.linear.products import Chain, minus_discounted
from bilevelrl.mdp.transitions import SparseTransitions, Transitions
from bilevelrl.validation.arrays import Array, check_shape


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


# What is larger is solved faster by iteration, whatever γ: states of a dense kernel; of a sparse one, what a
# factorisation may take, and states, since more cost as much to order. The table is in docs/explanation/speed.md.
LARGEST_FACTORED_DENSE = 300
MOST_FACTORING, LARGEST_FACTORED_SPARSE = 5e6, 50_000
# A sparse chain of so few states fits into memory however its factors fill.
SURELY_FITS = 5_000


def iterates(transitions: Transitions, method: str) -> bool:
    """Whether systems of a kernel's chains are solved by iteration.

    Args:
        transitions: the kernel.
        method: "direct", "iterative", or "auto" for what was measured to be faster: see the constants above.
    """
    if method != "auto":
        return method == "iterative"
    if not isinstance(transitions, SparseTransitions) or transitions.states <= LARGEST_FACTORED_DENSE:
        return transitions.states > LARGEST_FACTORED_DENSE
    if transitions.states > LARGEST_FACTORED_SPARSE:
        return True
    return transitions.chains.pattern.envelope_work > MOST_FACTORING


def structure_of(transitions: Transitions) -> ChainStructure | None:
    """What aggregates are made of, where a kernel has it."""
    return transitions.chains if isinstance(transitions, SparseTransitions) else None


def can_be_factored(transitions: Transitions) -> bool:
    """Whether an LU factorisation will fit: not where a sparse chain's aggregates are tied to nearly all others."""
    structure = structure_of(transitions)
    return structure is None or transitions.states <= SURELY_FITS or structure.levels[-1].pattern.size <= COARSEST
