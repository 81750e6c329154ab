"""All policies near a known one: what a certificate knows of the follower's optimal policy."""

from __future__ import annotations

from functools import cached_property

import attrs
import numpy as np

from bilevelrl.mdp.rounding import EPSILON, TINY
from bilevelrl.validation.arrays import Array

# exp(500) times the smallest positive probability is still a double; beyond it nothing is known.
LARGEST_OSCILLATION = 500.0


@attrs.frozen(eq=False, slots=False)
class NearbyPolicies:
    """All policies π' with `max_a log(π'_sa/π_sa) − min_a log(π'_sa/π_sa) ≤ ω_s` in every state s.

    Args:
        policy: π (S, A), rows sum to one to rounding.
        oscillation: ω (S,), at least 0; infinite if nothing is known.
    """

    policy: Array
    oscillation: Array

    @cached_property
    def entries(self) -> Array:
        """(S, A) the maximum of `|π'_sa − π_sa|`: `π(1−π)g / (1 + min(π, 1−π)g)` with `g = exp(ω) − 1`.

        `π'_a = π_a e^(ℓ_a) / Σ_b π_b e^(ℓ_b)` is extreme if ℓ is ω at a and zero elsewhere, or the reverse.
        """
        growth = np.expm1(np.minimum(self.oscillation, LARGEST_OSCILLATION))[:, None]
        policy, others = self.policy + TINY, self.others + TINY
        change = policy * others * growth / (1.0 + np.minimum(policy, others) * growth)
        change = np.where(self.oscillation[:, None] > LARGEST_OSCILLATION, 1.0, np.minimum(change, 1.0))
        return np.asarray(change + self._unnormalised * self.policy)

    @cached_property
    def others(self) -> Array:
        """(S, A) `1 − π_sa`, as the sum over the other actions, which is accurate for probabilities near 1."""
        before, after = np.zeros((2, self.policy.shape[0], self.policy.shape[1] + 1))
        np.cumsum(self.policy, axis=1, out=before[:, 1:])
        np.cumsum(self.policy[:, ::-1], axis=1, out=after[:, 1:])
        return np.asarray(before[:, :-1] + after[:, -2::-1])

    @cached_property
    def totals(self) -> Array:
        """(S,) a bound on `Σ_a |π'_sa − π_sa|`: `2 tanh(ω/4)`, or the sum of the entries' bounds if that is smaller."""
        by_oscillation = 2.0 * np.tanh(0.25 * self.oscillation) + 2.0 * self._unnormalised
        return np.asarray(np.minimum(by_oscillation, self.entries.sum(axis=1)))

    @cached_property
    def ratios(self) -> Array:
        """(S,) the maximum of `|π_sa/π'_sa − 1|`: `exp(ω) − 1`."""
        known = self.oscillation <= LARGEST_OSCILLATION
        growth = np.expm1(np.where(known, self.oscillation, 0.0))
        return np.where(known, growth + self._unnormalised, np.inf)

    def mean_change(self, table: Array) -> Array:
        """(S,) a bound on `|Σ_a (π'_sa − π_sa) t_sa|`, for a table t (S, A)."""
        low, high = table.min(axis=1), table.max(axis=1)
        centre, half = 0.5 * (low + high), 0.5 * (high - low)
        by_entry = (self.entries * np.abs(table - centre[:, None])).sum(axis=1)
        unnormalised = 2.0 * self._unnormalised * np.maximum(np.abs(low), np.abs(high))
        return np.asarray(np.minimum(by_entry, self.totals * half) + unnormalised)

    @property
    def _unnormalised(self) -> float:
        """A bound on the distance of a computed policy's row sums from one."""
        return float(2.0 * (self.policy.shape[1] + 2) * EPSILON)
