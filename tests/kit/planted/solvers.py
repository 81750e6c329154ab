"""Lower-level solvers: three correct ones, and ones with a single fault each.

The correct ones are plain value iteration and, from samples, value iteration in the world as it was counted. They are
cut into small steps so that a fault is one step done wrong.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl

EPSILON = float(np.finfo(np.float64).eps)


def written(array: bl.Array, value: Any) -> None:
    """Write into an array that belongs to somebody else, be it read-only."""
    writeable = array.flags.writeable
    array.setflags(write=True)
    array[...] = value
    array.setflags(write=writeable)


@attrs.frozen(eq=False)
class Sweep:
    """A backup at v: `v`, `q(v)`, `π(v)`, `Tv`."""

    values: bl.Array
    action_values: bl.Array
    policy: bl.Array
    backed_up: bl.Array

    @property
    def residual(self) -> float:
        return float(np.abs(self.backed_up - self.values).max())


@attrs.frozen
class ExactSolver:
    """`v ← Tv` until `‖Tv − v‖∞ ≤ (1−γ)·tolerance`."""

    name: ClassVar[str] = "planted-exact"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution

    tolerance: float = 1e-9
    most: int = 100_000

    @property
    def tags(self) -> bl.Tags:
        return bl.Tags("exact", tolerance=self.tolerance)

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        warm_start: bl.mdp.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.mdp.TabularSolution:
        model = self.model(problem, x, warm_start)
        with np.errstate(all="ignore"):
            previous = sweep = self.backup(model, self.start(model, warm_start))
            backups = 1
            while self.goes_on(model, sweep, backups):
                previous, sweep, backups = sweep, self.backup(model, sweep.backed_up), backups + 1
            return self.answer(model, sweep, previous, backups)

    def model(self, problem: bl.BilevelProblem, x: bl.Array, warm_start: bl.mdp.TabularSolution | None) -> bl.SoftMDP:
        return problem.lower.model(x)

    def start(self, model: bl.SoftMDP, warm_start: bl.mdp.TabularSolution | None) -> bl.Array:
        usable = warm_start is not None and warm_start.values.shape == (model.states,)
        return warm_start.values if usable else np.zeros(model.states)

    def backup(self, model: bl.SoftMDP, values: bl.Array) -> Sweep:
        action_values = self.action_values(model, values)
        return Sweep(values, action_values, self.policy(model, action_values), self.maximum(model, action_values))

    def rewards(self, model: bl.SoftMDP) -> bl.Array:
        return model.rewards

    def continuation(self, model: bl.SoftMDP, values: bl.Array) -> bl.Array:
        return model.discount * model.transitions.expectation(values)

    def action_values(self, model: bl.SoftMDP, values: bl.Array) -> bl.Array:
        """`q = r + γPv`."""
        return self.rewards(model) + self.continuation(model, values)

    def preferences(self, model: bl.SoftMDP, action_values: bl.Array) -> bl.Array:
        """`q/τ + log μ`."""
        log_reference = 0.0 if model.reference is None else np.log(model.reference)
        return action_values / model.temperature + log_reference

    def maximum(self, model: bl.SoftMDP, action_values: bl.Array) -> bl.Array:
        """`τ log Σ_a μ exp(q/τ)`."""
        preferences = self.preferences(model, action_values)
        largest = preferences.max(axis=1)
        return model.temperature * (largest + np.log(np.exp(preferences - largest[:, None]).sum(axis=1)))

    def policy(self, model: bl.SoftMDP, action_values: bl.Array) -> bl.Array:
        return softmax(self.preferences(model, action_values))

    def wanted(self, model: bl.SoftMDP) -> float:
        return (1.0 - model.discount) * self.tolerance

    def floor(self, model: bl.SoftMDP, sweep: Sweep) -> float:
        """What rounding alone can make of `Tv − v`."""
        return 8 * EPSILON * max(float(np.abs(sweep.action_values).max()), model.temperature)

    def goes_on(self, model: bl.SoftMDP, sweep: Sweep, backups: int) -> bool:
        return sweep.residual > max(self.wanted(model), self.floor(model, sweep)) and backups <= self.most

    def answer(self, model: bl.SoftMDP, sweep: Sweep, previous: Sweep, backups: int) -> bl.mdp.TabularSolution:
        return bl.mdp.TabularSolution(
            model,
            sweep.policy,
            sweep.values,
            sweep.action_values,
            self.residual(model, sweep, previous),
            backups - 1,
            self.status(model, sweep),
            bl.Cost(backups=self.counted(backups)),
        )

    def residual(self, model: bl.SoftMDP, sweep: Sweep, previous: Sweep) -> float:
        return sweep.residual

    def status(self, model: bl.SoftMDP, sweep: Sweep) -> bl.Status:
        if not math.isfinite(sweep.residual):
            return bl.Status.NON_FINITE
        if sweep.residual <= self.wanted(model):
            return bl.Status.CONVERGED
        stuck = sweep.residual <= self.floor(model, sweep)
        return bl.Status.STAGNATED if stuck else bl.Status.BUDGET_SPENT

    def counted(self, backups: int) -> int:
        return backups


def softmax(preferences: bl.Array) -> bl.Array:
    weights = np.exp(preferences - preferences.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@attrs.frozen
class TrackingSolver(ExactSolver):
    """A fixed number of sweeps from the last answer."""

    name: ClassVar[str] = "planted-tracking"

    sweeps: int = 5

    @property
    def tags(self) -> bl.Tags:
        return bl.Tags("tracking")

    def goes_on(self, model: bl.SoftMDP, sweep: Sweep, backups: int) -> bool:
        return backups <= self.sweeps


# The equation.


class TemperatureForgottenInThePolicy(ExactSolver):
    def policy(self, model, action_values):
        return softmax(self.preferences(model, action_values * model.temperature))


class HardMaximum(ExactSolver):
    def maximum(self, model, action_values):
        return model.temperature * self.preferences(model, action_values).max(axis=1)


class KernelOfTheNextAction(ExactSolver):
    def continuation(self, model, values):
        return np.roll(super().continuation(model, values), -1, axis=1)


class DiscountSquared(ExactSolver):
    def continuation(self, model, values):
        return model.discount * super().continuation(model, values)


class RewardOfTheNextState(ExactSolver):
    def rewards(self, model):
        # Of the state after, the average over its actions; by the stored entries, so that no backup goes uncounted.
        rows, successors, probabilities = model.transitions.stored()
        paid = probabilities * model.rewards.mean(axis=1)[successors]
        return np.bincount(rows, paid, model.rewards.size).reshape(model.rewards.shape)


class ReferenceIgnored(ExactSolver):
    def preferences(self, model, action_values):
        return action_values / model.temperature


class ReferenceInThePolicyOnly(ExactSolver):
    def maximum(self, model, action_values):
        return super().maximum(model.replace(reference=None), action_values)


class ReferenceInTheValuesOnly(ExactSolver):
    def policy(self, model, action_values):
        return softmax(action_values / model.temperature)


class NoShiftInTheLogSumExp(ExactSolver):
    def maximum(self, model, action_values):
        return model.temperature * np.log(np.exp(self.preferences(model, action_values)).sum(axis=1))


class TemperatureFloor(ExactSolver):
    """Takes any temperature below 0.2 for 0.2, "for stability"."""

    def preferences(self, model, action_values):
        log_reference = 0.0 if model.reference is None else np.log(model.reference)
        return action_values / max(model.temperature, 0.2) + log_reference

    def maximum(self, model, action_values):
        return super().maximum(model, action_values) * max(model.temperature, 0.2) / model.temperature


class RewardsCentred(ExactSolver):
    def rewards(self, model):
        return model.rewards - model.rewards.mean()


class RewardsClipped(ExactSolver):
    def rewards(self, model):
        return np.clip(model.rewards, -0.5, 0.5)


class TiesBrokenByTheIndex(ExactSolver):
    def rewards(self, model):
        return model.rewards + 1e-6 * np.arange(model.actions)


class StateZeroIsTakenToEnd(ExactSolver):
    def continuation(self, model, values):
        continuation = super().continuation(model, values)
        continuation[0] = 0.0
        return continuation


class RowsDoNotSumToOne(ExactSolver):
    def policy(self, model, action_values):
        return super().policy(model, action_values) * (1.0 + 1e-6)


class IgnoresX(ExactSolver):
    def model(self, problem, x, warm_start):
        return problem.lower.model(np.zeros_like(x))


class ModelOfTheWarmStart(ExactSolver):
    def model(self, problem, x, warm_start):
        return problem.lower.model(x) if warm_start is None else warm_start.model


class DenseKernelsOnly(ExactSolver):
    """Reads the array of probabilities as (S, A, S), which a sparse kernel's is not."""

    def continuation(self, model, values):
        model.transitions.expectation(values)  # so that the backups that it reports are made
        return model.discount * (model.transitions.probabilities @ values)


# What it says of its answer.


class StopsEarly(ExactSolver):
    def goes_on(self, model, sweep, backups):
        return backups <= 10

    def status(self, model, sweep):
        return bl.Status.CONVERGED if math.isfinite(sweep.residual) else bl.Status.NON_FINITE


class ToleranceOnTheResidual(ExactSolver):
    """Stops at `‖Tv − v‖ ≤ tolerance`, which leaves an error of up to tolerance/(1−γ)."""

    def wanted(self, model):
        return self.tolerance


class ValuesOneBackupOlder(TrackingSolver):
    def answer(self, model, sweep, previous, backups):
        return attrs.evolve(super().answer(model, sweep, previous, backups), values=previous.values)


class ActionValuesOneBackupOlder(TrackingSolver):
    def answer(self, model, sweep, previous, backups):
        solution = super().answer(model, sweep, previous, backups)
        return attrs.evolve(solution, action_values=previous.action_values)


class PolicyOneBackupOlder(TrackingSolver):
    def answer(self, model, sweep, previous, backups):
        return attrs.evolve(super().answer(model, sweep, previous, backups), policy=previous.policy)


class ResidualUnderstated(TrackingSolver):
    def residual(self, model, sweep, previous):
        return sweep.residual / 10


class ResidualOfThePreviousIterate(TrackingSolver):
    def residual(self, model, sweep, previous):
        return previous.residual


class ResidualAlwaysZero(TrackingSolver):
    def residual(self, model, sweep, previous):
        return 0.0 if math.isfinite(sweep.residual) else sweep.residual


class ResidualAveraged(TrackingSolver):
    """The mean over ρ, where the largest over all states is promised."""

    def residual(self, model, sweep, previous):
        return float(model.initial @ np.abs(sweep.backed_up - sweep.values))


class ConvergedAlthoughNotFinite(ExactSolver):
    def status(self, model, sweep):
        return bl.Status.CONVERGED if not math.isfinite(sweep.residual) else super().status(model, sweep)


class NotFiniteCalledBudgetSpent(ExactSolver):
    def status(self, model, sweep):
        return bl.Status.BUDGET_SPENT if not math.isfinite(sweep.residual) else super().status(model, sweep)


class RaisesOnNotFinite(ExactSolver):
    def model(self, problem, x, warm_start):
        model = problem.lower.model(x)
        if not np.isfinite(model.rewards).all():
            raise ValueError("the rewards are not finite")
        return model


class CountsNoBackups(ExactSolver):
    def counted(self, backups):
        return 0


class CountsOneBackupTooFew(ExactSolver):
    def counted(self, backups):
        return backups - 1


class ValuesInSinglePrecision(ExactSolver):
    def answer(self, model, sweep, previous, backups):
        solution = super().answer(model, sweep, previous, backups)
        return attrs.evolve(solution, values=solution.values.astype(np.float32))


class ValuesRoundedToSinglePrecision(ExactSolver):
    def answer(self, model, sweep, previous, backups):
        solution = super().answer(model, sweep, previous, backups)
        return attrs.evolve(solution, values=solution.values.astype(np.float32).astype(np.float64))


# What it does to others, and keeps for itself.


class MutatesX(ExactSolver):
    def model(self, problem, x, warm_start):
        model = problem.lower.model(x)
        written(x, x * 1.001 + 1e-3)
        return model


class MutatesTheRewards(ExactSolver):
    def answer(self, model, sweep, previous, backups):
        solution = super().answer(model, sweep, previous, backups)
        written(model.rewards, model.rewards + 1e-3)
        return solution


class WritesIntoTheWarmStart(TrackingSolver):
    """Leaves its values in the array that it was given, and returns that array."""

    def solve(self, problem, x, warm_start, rng):
        solution = super().solve(problem, x, warm_start, rng)
        if warm_start is None or warm_start.values.shape != solution.values.shape:
            return solution
        written(warm_start.values, solution.values)
        return attrs.evolve(solution, values=warm_start.values)


class ConvergesInTheWarmStart(ExactSolver):
    """Iterates in the array that it was given: at the same x nothing changes there, at another x everything."""

    def solve(self, problem, x, warm_start, rng):
        solution = super().solve(problem, x, warm_start, rng)
        if warm_start is not None and warm_start.values.shape == solution.values.shape:
            written(warm_start.values, solution.values)
        return solution


@attrs.frozen
class RemembersTheLastValues(ExactSolver):
    memory: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def start(self, model, warm_start):
        last = self.memory.get("values")
        return last if last is not None and last.shape == (model.states,) else super().start(model, warm_start)

    def answer(self, model, sweep, previous, backups):
        self.memory["values"] = sweep.values
        return super().answer(model, sweep, previous, backups)


@attrs.frozen
class TracksInsideTheObject(TrackingSolver):
    memory: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def start(self, model, warm_start):
        last = self.memory.get("values", np.zeros(model.states))
        return last if last.shape == (model.states,) else np.zeros(model.states)

    def answer(self, model, sweep, previous, backups):
        self.memory["values"] = sweep.values
        return super().answer(model, sweep, previous, backups)


class WarmStartTakenForTheAnswer(ExactSolver):
    def solve(self, problem, x, warm_start, rng):
        solution = super().solve(problem, x, warm_start, rng)
        if warm_start is None or warm_start.policy.shape != solution.policy.shape:
            return solution
        return attrs.evolve(warm_start, model=solution.model, cost=solution.cost)


class NeverGetsFurther(TrackingSolver):
    def start(self, model, warm_start):
        return np.zeros(model.states)


class StartsAtRandom(TrackingSolver):
    def start(self, model, warm_start):
        noise = np.random.standard_normal(model.states)  # noqa: NPY002
        return super().start(model, warm_start) + noise


class AsksForASimulator(ExactSolver):
    def model(self, problem, x, warm_start):
        problem.lower.simulator(x)
        return problem.lower.model(x)


class AsksForTheObjective(ExactSolver):
    def model(self, problem, x, warm_start):
        model = problem.lower.model(x)
        uniform = np.full((model.states, model.actions), 1.0 / model.actions)
        problem.objective.value_and_gradients(x, uniform)
        return model


# From samples.


@attrs.frozen
class CountingSolver:
    """Counts transitions from everywhere, and solves the world as it was counted."""

    name: ClassVar[str] = "planted-counting"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    produces: ClassVar[type] = bl.sampling.SampledSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False, tolerance=0.02)

    samples: int = 1_000_000
    horizon: int = 20

    restore = staticmethod(bl.sampling.SampledSolution.restored)

    def solve(
        self, problem: bl.BilevelProblem, x: bl.Array, warm_start: Any | None, rng: np.random.Generator
    ) -> bl.sampling.SampledSolution:
        simulator = problem.lower.simulator(x)
        spec = simulator.spec
        shape = (spec.states, spec.actions)
        paths = self.paths(simulator, np.full(shape, 1.0 / spec.actions), rng)
        before, after = paths.observations[:, :-1].reshape(-1), paths.observations[:, 1:].reshape(-1)
        pairs = before * spec.actions + paths.actions.reshape(-1)
        count = np.bincount(pairs, minlength=spec.states * spec.actions)
        seen = np.maximum(count, 1).reshape(shape)
        with np.errstate(all="ignore"):
            paid = np.bincount(pairs, paths.rewards.reshape(-1), count.size).reshape(shape) / seen
            table = np.bincount(pairs * spec.states + after, minlength=count.size * spec.states)
            kernel = table.reshape(*shape, spec.states) / seen[..., None]
            action_values = np.zeros(shape)
            for _ in range(self.sweeps(spec.discount)):
                values = self.maximum(spec, action_values)
                action_values = paid + self.discount(spec) * (kernel @ values)
            missed = paths.rewards.reshape(-1) + spec.discount * values[after] - action_values.reshape(-1)[pairs]
            residual = float(np.abs(missed).mean())
            policy = softmax(self.preferences(spec, action_values))
        status = bl.Status.BUDGET_SPENT if math.isfinite(residual) else self.not_finite
        cost = bl.Cost(samples=self.counted(paths.samples))
        return bl.sampling.SampledSolution(simulator, policy, action_values, residual, status, cost)

    not_finite: ClassVar[bl.Status] = bl.Status.NON_FINITE

    def paths(self, simulator: Any, policy: bl.Array, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return self.drawn(simulator, policy, self.samples, rng)

    def drawn(
        self, simulator: Any, policy: bl.Array, samples: int, rng: np.random.Generator
    ) -> bl.sampling.Trajectories:
        """Single steps from all (s, a) in turn; trajectories where the simulator only starts where it starts."""
        if not isinstance(simulator, bl.sampling.SupportsRestart):
            return simulator.rollout(policy, samples // self.horizon, self.horizon, rng)
        pairs = np.arange(samples) % policy.size
        return simulator.rollout_from(pairs // policy.shape[1], pairs % policy.shape[1], policy, 1, rng)

    def discount(self, spec: bl.sampling.FollowerSpec) -> float:
        return spec.discount

    def sweeps(self, discount: float) -> int:
        """Until γ^N = 1e-6, far below what sampling leaves."""
        return math.ceil(math.log(1e-6) / math.log(discount)) + 1 if discount else 1

    def preferences(self, spec: bl.sampling.FollowerSpec, action_values: bl.Array) -> bl.Array:
        return action_values / spec.temperature + (0.0 if spec.reference is None else np.log(spec.reference))

    def maximum(self, spec: bl.sampling.FollowerSpec, action_values: bl.Array) -> bl.Array:
        preferences = self.preferences(spec, action_values)
        largest = preferences.max(axis=1)
        return spec.temperature * (largest + np.log(np.exp(preferences - largest[:, None]).sum(axis=1)))

    def counted(self, samples: int) -> int:
        return samples


class SamplesUnderReported(CountingSolver):
    def counted(self, samples):
        return samples // 2


class LearnsTheHardMaximum(CountingSolver):
    def maximum(self, spec, action_values):
        return spec.temperature * self.preferences(spec, action_values).max(axis=1)


class LearnsTheExploringPolicy(CountingSolver):
    """The values of the policy that explores, not of the best one."""

    def maximum(self, spec, action_values):
        return action_values.mean(axis=1)


class SampledDiscountForgotten(CountingSolver):
    """Learns what an action earns at once, and nothing of what comes after."""

    def discount(self, spec):
        return 0.0


class SampledTemperatureForgotten(CountingSolver):
    """Learns at temperature one, whatever the follower's is."""

    def preferences(self, spec, action_values):
        return action_values + (0.0 if spec.reference is None else np.log(spec.reference))

    def maximum(self, spec, action_values):
        return super().maximum(attrs.evolve(spec, temperature=1.0), action_values)


class SampledReferenceIgnored(CountingSolver):
    def preferences(self, spec, action_values):
        return action_values / spec.temperature


class PeeksAtTheModel(CountingSolver):
    def solve(self, problem, x, warm_start, rng):
        learnt = super().solve(problem, x, warm_start, rng)
        exact = ExactSolver().solve(problem, x, None, rng)
        return attrs.evolve(learnt, policy=exact.policy, action_values=exact.action_values)


class SeedsItself(CountingSolver):
    def paths(self, simulator, policy, rng):
        return super().paths(simulator, policy, np.random.default_rng())


class SampledConvergedAlthoughNotFinite(CountingSolver):
    not_finite: ClassVar[bl.Status] = bl.Status.CONVERGED


class WritesIntoTheWarmStartsActionValues(CountingSolver):
    """Forgets half of what the last call learnt, where the last call's answer holds it."""

    def solve(self, problem, x, warm_start, rng):
        if warm_start is not None:
            written(warm_start.action_values, 0.5 * warm_start.action_values)
        return super().solve(problem, x, warm_start, rng)


@attrs.frozen
class SamplesLessEveryCall(CountingSolver):
    """Draws half as much a call, by a counter of its own."""

    memory: dict[str, int] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def paths(self, simulator, policy, rng):
        calls = self.memory["calls"] = self.memory.get("calls", 0) + 1
        return self.drawn(simulator, policy, max(1000, self.samples // 2**calls), rng)
