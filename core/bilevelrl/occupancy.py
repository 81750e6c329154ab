"""Signed occupancy measures: the one object in which every hyper-gradient ends.

A gradient of the bilevel objective is a cotangent of the follower's MDP, and a problem turns it into a vector of
R^n by one vector-Jacobian product, `pullback(x, occupancy)`. Exact estimators solve for the measure; sampled ones
accumulate it from visits.

A measure has one of two forms: dense (S, A), where observations and actions are indices of a table, or weighted samples
(observations, actions, weights) of any kind. A lower level declares the forms that its `pullback` takes as
`occupancy_forms`; where its reward is a function of observations, that is the samples alone, and nothing is densified.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import IncompatibleError, InputError

Values = npt.NDArray[Any]
"""Observations or actions: an array of any type and shape, whose first axis counts them."""


@runtime_checkable
class Occupancy(Protocol):
    """A signed measure on observations and actions: a `DenseOccupancy` or a `SampledOccupancy`."""

    @property
    def weights(self) -> Array:
        """The weights: (S, A) of all pairs in a table, or (N,) of the samples."""

    def dense(self, states: int, actions: int) -> DenseOccupancy:
        """The measure as a table (S, A); raises `InputError` where observations or actions are not its indices."""


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
        observations: (N, …) visited observations; integers (N,) for a table.
        actions: (N, …) the actions taken there.
        weights: (N,) signed weights; the reward's cotangent is their sum per (observation, action).
    """

    observations: Values
    actions: Values
    weights: Array

    def dense(self, states: int, actions: int) -> DenseOccupancy:
        """The samples summed into an (S, A) table; the transitions' part stays unknown."""
        for name, array in (("observations", self.observations), ("actions", self.actions)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                value = f"an array of {array.dtype} of shape {array.shape}"
                raise InputError(f"occupancy.{name}", value, "integers (N,), the indices of a table (S, A)")
        flat = np.ravel_multi_index((self.observations, self.actions), (states, actions))
        table: Array = np.bincount(flat, weights=self.weights, minlength=states * actions).astype(
            np.float64, copy=False
        )
        return DenseOccupancy(table.reshape(states, actions))


FORM_WORDS: dict[type, str] = {
    DenseOccupancy: "a table (S, A)",
    SampledOccupancy: "weighted samples of observations and actions",
}


def check_occupancy_forms(label: str, produced: tuple[type, ...], name: str, taken: tuple[type, ...]) -> None:
    """Raise `IncompatibleError` where an estimator produces no form of occupancy that a lower level takes.

    Args:
        label: what the message calls the estimator.
        produced: the estimator's `occupancy_forms`; empty where it pulls none back.
        name: the problem's name.
        taken: the lower level's `occupancy_forms`.
    """
    if not produced or set(produced) & set(taken):
        return
    has, wants = (" or ".join(FORM_WORDS.get(form, form.__name__) for form in forms) for forms in (produced, taken))
    advice = "Use an estimator from samples, such as one of trajectories" if SampledOccupancy in taken else "Use tables"
    raise IncompatibleError(
        f"{label} produces its occupancy as {has}; the lower level of problem {name!r} takes {wants}. {advice}"
    )
