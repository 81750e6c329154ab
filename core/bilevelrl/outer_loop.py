"""One outer iteration as a pure step: three components composed, and what passes between them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel, TabularSolution
from bilevelrl.objectives.protocols import PolicyObjective, StepwiseObjective, TrajectoryObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.feasible_sets import Free, stationarity
from bilevelrl.protocols import (
    Cost,
    HyperGradient,
    HyperGradientEstimator,
    LowerLevelSolution,
    LowerLevelSolver,
    OptimizerState,
    Status,
    UpperLevelOptimizer,
)
from bilevelrl.randomness import Streams, stream
from bilevelrl.sampling.solution import SampledSolution, SupportsSampling
from bilevelrl.validation.arrays import Array, all_finite
from bilevelrl.validation.errors import IncompatibleError, InputError, TravellingError, kind_words
from bilevelrl.validation.fields import check_count

# A gradient this many times longer than the first is no longer being descended.
DIVERGENCE = 1e8


class StepFailed(TravellingError, ArithmeticError):
    """A step could not be completed; the state before it is still good.

    Attributes:
        status: `Status.DIVERGED` or `Status.NON_FINITE`.
        component: which component's answer was unusable, by its name.
        iteration: the iteration that failed.
    """

    def __init__(self, status: Status, component: str, iteration: int) -> None:
        self.status = status
        self.component = component
        self.iteration = iteration
        super().__init__(f"iteration {iteration}, {component}: {status.advice}")


@attrs.frozen(eq=False, slots=False)
class OuterState:
    """Everything the outer loop carries from one iteration to the next.

    Args:
        iteration: updates of x so far.
        x: (n,) the leader's decision.
        solution: the follower's answer at x.
        hyper: the hyper-gradient at x.
        optimizer: what the optimiser remembers.
        cost: the cost of the run so far.
    """

    iteration: int
    x: Array
    solution: Any
    hyper: HyperGradient
    optimizer: OptimizerState
    cost: Cost


@attrs.frozen
class OuterLoop:
    """A lower-level solver, a hyper-gradient estimator and an upper-level optimizer: one outer iteration.

    Args:
        lower: answers x with the follower's policy.
        estimator: differentiates the leader's objective through that answer.
        upper: moves x.
        name: what tables and pictures call it.
    """

    lower: LowerLevelSolver = attrs.field()
    estimator: HyperGradientEstimator = attrs.field()
    upper: UpperLevelOptimizer = attrs.field()
    name: str = "custom"

    @lower.validator
    def _check_lower(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_protocol("lower", value, LowerLevelSolver)

    @estimator.validator
    def _check_estimator(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_protocol("estimator", value, HyperGradientEstimator)

    @upper.validator
    def _check_upper(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_protocol("upper", value, UpperLevelOptimizer)

    @functools.cached_property
    def _lower_label(self) -> str:
        return f"lower-level solver {self.lower.name!r}"

    @functools.cached_property
    def _upper_label(self) -> str:
        return f"optimizer {self.upper.name!r}"

    @functools.cached_property
    def _estimator_label(self) -> str:
        return f"estimator {self.estimator.name!r}"

    def check_compatible(self, problem: BilevelProblem) -> None:
        """Raise `IncompatibleError` where a component needs what the problem does not offer, naming what would work."""
        if not isinstance(problem, BilevelProblem):
            raise InputError("problem", kind_words(problem), "a BilevelProblem, such as bilevelrl.problem(name)")
        lower, objective = problem.lower, problem.objective
        check_requirement(Kind.LOWER_LEVEL_SOLVER, "lower-level solver", self.lower, "requires", problem, lower)
        kind = Kind.HYPERGRADIENT_ESTIMATOR
        check_requirement(kind, "estimator", self.estimator, "requires", problem, lower)
        check_requirement(kind, "estimator", self.estimator, "requires_objective", problem, objective)

    def start(self, problem: BilevelProblem, *, seed: int = 0, x: object = None) -> OuterState:
        """The state at iteration 0: the follower's answer and the hyper-gradient where the run begins.

        Args:
            problem: what to solve.
            seed: keys every random stream of the run.
            x: where to begin, instead of the problem's own starting point.
        """
        if x is None:
            return self.evaluate(problem, problem.initial_point(stream(seed, "start")), seed=seed)
        return self.evaluate(problem, problem.feasible_set.project(problem.point(x)), seed=seed)

    def evaluate(self, problem: BilevelProblem, x: object, *, seed: int = 0) -> OuterState:
        """The follower's answer and the hyper-gradient at x itself, feasible or not, from a cold start."""
        point = problem.point(x)
        with quietly():
            return self._evaluate(problem, Streams(seed), 0, point, None, self.upper.init(point))

    def step(self, problem: BilevelProblem, state: OuterState, *, seed: int = 0) -> OuterState:
        """One outer iteration: move x, project it, let the follower answer, differentiate the answer.

        The state that comes out is consistent: its solution and hyper-gradient belong to its x. The same (state, seed)
        gives the same step, bit for bit.

        Raises:
            StepFailed: where a component diverged or a value is not finite; `state` is then still good.
        """
        with quietly():
            return self._step(problem, state, Streams(seed))

    def _step(self, problem: BilevelProblem, state: OuterState, streams: Streams) -> OuterState:
        iteration = state.iteration + 1
        try:
            answer = self.upper.update(state.x, state.hyper, state.optimizer)
        except Exception as error:
            note_origin(error, self._upper_label, iteration)
            raise
        x, optimizer = check_update(self._upper_label, answer)
        check_shape("x", self._upper_label, x, state.x.shape)
        if not isinstance(problem.feasible_set, Free):
            x = problem.feasible_set.project(x)
        if not all_finite(x):
            raise StepFailed(Status.NON_FINITE, self._upper_label, iteration)
        return self._evaluate(problem, streams, iteration, x, state, optimizer)

    def _evaluate(
        self,
        problem: BilevelProblem,
        streams: Streams,
        iteration: int,
        x: Array,
        before: OuterState | None,
        optimizer: OptimizerState,
    ) -> OuterState:
        warm_start, previous, spent = (
            (None, None, Cost()) if before is None else (before.solution, before.hyper, before.cost)
        )
        try:
            solution = self.lower.solve(problem, x, warm_start, streams.of(self.lower, "lower", iteration))
        except Exception as error:
            note_origin(error, self._lower_label, iteration)
            raise
        if before is None or type(solution) is not type(warm_start):
            check_protocol(f"the answer of {self._lower_label}", solution, LowerLevelSolution)
        check_tables(self._lower_label, solution)
        if not (solution.status.usable and math.isfinite(solution.residual)):
            status = Status.NON_FINITE if solution.status.usable else solution.status
            raise StepFailed(status, self._lower_label, iteration)
        rng = streams.of(self.estimator, "estimator", iteration)
        try:
            hyper = self.estimator.estimate(problem, x, solution, previous, rng)
        except Exception as error:
            note_origin(error, self._estimator_label, iteration)
            raise
        check_protocol(f"the answer of {self._estimator_label}", hyper, HyperGradient)
        self._check_estimate(hyper, x, solution, iteration)
        return OuterState(iteration, x, solution, hyper, optimizer, spent.plus(solution.cost, hyper.cost))

    def _check_estimate(self, hyper: HyperGradient, x: Array, solution: Any, iteration: int) -> None:
        check_shape("the gradient's direct part", self._estimator_label, hyper.direct, x.shape)
        check_shape("the gradient's implicit part", self._estimator_label, hyper.implicit, x.shape)
        finite = math.isfinite(hyper.objective) and all_finite(hyper.gradient)
        if not (hyper.status.usable and finite):
            status = Status.NON_FINITE if hyper.status.usable else hyper.status
            policy = getattr(solution, "policy", None)
            if isinstance(policy, np.ndarray) and not np.isfinite(policy).all():  # garbage in, garbage out
                raise StepFailed(Status.NON_FINITE, self._lower_label, iteration)
            raise StepFailed(status, self._estimator_label, iteration)

    def iterate(self, problem: BilevelProblem, *, seed: int = 0, x: object = None) -> Iterator[OuterState]:
        """The states of a run, the first included, one at a time and without end: what to stop at is the caller's.

        The states are those of `run`, bit for bit.

        Raises:
            StepFailed: where a step cannot be completed, or the gradient grows without bound; the states before it are
                good.
        """
        check_count("seed", seed, at_least=0)
        self.check_compatible(problem)
        return self._states(problem, seed, x)

    def _states(self, problem: BilevelProblem, seed: int, x: object) -> Iterator[OuterState]:
        state, streams = self.start(problem, seed=seed, x=x), Streams(seed)
        with quietly():
            distance = stationarity(problem.feasible_set, state.x, state.hyper.gradient)
        limit = DIVERGENCE * max(1.0, distance)
        while True:
            yield state
            with quietly():
                state, _ = self.next_state(problem, state, streams, limit)

    def next_state(
        self, problem: BilevelProblem, state: OuterState, streams: Streams, limit: float
    ) -> tuple[OuterState, float]:
        """The next state with its distance to stationarity; raises `StepFailed` where that is beyond the limit."""
        moved = self._step(problem, state, streams)
        distance = stationarity(problem.feasible_set, moved.x, moved.hyper.gradient)
        if distance > limit:
            raise StepFailed(Status.DIVERGED, self._upper_label, moved.iteration)
        return moved, distance


def quietly() -> np.errstate:
    """A value that is not finite is told once, as a status with its component, without NumPy's warnings before it."""
    return np.errstate(over="ignore", invalid="ignore")


NEEDS: dict[type, str] = {
    SupportsModel: "a transition model",
    SupportsSampling: "a simulator",
    PolicyObjective: "an objective of the policy",
    TrajectoryObjective: "an objective over trajectories",
    StepwiseObjective: "an objective that adds up over the steps of a trajectory",
}


def check_protocol(field: str, value: object, protocol: Any) -> None:
    """Raise `InputError` for a class instead of an instance, and for an object that is no such thing."""
    if isinstance(value, type):
        raise InputError(field, f"the class {value.__name__}", f"an instance, such as {value.__name__}()")
    if not isinstance(value, protocol):
        raise InputError(field, kind_words(value), f"a {protocol.__name__}")


def check_shape(what: str, label: str, value: object, shape: tuple[int, ...]) -> None:
    """Raise `InputError` where what a component answered is no array, or not of that shape."""
    if isinstance(value, np.ndarray):
        if value.shape == shape:
            return
        raise InputError(f"the shape of {what} from {label}", str(value.shape), str(shape))
    raise InputError(f"{what} from {label}", kind_words(value), f"an array of shape {shape}")


def check_update(label: str, answer: object) -> tuple[Any, OptimizerState]:
    """An optimizer's answer taken apart; raises `InputError` for anything but x and a state."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], OptimizerState)):
        raise InputError(f"the answer of {label}", kind_words(answer), "a tuple of x and an OptimizerState")
    return answer


def check_tables(label: str, solution: object) -> None:
    """Raise `InputError` where the tables of a follower's answer do not fit its own model or simulator."""
    if type(solution) is TabularSolution:
        shape = solution.model.rewards.shape
        check_shape("the follower's values", label, solution.values, shape[:1])
    elif type(solution) is SampledSolution:
        shape = (solution.simulator.spec.states, solution.simulator.spec.actions)
    else:
        return
    check_shape("the follower's policy", label, solution.policy, shape)
    check_shape("the follower's action values", label, solution.action_values, shape)


def note_origin(error: Exception, label: str, iteration: int) -> None:
    """Add to a component's own error which component it was, and when; an `InputError` says all by itself."""
    if not isinstance(error, InputError):
        error.add_note(f"raised in {label} at iteration {iteration}")


def check_requirement(
    kind: Kind, role: str, component: Any, member: str, problem: BilevelProblem, offered: object
) -> None:
    """Raise `IncompatibleError` where the problem does not offer what a component requires, naming what would work."""
    wanted = getattr(component, member)
    if isinstance(offered, wanted):
        return
    alternatives = (SupportsModel, SupportsSampling, PolicyObjective, TrajectoryObjective)
    has = " and ".join(p.__name__ for p in alternatives if isinstance(offered, p)) or type(offered).__name__
    working = [
        repr(entry.name)
        for entry in registry().of_kind(kind)
        if isinstance(problem.lower, getattr(entry.component, "requires", object))
        and isinstance(problem.objective, getattr(entry.component, "requires_objective", object))
    ]
    plural = role[0].upper() + role[1:] + "s"
    advice = f"{plural} that would work: {', '.join(working)}" if working else f"No registered {role} would work"
    raise IncompatibleError(
        f"{role} {component.name!r} needs {NEEDS.get(wanted, 'more')} ({wanted.__name__}); "
        f"problem {problem.name!r} offers only {has}. {advice}"
    )
