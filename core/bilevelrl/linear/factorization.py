"""Factorisations of `I − γP^π`, dense and sparse, and solves with the factorisation of a nearby matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.linear.products import Chain
from bilevelrl.validation.arrays import Array

EPSILON = float(np.finfo(np.float64).eps)

# A step of refinement must shrink the residual at least this much, or a fresh factorisation is cheaper: it costs as
# much as 40 (dense, S = 1000) to 70 (a grid of 250,000 states) steps.
CONTRACTION_WANTED = 0.3
MAXIMUM_REFINEMENTS = 32


class Factorization:
    """An LU factorisation of `I − γP^π` that solves with the matrix and with its transpose."""

    def __init__(self, solve: Callable[[Array, bool], Array]) -> None:
        self.solve = solve

    @classmethod
    def of(cls, chain: Chain, discount: float) -> Factorization:
        """Factor `I − γ·chain`: LAPACK for an ndarray, SuperLU for a sparse array."""
        import scipy.linalg

        size = chain.shape[0]
        if scipy.sparse.issparse(chain):
            factors = _superlu(chain, discount)
            return cls(lambda b, transpose: factors.solve(b, "T" if transpose else "N"))
        matrix = chain * -discount
        matrix.flat[:: size + 1] += 1.0
        # The transpose of a row-major array is column-major, as LAPACK requires: it is factored in place, without a
        # copy. No finiteness check: a non-finite model must be reported as a status, not as an exception from LAPACK.
        dense = scipy.linalg.lu_factor(matrix.T, overwrite_a=True, check_finite=False)
        return cls(lambda b, transpose: scipy.linalg.lu_solve(dense, b, trans=int(not transpose), check_finite=False))


def factorization_work(chain: Any) -> float:
    """Multiplications of factoring a sparse `I − γ·chain`, and of one solve with the factors."""
    factors = _superlu(chain, 0.5)
    below = np.diff(factors.L.tocsc().indptr) - 1.0
    right = np.diff(factors.U.tocsr().indptr) - 1.0
    return float(below @ right) + float(factors.L.nnz + factors.U.nnz)


def _superlu(chain: Any, discount: float) -> Any:
    import scipy.sparse.linalg

    matrix = scipy.sparse.csc_array(scipy.sparse.eye_array(chain.shape[0]) - discount * chain)
    return scipy.sparse.linalg.splu(matrix, **_superlu_options(chain))


def _superlu_options(chain: Any) -> dict[str, Any]:
    """An ordering for the union of the pattern and its transpose if they nearly agree, which gives less than half the
    fill.

    `I − γP^π` is strictly diagonally dominant by rows, so that pivots on the diagonal are stable.
    """
    pattern = scipy.sparse.csr_array((np.ones(chain.nnz), chain.indices, chain.indptr), shape=chain.shape)
    union = (pattern + pattern.T).nnz
    if union > 1.5 * chain.nnz:
        return {}
    return {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


def solve_with_refinement(
    nearby: Factorization, apply: Callable[[Array], Array], right_hand_side: Array, transpose: bool
) -> Array | None:
    """Solve `A x = b` with the factorisation of a matrix near A; None if the matrix is not near enough.

    Each step reduces the residual in proportion to the distance of the two matrices, so the factorisation of the Newton
    step before convergence needs two or three steps to reach rounding.
    """
    answer = nearby.solve(right_hand_side, transpose)
    scale = float(np.abs(right_hand_side).max())
    previous = np.inf
    for _ in range(MAXIMUM_REFINEMENTS):
        remainder = right_hand_side - apply(answer)
        size = float(np.abs(remainder).max())
        floor = 4 * EPSILON * (scale + 2.0 * float(np.abs(answer).max()))
        if size <= floor:
            return answer
        if not size <= CONTRACTION_WANTED * previous:
            # Near rounding the residual stops falling, and the answer cannot be improved.
            return answer if size <= 100 * floor else None
        answer = answer + nearby.solve(remainder, transpose)
        previous = size
    return None
