"""The sparsity pattern of a chain `P^π`, which is the same for every policy, and the aggregates that follow from it.

Only the entries depend on the policy, in arrays of known length: the chain's entries are sums of P's entries, and each
coarser chain's entries are sums of the finer chain's.
"""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np
import scipy.sparse

from bilevelrl.validation.arrays import Array, Indices

# A system with fewer states than this is solved directly.
COARSEST = 400
# A coarser level must be this much cheaper than the finer one, or it does not save time.
WORTH_A_LEVEL = 0.6


@attrs.frozen(eq=False, slots=False)
class Pattern:
    """The positions of the entries of a square sparse matrix, row by row, with ascending columns.

    Args:
        pointers: (S + 1,) where each row begins.
        columns: (nnz,).
    """

    pointers: Indices
    columns: Indices

    @property
    def size(self) -> int:
        """S."""
        return int(self.pointers.size - 1)

    def matrix(self, entries: Array) -> Any:
        """The CSR array of this pattern with the entries given."""
        return scipy.sparse.csr_array((entries, self.columns, self.pointers), shape=(self.size, self.size))

    @property
    def weight(self) -> int:
        """The cost of a pass: its rows plus its entries."""
        return self.size + int(self.columns.size)

    @functools.cached_property
    def rows(self) -> Indices:
        """(nnz,) the row of each entry."""
        return np.repeat(np.arange(self.size, dtype=self.columns.dtype), np.diff(self.pointers))

    @functools.cached_property
    def begins(self) -> Indices:
        """(S,) where, in each row, the entries in the row's own half of the states begin (see `sweep_forward`)."""
        half = (self.size + 1) // 2
        before: Indices = np.bincount(self.rows[(self.rows >= half) & (self.columns < half)], minlength=self.size)
        return self.pointers[:-1] + before.astype(self.pointers.dtype)

    @functools.cached_property
    def middles(self) -> Indices:
        """(S,) where, in each row, the entries on and above the diagonal begin."""
        below: Indices = np.bincount(self.rows[self.columns < self.rows], minlength=self.size)
        return self.pointers[:-1] + below.astype(self.pointers.dtype)

    @functools.cached_property
    def diagonal(self) -> tuple[Indices, Indices]:
        """The rows that have an entry on the diagonal, and its positions."""
        places = np.flatnonzero(self.columns == self.rows)
        return self.columns[places], places

    @functools.cached_property
    def envelope_work(self) -> float:
        """The most multiplications that a factorisation takes: `Σ_i w_i²`.

        `w_i` is how far row i reaches to the left of the diagonal, in the symmetrised pattern in the reverse order of
        Cuthill and McKee (Proceedings of the 24th ACM National Conference 1969). The factors have no entries outside
        this envelope.
        """
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        ones = self.matrix(np.ones(self.columns.size))
        both = scipy.sparse.csr_array(ones + ones.T)
        place = np.empty(self.size, dtype=np.int64)
        place[reverse_cuthill_mckee(both, symmetric_mode=True)] = np.arange(self.size)
        leftmost = np.minimum.reduceat(place[both.indices], both.indptr[:-1])
        reaches = np.maximum(place - leftmost, 0).astype(np.float64)
        return float(reaches @ reaches)

    def places(self, rows: Indices, columns: Indices) -> Indices:
        """The positions of the entries (row, column), all of which are in the pattern."""
        numbered = self.matrix(np.arange(self.columns.size, dtype=np.float64))
        return np.asarray(numbered[rows, columns]).reshape(-1).astype(self.columns.dtype)

    @classmethod
    def of(cls, matrix: Any) -> Pattern:
        """The pattern of a CSR array, which is sorted in place, with duplicates summed."""
        matrix.sum_duplicates()
        return cls(matrix.indptr, matrix.indices)

    def transposed(self) -> tuple[Pattern, Indices]:
        """The transpose's pattern, and the positions of its entries in this one."""
        turned = self.matrix(np.arange(self.columns.size, dtype=np.float64)).T.tocsr()
        turned.sort_indices()
        return Pattern(turned.indptr, turned.indices), turned.data.astype(self.columns.dtype)

    def aggregated(self, labels: Indices, count: int) -> tuple[Pattern, Indices]:
        """The pattern between `count` aggregates, and the position of each entry in it; past its end for entries
        without one.

        `labels` (S,) are the aggregates of the states, `count` for none.
        """
        rows, columns = labels[self.rows], labels[self.columns]
        kept = (rows < count) & (columns < count)
        rows, columns = rows[kept], columns[kept]
        coarse = Pattern.of(scipy.sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(count, count)))
        slots = np.full(self.columns.size, coarse.columns.size, dtype=self.columns.dtype)
        slots[kept] = coarse.places(rows, columns)
        return coarse, slots


@attrs.frozen(eq=False, slots=False)
class ChainStructure:
    """The structure that all chains `P^π` of one sparse kernel share.

    Args:
        pattern: the pattern of a chain whose policy takes every action.
        slots: (nnz of P,) the position in the chain of each entry of P.
        uniform: the entries of the chain of the uniform policy.
    """

    pattern: Pattern
    slots: Indices
    uniform: Array

    @classmethod
    def of(cls, probabilities: Any) -> ChainStructure:
        """The structure of a kernel, a CSR array (S·A, S) of positive entries."""
        rows, states = probabilities.shape
        actions, kind = rows // states, probabilities.indices.dtype
        # Ones, since a sparse product leaves out entries that add up to zero.
        ones = scipy.sparse.csr_array(
            (np.ones(probabilities.nnz), probabilities.indices, probabilities.indptr), shape=(rows, states)
        )
        grouped = scipy.sparse.csr_array(
            (np.ones(rows), np.arange(rows, dtype=kind), np.arange(0, rows + 1, actions, dtype=kind)),
            shape=(states, rows),
        )
        pattern = Pattern.of(scipy.sparse.csr_array(grouped @ ones))
        sources = np.repeat(np.arange(states, dtype=kind), np.diff(probabilities.indptr[::actions]))
        slots = pattern.places(sources, probabilities.indices)
        sums = np.bincount(slots, weights=probabilities.data, minlength=pattern.columns.size)
        return cls(pattern, slots, sums / actions)

    @functools.cached_property
    def levels(self) -> tuple[Level, ...]:
        """Aggregates for all of these chains."""
        return hierarchy(self.pattern, self.uniform)

    @functools.cached_property
    def transposed(self) -> tuple[tuple[Level, ...], Indices]:
        """Aggregates for the transposed chains, and the positions in a chain of the entries of its transpose."""
        pattern, order = self.pattern.transposed()
        return transposed_hierarchy(self.levels, pattern), order


@attrs.frozen(eq=False)
class Level:
    """One level of a hierarchy: a chain's pattern, and the aggregates that are the states of the next.

    Args:
        pattern: the chain's pattern at this level.
        labels: (S,) the aggregate of each state, `count` for none; None at the coarsest level.
        slots: (nnz,) the position of each entry in the next pattern, past its end for entries without one.
        count: the number of aggregates.
    """

    pattern: Pattern
    labels: Indices | None = None
    slots: Indices | None = None
    count: int = 0

    def summed(self, values: Array) -> Array:
        """(count,) the sums over aggregates of a number for each state."""
        assert self.labels is not None
        sums: Any = np.bincount(self.labels, weights=values, minlength=self.count + 1)[: self.count]
        return np.asarray(sums)

    def merged(self, entries: Array, size: int) -> Array:
        """The entries of the chain between aggregates, of which there are `size`."""
        assert self.slots is not None
        sums: Any = np.bincount(self.slots, weights=entries, minlength=size + 1)[:size]
        return np.asarray(sums)


def hierarchy(pattern: Pattern, entries: Array) -> tuple[Level, ...]:
    """Aggregates of about four strongly connected states each, then of about four aggregates each, and so on.

    The strength of a connection is `C_ss' + C_s's`. If C is the chain of the uniform policy, the aggregates serve every
    policy. A state without transitions to or from other states needs no aggregate and has none.

    Args:
        pattern: the chain's pattern.
        entries: (nnz,) its entries.
    """
    levels = []
    while pattern.size > COARSEST:
        labels, count = _fours(pattern.matrix(entries))
        if count == 0:
            break
        coarse, slots = pattern.aggregated(labels, count)
        if coarse.weight > WORTH_A_LEVEL * pattern.weight:
            break
        levels.append(Level(pattern, labels, slots, count))
        entries = levels[-1].merged(entries, coarse.columns.size)
        pattern = coarse
    return (*levels, Level(pattern))


def transposed_hierarchy(levels: tuple[Level, ...], pattern: Pattern) -> tuple[Level, ...]:
    """The same aggregates for the transposed chain, whose pattern is given."""
    turned = []
    for level in levels[:-1]:
        assert level.labels is not None
        coarse, slots = pattern.aggregated(level.labels, level.count)
        turned.append(Level(pattern, level.labels, slots, level.count))
        pattern = coarse
    return (*turned, Level(pattern))


def _fours(chain: Any) -> tuple[Indices, int]:
    """Labels of pairs of pairs, and their number, which is also the label of the states without connections."""
    from bilevelrl.linear.sweep_kernels import pair_states

    ties = _ties(chain)
    tied = np.diff(ties.indptr) > 0
    pairs = pair_states(ties.indptr, ties.indices, ties.data)
    sums = scipy.sparse.csr_array(
        (np.ones(pairs.size), (pairs, np.arange(pairs.size))), shape=(int(pairs.max()) + 1, pairs.size)
    )
    ties = _ties(sums @ ties @ sums.T)
    fours = pair_states(ties.indptr, ties.indices, ties.data)[pairs]
    used, numbers = np.unique(fours[tied], return_inverse=True)
    labels = np.full(fours.size, used.size, dtype=np.int32)
    labels[tied] = numbers
    return labels, int(used.size)


def _ties(chain: Any) -> Any:
    """`C + Cᵀ` without its diagonal."""
    ties = scipy.sparse.coo_array(chain + chain.T)
    off = (ties.row != ties.col) & (ties.data > 0)
    return scipy.sparse.csr_array((ties.data[off], (ties.row[off], ties.col[off])), shape=ties.shape)
