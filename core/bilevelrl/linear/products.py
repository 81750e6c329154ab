"""Products of a matrix and a vector, dense or sparse, large or small."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

# Products of at least so many entries use SciPy's BLAS; smaller ones use NumPy's, which has less overhead.
LARGE = 1 << 16


def times(matrix: Any, vector: Any) -> Any:
    """`matrix · vector` for an ndarray or a scipy sparse array.

    NumPy and SciPy each include a BLAS of their own, whose threads keep spinning for a tenth of a second after each
    call: on two processors, a factorisation by SciPy's takes twice as long after a product by NumPy's. Therefore large
    products use SciPy's BLAS too.
    """
    if not isinstance(matrix, np.ndarray) or matrix.size < LARGE or not _are_plain(matrix, vector):
        return matrix.dot(vector)
    from scipy.linalg.blas import dgemv

    if matrix.flags.c_contiguous:
        return dgemv(1.0, matrix.T, vector, trans=1)
    return dgemv(1.0, matrix, vector) if matrix.flags.f_contiguous else matrix.dot(vector)


def minus_discounted(chain: Any, discount: float, vector: Any) -> Any:
    """`(I − γ·chain) · vector`."""
    product = times(chain, vector)
    product *= -discount
    product += vector
    return product


def _are_plain(matrix: Any, vector: Any) -> bool:
    fit = matrix.ndim == 2 and vector.ndim == 1 and matrix.shape[1] == vector.size
    return bool(fit and matrix.dtype == vector.dtype == np.float64)


Chain: TypeAlias = Any
"""A Markov chain (S, S): an ndarray (dense) or a scipy CSR array (sparse)."""
