"""Variations of a problem: restricted, damaged, relabelled, extended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import numpy as np
import scipy.sparse

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy, Occupancy
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.sampling.simulators import Simulator, Trajectories
from bilevelrl.sampling.tabular_simulator import TabularSimulator
from bilevelrl.testing.counting import CountingSimulator, Tally
from bilevelrl.testing.exact import dense_kernel, is_sparse
from bilevelrl.validation.arrays import Array, Indices

# --- Other lower levels made from one


@attrs.frozen(eq=False)
class Altered:
    """A lower level with a changed MDP and the original's derivatives by x.

    Args:
        lower: the original.
        change: `mdp ↦ mdp`.
        tally: counts what its simulators draw, if given.
    """

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy,)

    lower: Any
    change: Callable[[SoftMDP], SoftMDP]
    tally: Tally | None = None

    @property
    def dimension(self) -> int:
        """The original's."""
        return int(self.lower.dimension)

    def model(self, x: Array) -> SoftMDP:
        """The changed MDP at x."""
        return self.change(self.lower.model(x))

    def simulator(self, x: Array) -> Any:
        """Samples the changed MDP."""
        simulator = TabularSimulator(self.model(x))
        return simulator if self.tally is None else CountingSimulator(simulator, self.tally)

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """The original's."""
        gradient: Array = self.lower.pullback(x, occupancy)
        return gradient


@attrs.frozen(eq=False)
class OnlyModel:
    """A lower level with only the members of `SupportsModel`."""

    _lower: Any

    @property
    def dimension(self) -> int:
        """The original's."""
        return int(self._lower.dimension)

    def model(self, x: Array) -> SoftMDP:
        """The original's."""
        model: SoftMDP = self._lower.model(x)
        return model

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """The original's."""
        gradient: Array = self._lower.pullback(x, occupancy)
        return gradient


@attrs.frozen(eq=False)
class OnlySampling:
    """A lower level with only the members of `SupportsSampling`."""

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy,)

    _lower: Any

    @property
    def dimension(self) -> int:
        """The original's."""
        return int(self._lower.dimension)

    def simulator(self, x: Array) -> Simulator:
        """The original's."""
        simulator: Simulator = self._lower.simulator(x)
        return simulator

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """The original's, for rewards only: a sampling component does not know γV."""
        shape = self._lower.simulator(x).spec
        weights = occupancy.dense(shape.states, shape.actions).weights
        gradient: Array = self._lower.pullback(x, DenseOccupancy(weights))
        return gradient


@attrs.frozen(eq=False)
class Extended:
    """A lower level with further parameters at the end of x: they enter the rewards, or nothing at all.

    Args:
        lower: the original, of dimension n.
        directions: m tables (S, A) as functions of the original MDP: `r(x) + Σ_j x_{n+j} direction_j`.
    """

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy,)

    lower: Any
    directions: Callable[[SoftMDP], list[Array]]
    count: int

    @property
    def dimension(self) -> int:
        """n + m."""
        return int(self.lower.dimension) + self.count

    def model(self, x: Array) -> SoftMDP:
        """The original's, with its rewards changed."""
        base: SoftMDP = self.lower.model(x[: -self.count])
        moved = sum(amount * table for amount, table in zip(x[-self.count :], self.directions(base), strict=True))
        return base.replace(rewards=base.rewards + moved)

    def simulator(self, x: Array) -> TabularSimulator:
        """Samples the MDP at x."""
        return TabularSimulator(self.model(x))

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """The original's, and one inner product for each further parameter."""
        known, base = x[: -self.count], self.lower.model(x[: -self.count])
        weights = occupancy.dense(base.states, base.actions).weights
        further = [float((weights * table).sum()) for table in self.directions(base)]
        return np.concatenate([self.lower.pullback(known, occupancy), further])


@attrs.frozen(eq=False)
class Relabelled:
    """A lower level with relabelled states and actions: new state i is old state `states[i]`."""

    occupancy_forms: ClassVar[tuple[type, ...]] = (DenseOccupancy,)

    lower: Any
    states: Indices
    actions: Indices

    @property
    def dimension(self) -> int:
        """The original's."""
        return int(self.lower.dimension)

    def model(self, x: Array) -> SoftMDP:
        """The relabelled MDP."""
        mdp: SoftMDP = self.lower.model(x)
        kernel = dense_kernel(mdp)[np.ix_(self.states, self.actions, self.states)]
        return SoftMDP(
            _stored(kernel, is_sparse(mdp)),
            self.table(mdp.rewards),
            mdp.discount,
            mdp.temperature,
            mdp.initial[self.states],
            None if mdp.reference is None else self.table(mdp.reference),
        )

    def simulator(self, x: Array) -> TabularSimulator:
        """Samples the relabelled MDP."""
        return TabularSimulator(self.model(x))

    def table(self, array: Array) -> Array:
        """An (S, A) array of the original, relabelled."""
        return np.asarray(array[np.ix_(self.states, self.actions)])

    def original(self, array: Array) -> Array:
        """The inverse of `table`."""
        before = np.empty_like(array)
        before[np.ix_(self.states, self.actions)] = array
        return before

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """The original's, for the occupancy with the original labels."""
        measure = occupancy.dense(self.states.size, self.actions.size)
        continuation = measure.continuation
        if continuation is not None:
            continuation = continuation[np.argsort(self.states)]
        gradient: Array = self.lower.pullback(x, DenseOccupancy(self.original(measure.weights), continuation))
        return gradient


def _stored(kernel: Array, sparse: bool) -> Any:
    return scipy.sparse.csr_array(kernel.reshape(-1, kernel.shape[2])) if sparse else kernel


def stored_otherwise(mdp: SoftMDP) -> SoftMDP:
    """The same MDP with the other storage of P: sparse for dense, dense for sparse."""
    return SoftMDP(
        _stored(dense_kernel(mdp), not is_sparse(mdp)),
        mdp.rewards,
        mdp.discount,
        mdp.temperature,
        mdp.initial,
        mdp.reference,
    )


# --- Other objectives made from one


@attrs.frozen(eq=False)
class ChangedObjective:
    """An objective with changed inputs or outputs.

    Args:
        objective: the original.
        answers: `(value, by_x, by_policy) ↦` the same, for policy objectives.
        losses: `(losses, by_x) ↦` the same, for trajectory objectives.
        point: `x ↦ x`, applied before the original is called.
        policy: `π ↦ π`, applied before the original is called.
    """

    objective: Any
    answers: Callable[[float, Array, Array], tuple[float, Array, Array]] = lambda value, x, policy: (value, x, policy)
    losses: Callable[[Array, Array], tuple[Array, Array]] = lambda losses, x: (losses, x)
    point: Callable[[Array], Array] = lambda x: x
    policy: Callable[[Array], Array] = lambda policy: policy

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """The changed answer."""
        return self.answers(*self.objective.value_and_gradients(self.point(x), self.policy(policy)))

    @property
    def horizon(self) -> int:
        """The original's."""
        return int(self.objective.horizon)

    @property
    def trajectories(self) -> int:
        """The original's."""
        return int(self.objective.trajectories)

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """The changed answer."""
        return self.losses(*self.objective.loss_and_gradient(self.point(x), trajectories, rng))

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """The changed answer of an objective that is a sum over steps."""
        return self.losses(*self.objective.step_losses_and_gradient(self.point(x), trajectories, rng))


class Untouched:
    """An objective that must not be used."""

    horizon = trajectories = 1

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """Not for solvers."""
        raise PermissionError("a solver has no use for the leader's objective")

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """Not for solvers."""
        raise PermissionError("a solver has no use for the leader's objective")


def with_lower(problem: BilevelProblem, lower: Any) -> BilevelProblem:
    """The problem with another follower and, if possible, the same objective, start and feasible set."""
    return attrs.evolve(problem, lower=lower)


def extended(problem: BilevelProblem, x: Array, directions: Callable[[SoftMDP], list[Array]]) -> BilevelProblem:
    """The problem with further reward parameters, all zero, that its objective does not see."""
    count = len(directions(problem.lower.model(x)))
    n = x.size
    objective = ChangedObjective(
        problem.objective,
        answers=lambda value, by_x, by_policy: (value, np.concatenate([by_x, np.zeros(count)]), by_policy),
        losses=lambda losses, by_x: (losses, np.concatenate([by_x, np.zeros(count)])),
        point=lambda point: point[:n],
    )
    start = np.concatenate([x, np.zeros(count)])
    return BilevelProblem(Extended(problem.lower, directions, count), objective, start, name=problem.name)
