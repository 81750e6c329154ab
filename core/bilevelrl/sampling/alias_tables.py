"""Alias tables (Vose 1991): draws from a discrete distribution in constant time."""

from __future__ import annotations

import weakref

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.mdp.transitions import Transitions
from bilevelrl.validation.arrays import (
    Array,
    Indices,
)
from bilevelrl.validation.errors import InputError

ALIAS_ENTRY = np.dtype([("threshold", np.float64), ("labels", np.int64)])
"""One of a row's n entries in an alias table (Vose 1991), each drawn with probability 1/n. It gives the label in its
lower 32 bits with probability `threshold`, otherwise the label in its upper 32 bits."""


def alias_entries(starts: Indices, labels: Indices, weights: Array) -> npt.NDArray[np.void]:
    """The alias tables of consecutive rows, for draws in constant time.

    Args:
        starts: (R + 1,) where each row's entries begin; no row is empty.
        labels: (E,) the label of each entry.
        weights: (E,) not negative, in each row proportional to the probabilities. A zero is never drawn.
    """
    from bilevelrl.sampling.kernels import fill_alias_table

    entries = np.empty(labels.size, ALIAS_ENTRY)
    fill_alias_table(starts, labels, np.ascontiguousarray(weights), entries)
    return entries


@attrs.frozen(eq=False)
class SamplingTable:
    """A kernel's rows as alias tables.

    Args:
        starts: (S·A + 1,) where each row's entries begin.
        entries: (nnz,) of `ALIAS_ENTRY`, whose labels are next states.
    """

    starts: Indices
    entries: npt.NDArray[np.void]

    @classmethod
    def of(cls, transitions: Transitions) -> SamplingTable:
        """The table of a kernel, without entries of probability zero."""
        rows, successors, probabilities = transitions.stored()
        kept = probabilities > 0
        if not kept.all():
            rows, successors, probabilities = rows[kept], successors[kept], probabilities[kept]
        starts = np.searchsorted(rows, np.arange(transitions.states * transitions.actions + 1))
        if (starts[1:] == starts[:-1]).any():
            s, a = divmod(int((starts[1:] == starts[:-1]).argmax()), transitions.actions)
            raise InputError(f"transitions[{s}, {a}, :]", "without a positive entry", "probabilities that sum to one")
        return cls(starts, alias_entries(starts, successors.astype(np.int64), probabilities))

    def draw(self, rows: Indices, uniforms: Array) -> Indices:
        """A successor for each row `s·A + a` from one uniform number, which selects the entry, then the label."""
        low = self.starts[rows]
        scaled = uniforms * (self.starts[rows + 1] - low)
        slots = scaled.astype(np.int64)
        entries = self.entries[low + slots]
        upper = scaled - slots >= entries["threshold"]
        drawn: Indices = np.where(upper, entries["labels"] >> 32, entries["labels"] & 0xFFFFFFFF)
        return drawn


_TABLES: weakref.WeakKeyDictionary[Transitions, SamplingTable] = weakref.WeakKeyDictionary()


def sampling_table(transitions: Transitions) -> SamplingTable:
    """The kernel's table, made once and kept as long as the kernel."""
    table = _TABLES.get(transitions)
    if table is None:
        _TABLES[transitions] = table = SamplingTable.of(transitions)
    return table
