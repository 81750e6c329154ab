"""Transition kernels P(s'|s,a): dense and sparse storage behind one interface.

The framework uses a kernel only through the expectation `P v`, its transpose `Pᵀ c`, the chain `P^π` of a policy, and
single rows. Implementations are immutable, and validated once, when they are made.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.execution.threads import over_ranges
from bilevelrl.linear.chain_patterns import ChainStructure
from bilevelrl.linear.products import Chain, times
from bilevelrl.validation.arrays import (
    PROBABILITY_TOLERANCE,
    Array,
    Indices,
    Mask,
    as_array,
    as_real_array,
    check_shape,
    read_only,
    rounded_sums,
)
from bilevelrl.validation.errors import InputError, kind_words, shape_words
from bilevelrl.validation.memory import SPARSE_KERNEL, check_fits
from bilevelrl.validation.sparse_arrays import as_csr

# From these sizes on, blocks and compiled loops are faster than whole arrays (two cores, 1 MiB of second-level cache).
LARGE_TABLE = 4 << 20  # bytes of a dense table
LARGE_SPARSE = 20_000  # stored entries


class Transitions(abc.ABC):
    """A transition kernel over S states and A actions."""

    states: int
    actions: int

    @abc.abstractmethod
    def expectation(self, values: Array) -> Array:
        """`(P v)_sa = Σ_s' P_sas' v_s'` for `values` (S,): a new array (S, A), which the caller may overwrite."""

    @abc.abstractmethod
    def transpose_expectation(self, weights: Array) -> Array:
        """`(Pᵀ c)_s' = Σ_sa P_sas' c_sa` for `weights` (S, A): the inflow into each state, (S,)."""

    @abc.abstractmethod
    def under(self, policy: Array) -> Chain:
        """The chain `P^π_ss' = Σ_a π_sa P_sas'` of `policy` (S, A), in one pass over P."""

    @property
    def large(self) -> bool:
        """Whether the kernel is large enough for special loops: compiled ones, or blocks that fit into the cache."""
        return False

    @abc.abstractmethod
    def row(self, state: int, action: int) -> tuple[Indices, Array]:
        """The successors of (state, action) and their probabilities, two arrays of equal length."""

    @abc.abstractmethod
    def stored(self) -> tuple[Indices, Indices, Array]:
        """The stored entries as three flat arrays: row `s·A + a` (sorted), successor, probability."""

    @functools.cached_property
    def absorbing(self) -> Mask:
        """(S,) which states lead only to themselves, under every action."""
        rows, successors, probabilities = self.stored()
        leaves = (successors != rows // self.actions) & (probabilities > 0)
        absorbing = np.ones(self.states, dtype=bool)
        absorbing[rows[leaves] // self.actions] = False
        return absorbing

    def __repr__(self) -> str:
        return f"{type(self).__name__}(states={self.states}, actions={self.actions})"


class DenseTransitions(Transitions):
    """A kernel stored as one array (S, A, S).

    Raises `InputError` if an entry is negative or not finite, or a row's sum differs from one by more than 1e-8; the
    message names the worst row.
    """

    def __init__(self, probabilities: object) -> None:
        if len(shape := getattr(probabilities, "shape", ())) == 3:  # a broadcast view is small until it is copied
            check_fits("transitions", shape, instead=SPARSE_KERNEL)
        array = as_real_array("transitions", probabilities)
        if array.ndim != 3 or array.shape[0] != array.shape[2] or 0 in array.shape:
            raise InputError("the shape of transitions", shape_words(array.shape), "(S, A, S) with S, A at least 1")
        array = as_array("transitions", array, array.shape)
        if (array < 0).any():
            s, a, t = (int(i) for i in np.unravel_index(array.argmin(), array.shape))
            raise InputError(f"transitions[{s}, {a}, {t}]", str(array[s, a, t]), "a probability, so not negative")
        with np.errstate(over="ignore"):
            sums = array.sum(axis=2)
        rounded = rounded_sums(probabilities, sums, array.shape[2])
        if rounded is not None:
            array, sums = array / rounded[:, :, None], sums / rounded
        _check_row_sums(sums)
        self._adopt(array)

    @classmethod
    def trusted(cls, probabilities: Array) -> DenseTransitions:
        """Wrap an array (S, A, S) that is a kernel by construction, without the checks."""
        kernel = cls.__new__(cls)
        kernel._adopt(probabilities)
        return kernel

    def _adopt(self, array: Array) -> None:
        self.states, self.actions = array.shape[:2]
        self.probabilities = read_only(np.ascontiguousarray(array))
        self._flat = self.probabilities.reshape(-1, self.states)
        self._shape = (self.states, self.actions)

    def expectation(self, values: Array) -> Array:
        """See `Transitions.expectation`; one matrix-vector product."""
        product: Array = times(self._flat, values)
        return product.reshape(self._shape)

    def transpose_expectation(self, weights: Array) -> Array:
        """See `Transitions.transpose_expectation`; one vector-matrix product."""
        inflow: Array = times(self._flat.T, weights.reshape(-1))
        return inflow

    def under(self, policy: Array) -> Array:
        """See `Transitions.under`; S small products (1, A)·(A, S), each over contiguous memory."""
        if self.large:
            from bilevelrl.mdp.dense_kernels import averaged_tables

            chain = np.empty((self.states, self.states))
            check_shape("policy", policy, self._shape)
            weights = read_only(np.ascontiguousarray(policy, dtype=np.float64))
            over_ranges(
                lambda first, last: averaged_tables(first, last, self.probabilities, weights, chain), self.states
            )
            return chain
        return np.asarray(np.matmul(policy[:, None, :], self.probabilities)[:, 0, :])

    @property
    def large(self) -> bool:
        """See `Transitions.large`."""
        return self.probabilities.nbytes > LARGE_TABLE

    def row(self, state: int, action: int) -> tuple[Indices, Array]:
        """See `Transitions.row`; zero entries are left out."""
        probabilities = self.probabilities[state, action]
        successors = np.flatnonzero(probabilities)
        return successors, probabilities[successors]

    def stored(self) -> tuple[Indices, Indices, Array]:
        """See `Transitions.stored`; zero entries are left out."""
        rows, successors = np.nonzero(self._flat)
        return rows, successors, self._flat[rows, successors]


class SparseTransitions(Transitions):
    """A kernel stored as a CSR array of shape (S·A, S), row `s·A + a`; never densified.

    Raises `InputError` in the same cases as `DenseTransitions`.
    """

    def __init__(self, probabilities: Any) -> None:
        if not scipy.sparse.issparse(probabilities):
            raise InputError("transitions", kind_words(probabilities), "a scipy sparse array (S·A, S)")
        matrix = as_csr("transitions", probabilities)
        rows, states = matrix.shape
        if states == 0 or rows == 0 or rows % states:
            raise InputError("the shape of transitions", str(matrix.shape), "(S·A, S), rows a multiple of columns")
        if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
            bad = int(np.flatnonzero(~(matrix.data >= 0) | np.isinf(matrix.data))[0])
            row = int(np.searchsorted(matrix.indptr, bad, side="right")) - 1
            s, a = divmod(row, rows // states)
            place = f"transitions[{s}, {a}, {matrix.indices[bad]}]"
            raise InputError(place, str(matrix.data[bad]), "a probability, so finite and not negative")
        with np.errstate(over="ignore"):
            sums = np.asarray(matrix.sum(axis=1))
        rounded = rounded_sums(probabilities.data, sums, states) if hasattr(probabilities, "data") else None
        if rounded is not None:
            matrix, sums = scipy.sparse.csr_array(matrix / rounded[:, None]), sums / rounded
        _check_row_sums(sums.reshape(states, rows // states))
        self._adopt(_narrowed(_canonical(matrix)))

    @classmethod
    def trusted(cls, probabilities: Any, like: SparseTransitions | None = None) -> SparseTransitions:
        """Wrap a CSR array (S·A, S) that is a kernel by construction, without the checks.

        Args:
            probabilities: sorted, with each positive entry stored once.
            like: a kernel with the same pattern: everything that depends only on the pattern is shared with it.
        """
        kernel = cls.__new__(cls)
        kernel._adopt(probabilities, like)
        return kernel

    def _adopt(self, matrix: Any, like: SparseTransitions | None = None) -> None:
        self._like = like
        self.states = int(matrix.shape[1])
        self.actions = int(matrix.shape[0] // matrix.shape[1])
        self.probabilities = matrix
        self._shape = (self.states, self.actions)

    def expectation(self, values: Array) -> Array:
        """See `Transitions.expectation`; one sparse product."""
        return np.asarray(self.probabilities @ values).reshape(self._shape)

    def transpose_expectation(self, weights: Array) -> Array:
        """See `Transitions.transpose_expectation`; one product with the transposed view."""
        return np.asarray(self.probabilities.T @ weights.reshape(-1))

    def under(self, policy: Array) -> Any:
        """See `Transitions.under`; one product with the matrix that takes a policy to the chain's entries."""
        return self.chains.pattern.matrix(self._chain_of_policy @ policy.reshape(-1))

    @functools.cached_property
    def chains(self) -> ChainStructure:
        """The structure of all chains `P^π`, computed once for all kernels of one pattern."""
        return ChainStructure.of(self.probabilities) if self._like is None else self._like.chains

    @functools.cached_property
    def _chain_of_policy(self) -> Any:
        """The entries of `P^π` as a linear function of π: P's own entries, each in the row where it is summed up."""
        slots, matrix = self.chains.slots, self.probabilities
        shape = (self.chains.pattern.columns.size, matrix.shape[0])
        return scipy.sparse.csc_array((matrix.data, slots, matrix.indptr), shape=shape)

    @property
    def large(self) -> bool:
        """See `Transitions.large`."""
        return bool(self.probabilities.nnz > LARGE_SPARSE)

    def row(self, state: int, action: int) -> tuple[Indices, Array]:
        """See `Transitions.row`; zero entries are left out, unless a `trusted` array stores them."""
        index = state * self.actions + action
        span = slice(self.probabilities.indptr[index], self.probabilities.indptr[index + 1])
        return self.probabilities.indices[span], self.probabilities.data[span]

    def stored(self) -> tuple[Indices, Indices, Array]:
        """See `Transitions.stored`."""
        matrix = self.probabilities
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        return rows, matrix.indices, matrix.data


def as_transitions(transitions: object) -> Transitions:
    """A `Transitions` from itself, from an array (S, A, S), or from a scipy sparse array (S·A, S)."""
    if isinstance(transitions, Transitions):
        return transitions
    if scipy.sparse.issparse(transitions):
        return SparseTransitions(transitions)
    return DenseTransitions(transitions)


# A dense direct sum of C kernels stores C times as many entries, nearly all zero. It is faster while calls cost more
# than arithmetic (measured with two kernels of 10 to 200 states).
LARGEST_DENSE_SUM = 1 << 16


def direct_sum(kernels: Sequence[Transitions], *, like: Transitions | None = None) -> Transitions:
    """The block-diagonal kernel over the states of all kernels, in their order; all have the same actions.

    Args:
        kernels: at least one.
        like: a kernel whose storage is used. Default: dense if all are dense and the whole is small, else CSR.
    """
    states, actions = sum(kernel.states for kernel in kernels), kernels[0].actions
    tables = [kernel.probabilities for kernel in kernels if isinstance(kernel, DenseTransitions)]
    small = states * actions * states <= LARGEST_DENSE_SUM if like is None else isinstance(like, DenseTransitions)
    if small and len(tables) == len(kernels):
        check_fits("the transitions of all contexts", (states, actions, states), instead=SPARSE_KERNEL)
        whole, first = np.zeros((states, actions, states)), 0
        for table in tables:
            block = slice(first, first := first + table.shape[0])
            whole[block, :, block] = table
        return DenseTransitions.trusted(whole)
    pointers, successors, probabilities, first, stored = [np.zeros(1, dtype=np.int64)], [], [], 0, 0
    for kernel in kernels:
        matrix = _as_csr(kernel)
        pointers.append(matrix.indptr[1:] + stored)
        successors.append(matrix.indices + first)
        probabilities.append(matrix.data)
        first, stored = first + kernel.states, stored + matrix.data.size
    entries = (np.concatenate(probabilities), np.concatenate(successors), np.concatenate(pointers))
    return SparseTransitions.trusted(scipy.sparse.csr_array(entries, shape=(states * actions, states)))


def _as_csr(kernel: Transitions) -> Any:
    """A kernel as a CSR array (S·A, S)."""
    if isinstance(kernel, SparseTransitions):
        return kernel.probabilities
    rows, successors, probabilities = kernel.stored()
    pointers = np.searchsorted(rows, np.arange(kernel.states * kernel.actions + 1))
    return scipy.sparse.csr_array(
        (probabilities, successors, pointers), shape=(kernel.states * kernel.actions, kernel.states)
    )


def _canonical(matrix: Any) -> Any:
    """The matrix with each positive entry stored once, in order of column, as `row` and `stored` guarantee.

    A CSR array may list a row's columns in any order, and repeatedly. The caller's array is not changed.
    """
    if matrix.has_canonical_format and (matrix.data > 0).all():
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _narrowed(matrix: Any) -> Any:
    """The matrix with 32-bit indices if they suffice, which halves the memory traffic. The entries are shared."""
    if matrix.indices.dtype == np.int32 or max(matrix.nnz, *matrix.shape) > np.iinfo(np.int32).max:
        return matrix
    indices, pointers = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return scipy.sparse.csr_array((matrix.data, indices, pointers), shape=matrix.shape)


def _check_row_sums(sums: Array) -> None:
    worst = int(np.abs(sums - 1.0).argmax())
    s, a = (int(i) for i in np.unravel_index(worst, sums.shape))
    if abs(sums[s, a] - 1.0) > PROBABILITY_TOLERANCE:
        raise InputError(f"the sum of transitions[{s}, {a}, :]", repr(float(sums[s, a])), "1 within 1e-8")
