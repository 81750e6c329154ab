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

    The chain is formed and factored at its first use. Solving reuses `factorization` if one is given, even that of a
    *nearby* policy (of the last Newton step): iterative refinement against the true matrix makes the answer as accurate
    as a new factorisation. If the nearby matrix is too far away, a new one is made.

    Large systems are solved by iteration, a preconditioned Krylov method, if that is faster than factoring. If an
    iteration stagnates, a factorisation or plain sweeps replace it, and `fell_back` is True.

    Args:
        transitions: P.
        discount: γ.
        policy: π (S, A).
        factorization: a factorisation of `I − γP^π'` for some π' near π.
        chain: `P^π`, if it is already known.
        method: "direct", "iterative", or "auto": the faster one, by the rules in `iterative`.

    Attributes:
        fell_back: whether an iteration stagnated and a slower method replaced it.
        iterated: the number of products with the chain in iterations so far.
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
        # One refinement step always follows: it costs S² after the factorisation's S³, and gives the last digits at γ
        # near 1.
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


# Larger systems are solved faster by iteration, for every γ. The limits are the states of a dense kernel, and, for a
# sparse one, the work of a factorisation, and states, since ordering more of them costs as much. The table is in
# docs/explanation/speed.md.
LARGEST_FACTORED_DENSE = 300
MOST_FACTORING, LARGEST_FACTORED_SPARSE = 5e6, 50_000
# The factors of a sparse chain of so few states fit into memory for any pattern.
SURELY_FITS = 5_000


def iterates(transitions: Transitions, method: str) -> bool:
    """Whether systems of a kernel's chains are solved by iteration.

    Args:
        transitions: the kernel.
        method: "direct", "iterative", or "auto" for the faster one by measurements: see the constants above.
    """
    if method != "auto":
        return method == "iterative"
    if not isinstance(transitions, SparseTransitions) or transitions.states <= LARGEST_FACTORED_DENSE:
        return transitions.states > LARGEST_FACTORED_DENSE
    if transitions.states > LARGEST_FACTORED_SPARSE:
        return True
    return transitions.chains.pattern.envelope_work > MOST_FACTORING


def structure_of(transitions: Transitions) -> ChainStructure | None:
    """The structure that gives aggregates; None if the kernel has none."""
    return transitions.chains if isinstance(transitions, SparseTransitions) else None


def can_be_factored(transitions: Transitions) -> bool:
    """Whether an LU factorisation will fit: not if a sparse chain's aggregates are connected to nearly all others."""
    structure = structure_of(transitions)
    return structure is None or transitions.states <= SURELY_FITS or structure.levels[-1].pattern.size <= COARSEST
