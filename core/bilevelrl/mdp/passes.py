"""Passes over P that end in a soft Bellman backup: on whole arrays or compiled, depending on the kernel.

One pass gives the backup, its policy and the policy's chain, so that a large P is read only once.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs
import numpy as np

from bilevelrl.execution.threads import over_ranges
from bilevelrl.linear.products import Chain
from bilevelrl.mdp.transitions import DenseTransitions, SparseTransitions, Transitions
from bilevelrl.validation.arrays import Array, maximum_norm, read_only

# e^±500 leaves enough of float64's range on both sides for a sum over actions.
SAFE_EXPONENT = 500.0


class RegularizedRewards(Protocol):
    """What a backup needs of a `SoftMDP` besides its transitions."""

    @property
    def rewards(self) -> Array:
        """r (S, A)."""

    @property
    def scaled_rewards(self) -> Array:
        """`r/τ + log μ` (S, A)."""

    @property
    def discount(self) -> float:
        """γ."""

    @property
    def temperature(self) -> float:
        """τ."""


@attrs.frozen(eq=False)
class Backup:
    """The results of one pass over the transitions at `v`.

    Args:
        values: `T v` (S,).
        policy: `π(v)` (S, A), rows sum to one.
        action_values: `q(v)` (S, A), without the reference measure's term.
    """

    values: Array
    policy: Array
    action_values: Array


def passes_over(transitions: Transitions) -> Passes:
    """The passes for a kernel, by its storage and size."""
    if not transitions.large:
        return Passes(transitions)
    if isinstance(transitions, SparseTransitions):
        return SparsePasses(transitions)
    return TablePasses(transitions) if isinstance(transitions, DenseTransitions) else Passes(transitions)


@attrs.frozen(eq=False)
class Passes:
    """Passes of NumPy on whole arrays, for any kernel."""

    transitions: Any

    def sweeps(self, model: RegularizedRewards, values: Array, count: int) -> Array:
        """`T^N v` (S,) for N = `count` of at least one.

        Iterates on `u = v/τ`, where a backup is `u ← log Σ_a exp(z_sa)` with `z = r/τ + log μ + γPu`. The first sweep
        shifts z by its largest entry in each state. Later ones do not need it: shifting by u itself leaves `Σ_a
        exp(z_sa − u_s) = exp((Tu − u)_s)`, and T is a γ-contraction, so `|Tu − u|` never exceeds its first value.
        """
        expectation, scaled_rewards, discount = self.transitions.expectation, model.scaled_rewards, model.discount
        before = values / model.temperature
        scaled = _scaled_backup(expectation(before * discount), scaled_rewards)
        if count > 1:
            shift_by_value = maximum_norm(scaled - before) <= SAFE_EXPONENT
            ones, column = np.ones(scaled_rewards.shape[1]), scaled[:, None]
            for _ in range(count - 1):
                preferences = expectation(scaled * discount)
                if shift_by_value:
                    preferences += scaled_rewards
                    preferences -= column
                    np.exp(preferences, preferences)
                    change = preferences.dot(ones)  # sums over actions, faster than a reduction
                    scaled += np.log(change, change)
                else:
                    scaled = _scaled_backup(preferences, scaled_rewards)
        scaled *= model.temperature
        return scaled

    def backup(self, model: RegularizedRewards, values: Array) -> Backup:
        """`T v`, `π(v)` and `q(v)`."""
        return _response(model, self.transitions.expectation(values))

    def linearized(self, model: RegularizedRewards, values: Array) -> tuple[Backup, Chain | None]:
        """The backup, and `P^π(v)` if it costs less here than later."""
        return self.backup(model, values), None


@attrs.frozen(eq=False)
class TablePasses(Passes):
    """Passes over a dense table, which form the chain from each state's rows while they are still in the cache."""

    def linearized(self, model: RegularizedRewards, values: Array) -> tuple[Backup, Chain]:
        """The backup, and `P^π(v)`; compiled, on several threads, whose number does not change the result."""
        from bilevelrl.mdp.dense_kernels import soft_backup_tables

        states, actions = model.rewards.shape
        backup, chain = _unfilled(states, actions), np.empty((states, states))
        table, *rewards = _given(self.transitions.probabilities, model.rewards, model.scaled_rewards)
        scalars, (point,) = (model.discount, model.temperature), _given(values)
        written = (backup.values, backup.policy, backup.action_values, chain)
        over_ranges(
            lambda first, last: soft_backup_tables(first, last, table, *rewards, *scalars, point, *written), states
        )
        return backup, chain


@attrs.frozen(eq=False)
class SparsePasses(Passes):
    """Passes over a sparse table, compiled, on several threads, whose number does not change the result."""

    def sweeps(self, model: RegularizedRewards, values: Array, count: int) -> Array:
        """`T^N v`."""
        nothing = np.empty((0, 0))
        for _ in range(count):
            backup = Backup(np.empty_like(values), nothing, nothing)
            self._fill(model, values, backup, None)
            values = backup.values
        return values

    def backup(self, model: RegularizedRewards, values: Array) -> Backup:
        """`T v`, `π(v)` and `q(v)`."""
        backup = _unfilled(*model.rewards.shape)
        self._fill(model, values, backup, None)
        return backup

    def linearized(self, model: RegularizedRewards, values: Array) -> tuple[Backup, Chain]:
        """The backup, and `P^π(v)`."""
        backup, pattern = _unfilled(*model.rewards.shape), self.transitions.chains.pattern
        entries = np.empty(pattern.columns.size)
        self._fill(model, values, backup, entries)
        return backup, pattern.matrix(entries)

    def _fill(self, model: RegularizedRewards, values: Array, backup: Backup, chain: Array | None) -> None:
        """One pass: `T v`; the policy if the backup has arrays for it; the chain's entries if an array is given."""
        from bilevelrl.mdp.sparse_kernels import soft_backup_rows

        matrix = self.transitions.probabilities
        if chain is None:
            pointers, slots, chain = matrix.indptr, np.empty(0, dtype=matrix.indices.dtype), np.empty(0)
        else:
            pointers, slots = self.transitions.chains.pattern.pointers, self.transitions.chains.slots
        kernel = _given(matrix.indptr, matrix.indices, matrix.data, model.rewards, model.scaled_rewards)
        values, pointers, slots = _given(values, pointers, slots)
        written = (backup.values, backup.policy, backup.action_values)

        def fill(first: int, last: int) -> None:
            soft_backup_rows(
                first, last, *kernel, model.discount, model.temperature, values, *written, pointers, slots, chain
            )

        over_ranges(fill, values.size)


def _given(*arrays: Array) -> tuple[Array, ...]:
    """A contiguous, read-only array for a compiled loop: otherwise each kind of array would be compiled separately."""
    return tuple(read_only(np.ascontiguousarray(array)) for array in arrays)


def _unfilled(states: int, actions: int) -> Backup:
    return Backup(np.empty(states), np.empty((states, actions)), np.empty((states, actions)))


def _response(model: RegularizedRewards, expectation: Array) -> Backup:
    """The backup, from `P v` (S, A), which is overwritten."""
    action_values = expectation
    action_values *= model.discount
    preferences = action_values / model.temperature
    preferences += model.scaled_rewards
    action_values += model.rewards
    largest = np.maximum.reduce(preferences, 1)
    preferences -= largest[:, None]
    np.exp(preferences, preferences)
    total = np.add.reduce(preferences, 1)
    # Normalising by the sum, not by exp(−Tv/τ), makes rows sum to one up to rounding even if |q|/τ is 1e6.
    preferences /= total[:, None]
    backed_up: Array = np.log(total)
    backed_up += largest
    backed_up *= model.temperature
    return Backup(backed_up, preferences, action_values)


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
