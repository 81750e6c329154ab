"""Signed occupancy measures: every estimator represents its hyper-gradient by one.

A gradient of the bilevel objective is a cotangent of the follower's MDP. A problem turns it into a vector of R^n by one
vector-Jacobian product, `pullback(x, occupancy)`. Exact estimators solve for the measure; sampled ones accumulate it
from visits.

A measure has one of two forms: dense (S, A), if observations and actions are indices of a table, or weighted samples
(observations, actions, weights) of any kind. A lower level declares the forms that its `pullback` accepts as
`occupancy_forms`. If its reward is a function of observations, it accepts samples only, and no table is made.
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
        """The measure as a table (S, A); raises `InputError` if observations or actions are not indices of a table."""


@attrs.frozen(eq=False)
class DenseOccupancy:
    """A cotangent of a tabular MDP: of its rewards, its transitions, its initial distribution.

    Args:
        weights: `r̄` (S, A), the cotangent of the rewards.
        continuation: `γV` (S,), the discounted value of arriving in each state. The cotangent of the transitions is the
            outer product `P̄_sas' = r̄_sa · γV_s'`, kept as its two factors. None if the transitions' part is unknown.
        initial: `ρ̄` (S,), the cotangent of the initial distribution; None for zero. The follower's optimal policy does
            not depend on ρ, so only the direct part of an objective may have it.
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
    """A signed measure as weighted samples, which a model-free estimator accumulates.

    Args:
        observations: (N, …) visited observations; integers (N,) for a table.
        actions: (N, …) the actions taken there.
        weights: (N,) signed weights; the reward's cotangent is their sum per (observation, action).
    """

    observations: Values
    actions: Values
    weights: Array

    def dense(self, states: int, actions: int) -> DenseOccupancy:
        """The samples summed into an (S, A) table; the transitions' part is unknown."""
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
    """Raise `IncompatibleError` if an estimator produces no form of occupancy that a lower level accepts.

    Args:
        label: the estimator's name in the message.
        produced: the estimator's `occupancy_forms`; empty if it uses no pullback.
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
