"""The follower's solution learnt from samples, and the protocol of lower levels that can be simulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.occupancy import Occupancy
from bilevelrl.protocols import Cost, Problem, Status, outcome
from bilevelrl.sampling.simulators import Simulator
from bilevelrl.sampling.tabular_simulator import TabularSimulator
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.saved import check_table, saved_array, saved_policy

CARRIED = "carry."
"""The prefix of the names of carried arrays among a solution's `arrays()`."""


@attrs.frozen(eq=False, slots=False)
class SampledSolution:
    """The follower's tabular solution learnt from samples.

    Args:
        simulator: the simulator at x that it was learnt from; a handle, which is not saved but rebuilt from x.
        policy: (S, A).
        action_values: (S, A), the estimate of Q; the policy is its softmax.
        residual: the mean absolute temporal difference over the last samples; zero only for an exact answer in a
            deterministic environment.
        status: how the solver ended.
        cost: its cost, with the samples drawn.
        carry: arrays that the next call warm-starts from, by name.
    """

    simulator: Simulator
    policy: Array
    action_values: Array
    residual: float
    status: Status
    cost: Cost
    carry: Mapping[str, Array] = attrs.field(factory=dict)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.simulator.spec.states, self.simulator.spec.actions

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The tables `policy` and `action_values` (S, A), and each array of the carry as `carry.<name>`."""
        carried = {f"{CARRIED}{name}": np.asarray(array) for name, array in self.carry.items()}
        return {"policy": self.policy, "action_values": self.action_values, **carried}

    def figures(self) -> dict[str, Any]:
        """Empty: there are no figures besides those that the framework saves."""
        return {}

    @classmethod
    def restored(
        cls, problem: Problem, x: Array, arrays: Mapping[str, npt.NDArray[Any]], figures: Mapping[str, Any]
    ) -> SampledSolution:
        """The solution at x from its `arrays()` and `figures()`, both tables checked; see `LowerLevelSolver.restore`.

        The solver must check the arrays of the carry itself, since only the solver knows them.

        Raises:
            InputError: if the problem has no simulator, or the tables are not those of such a solution.
        """
        lower = problem.lower
        if not isinstance(lower, SupportsSampling):
            raise InputError(f"the follower of problem {problem.name!r}", kind_words(lower), "one with a simulator")
        simulator = lower.simulator(x)
        shape = (simulator.spec.states, simulator.spec.actions)
        return cls(
            simulator=simulator,
            policy=saved_policy(arrays, "policy", shape),
            action_values=saved_array(arrays, "action_values", shape),
            carry={name.removeprefix(CARRIED): arrays[name] for name in arrays if name.startswith(CARRIED)},
            **outcome(figures),
        )

    def check(self) -> None:
        """Raise `InputError` if a table does not fit the simulator."""
        check_table("the follower's policy", self.policy, self._shape)
        check_table("the follower's action values", self.action_values, self._shape)

    def restrict(self, lower: SupportsModel, x: Array, rows: slice) -> SampledSolution:
        """These rows as a solution of a context's follower at x; status, residual and cost stay those of the whole."""
        return attrs.evolve(
            self,
            simulator=TabularSimulator(lower.model(x)),
            policy=self.policy[rows],
            action_values=self.action_values[rows],
            carry={},
        )


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


def simulator_of(lower: Any, x: Array) -> Simulator:
    """The follower's simulator at x; samples of its model if it has nothing but a model."""
    if isinstance(lower, SupportsSampling):
        return lower.simulator(x)
    return TabularSimulator(lower.model(x))
