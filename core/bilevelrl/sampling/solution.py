"""The follower's answer learnt from samples, and the lower level that can be simulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from bilevelrl.occupancy import Occupancy
from bilevelrl.sampling.simulators import Simulator
from bilevelrl.validation.arrays import Array

if TYPE_CHECKING:
    pass

from bilevelrl.protocols import Cost, Status


@attrs.frozen(eq=False, slots=False)
class SampledSolution:
    """The follower's answer learnt from samples, in tables.

    Args:
        simulator: the simulator at x that it was learnt from; a handle, never saved, rebuilt from x.
        policy: (S, A).
        action_values: (S, A), the estimate of Q that the policy is the softmax of.
        residual: the mean absolute temporal difference over the last samples; zero only for an exact answer in a
            deterministic world.
        status: how the solver ended.
        cost: the samples it drew, among others.
        carry: arrays that the next call warm-starts from, by name.
    """

    simulator: Simulator
    policy: Array
    action_values: Array
    residual: float
    status: Status
    cost: Cost
    carry: Mapping[str, Array] = attrs.field(factory=dict)


@runtime_checkable
class SupportsSampling(Protocol):
    """A lower level that can be simulated at any x; its transition probabilities may be unknown."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    @property
    def occupancy_forms(self) -> tuple[type, ...]:
        """The forms of occupancy that `pullback` takes: `DenseOccupancy`, `SampledOccupancy`, or both."""

    def simulator(self, x: Array) -> Simulator:
        """A simulator of the follower's MDP at x."""

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄` at x."""
