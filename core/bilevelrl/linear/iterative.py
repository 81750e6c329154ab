"""Iterative solves with `I − γP^π` and its transpose: a Krylov method, with aggregation if P is sparse."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import attrs
import numpy as np

from bilevelrl.linear.chain_patterns import ChainStructure
from bilevelrl.linear.factorization import EPSILON
from bilevelrl.linear.multilevel import Aggregation
from bilevelrl.linear.products import Chain, minus_discounted
from bilevelrl.validation.arrays import Array, maximum_norm

# One call of the Krylov method reduces the residual by at most this factor; then the residual is computed again.
LARGEST_REDUCTION = 1e-10
MAXIMUM_CALLS = 8
# A call that leaves a larger fraction of the residual than this has stagnated.
REDUCTION_WANTED = 0.5

# The most iterations of a call, each of two multiplications: they cost about half as much as a factorisation.
DENSE_ITERATIONS, SPARSE_ITERATIONS = 40, 300

LinearMap = Callable[[Array], Array]


@attrs.frozen(eq=False)
class Iterated:
    """The result of an iteration.

    Args:
        answer: (S,) the best x.
        products: its work in multiplications with the matrix; a preconditioner's work is counted by the entries that it
            reads.
        converged: whether `‖b − Ax‖₂` reached the tolerance, or the limit of rounding.
    """

    answer: Array
    products: int
    converged: bool


@attrs.frozen(eq=False)
class Preconditioner:
    """An approximate inverse.

    Args:
        apply: multiplies by it.
        work: the work of `apply`, in multiplications with the matrix.
    """

    apply: LinearMap
    work: float


class Iteration:
    """Iterative solves with `I − γC` and its transpose.

    Args:
        chain: C, a dense or a CSR array (S, S).
        discount: γ.
        structure: the structure of a sparse chain's kernel, whose aggregates give the preconditioner. None: no
            preconditioner.
    """

    def __init__(self, chain: Chain, discount: float, structure: ChainStructure | None) -> None:
        self._chain, self._discount, self._structure = chain, discount, structure
        self._prepared: dict[bool, tuple[LinearMap, Preconditioner | None]] = {}

    def solve(self, right_hand_side: Array, *, transpose: bool, tolerance: float) -> Iterated:
        """See `solve_iteratively`, with this matrix or its transpose."""
        if transpose not in self._prepared:
            self._prepared[transpose] = self._prepare(transpose)
        apply, preconditioner = self._prepared[transpose]
        most = DENSE_ITERATIONS if self._structure is None else SPARSE_ITERATIONS
        return solve_iteratively(apply, preconditioner, right_hand_side, tolerance=tolerance, iterations=most)

    def _prepare(self, transpose: bool) -> tuple[LinearMap, Preconditioner | None]:
        if self._structure is None:
            return self._multiplication(self._chain.T if transpose else self._chain), None
        entries, levels = self._chain.data, self._structure.levels
        if transpose:
            levels, order = self._structure.transposed
            entries = entries[order]
        aggregation = Aggregation(levels, entries, self._discount)
        work = 2.0 * sum(level.pattern.weight for level in levels) / levels[0].pattern.weight
        return self._multiplication(levels[0].pattern.matrix(entries)), Preconditioner(aggregation, work)

    def _multiplication(self, chain: Chain) -> LinearMap:
        return functools.partial(minus_discounted, chain, self._discount)


def solve_iteratively(
    apply: LinearMap,
    preconditioner: Preconditioner | None,
    right_hand_side: Array,
    *,
    tolerance: float,
    iterations: int,
) -> Iterated:
    """Solve `A x = b` to `‖b − Ax‖₂ ≤ tolerance·‖b‖₂` by BiCGSTAB (van der Vorst 1992), restarted when it stalls.

    Args:
        apply: multiplies by A.
        preconditioner: an approximate inverse of A; None for the identity.
        right_hand_side: b (S,).
        tolerance: relative, at least 0; a tolerance below rounding is raised to rounding.
        iterations: the most iterations of one call of the method, each of two multiplications; it is called a few
            times.
    """
    import scipy.sparse.linalg

    products, work = 0, 1.0 + (0.0 if preconditioner is None else preconditioner.work)

    def counted(vector: Array) -> Array:
        nonlocal products
        products += 1
        return apply(vector)

    size = right_hand_side.size
    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=counted, dtype=np.float64)
    inverse = preconditioner and scipy.sparse.linalg.LinearOperator(
        (size, size), matvec=preconditioner.apply, dtype=np.float64
    )
    answer, residual = np.zeros_like(right_hand_side), right_hand_side
    norm = scale = _norm(right_hand_side)
    for call in itertools.count():
        # Rounding in A x alone causes a residual of this size.
        rounding = 4 * EPSILON * (scale + 2.0 * _norm(answer))
        goal = max(tolerance * scale, rounding)
        if norm <= goal or call == MAXIMUM_CALLS or not np.isfinite(norm):
            break
        # A right-hand side of norm one, since the method's own tests for breakdown are absolute.
        step, _ = scipy.sparse.linalg.bicgstab(
            operator,
            residual / norm,
            rtol=max(0.5 * goal / norm, LARGEST_REDUCTION),
            atol=0.0,
            maxiter=iterations,
            M=inverse,
        )
        candidate = answer + norm * step
        left = right_hand_side - counted(candidate)
        left_norm = _norm(left)
        if not left_norm <= REDUCTION_WANTED * norm:
            # Near rounding the residual stops falling, and the answer cannot be improved.
            goal = max(goal, 100 * rounding)
            break
        answer, residual, norm = candidate, left, left_norm
    return Iterated(answer, math.ceil(products * work), norm <= goal)


def solve_by_sweeps(apply: LinearMap, right_hand_side: Array, *, tolerance: float, discount: float) -> Iterated:
    """Solve `(I − γC) x = b` by `x ← b + γCx`. It converges by γ per step for every stochastic C or its transpose.

    Used if no faster method works. Arguments as of `solve_iteratively`; γ bounds the number of steps.
    """
    answer, residual, products = np.zeros_like(right_hand_side), right_hand_side, 0
    norm = scale = _norm(right_hand_side)
    rounding = 0.0
    most = math.ceil(math.log(EPSILON) / math.log(discount)) if discount > 0 else 1
    while norm > max(tolerance * scale, rounding) and products <= most and np.isfinite(norm):
        answer = answer + residual
        residual, products = right_hand_side - apply(answer), products + 1
        norm = _norm(residual)
        rounding = 4 * EPSILON * (scale + 2.0 * _norm(answer))
    return Iterated(answer, products, norm <= max(tolerance * scale, 100 * rounding))


def _norm(vector: Array) -> float:
    """`‖v‖₂`, without underflow or overflow of the squares."""
    largest = maximum_norm(vector)
    return largest if largest == 0.0 or not np.isfinite(largest) else largest * float(np.linalg.norm(vector / largest))
