"""Signed occupancy measures: the one object in which every hyper-gradient ends.

A gradient of the bilevel objective is a cotangent of the follower's MDP, and a problem turns it into a vector of
R^n by one vector-Jacobian product, `pullback(x, occupancy)`. Exact estimators solve for the measure; sampled ones
accumulate it from visits.
"""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError


@attrs.frozen(eq=False)
class DenseOccupancy:
    """A cotangent of a tabular MDP: of its rewards, its transitions, its initial distribution.

    Args:
        weights: `r̄` (S, A), the cotangent of the rewards.
        continuation: `γV` (S,), what arriving in each state is worth. The cotangent of the transitions is the outer
            product `P̄_sas' = r̄_sa · γV_s'`, kept as its two factors. None where the transitions' part is not known.
        initial: `ρ̄` (S,), the cotangent of the initial distribution; None for zero. The follower's optimal policy
            does not depend on ρ, so an implicit part never has it; an objective's own part may.
    """

    weights: Array
    continuation: Array | None = None
    initial: Array | None = None

    def dense(self, states: int, actions: int) -> DenseOccupancy:
        """Itself; `Occupancy` in its tabular form."""
        if self.weights.shape != (states, actions):
            raise InputError("the shape of occupancy.weights", str(self.weights.shape), str((states, actions)))
        return self


@attrs.frozen(eq=False)
class SampledOccupancy:
    """A signed measure as weighted samples: what a model-free estimator accumulates.

    Args:
        observations: N visited observations; integers for a tabular problem.
        actions: N actions taken there.
        weights: (N,) signed weights; the reward cotangent is their sum per (observation, action).
    """

    observations: npt.NDArray[np.generic]
    actions: npt.NDArray[np.generic]
    weights: Array

    def dense(self, states: int, actions: int) -> DenseOccupancy:
        """The samples summed into an (S, A) table; the transitions' part stays unknown."""
        flat = np.ravel_multi_index(
            (np.asarray(self.observations, int), np.asarray(self.actions, int)), (states, actions)
        )
        table: Array = np.bincount(flat, weights=self.weights, minlength=states * actions).astype(
            np.float64, copy=False
        )
        return DenseOccupancy(table.reshape(states, actions))


Occupancy = DenseOccupancy | SampledOccupancy
