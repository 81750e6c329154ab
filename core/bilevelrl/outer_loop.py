"""One outer iteration as a pure function of the state, composed of three components."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective, StepwiseObjective, TrajectoryObjective
from bilevelrl.occupancy import check_occupancy_forms
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
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.validation.arrays import Array, all_finite
from bilevelrl.validation.errors import IncompatibleError, InputError, TravellingError, kind_words
from bilevelrl.validation.fields import check_count
from bilevelrl.validation.saved import check_table

# A run with a gradient this many times longer than its first one has diverged.
DIVERGENCE = 1e8


class StepFailed(TravellingError, ArithmeticError):
    """A step could not be completed; the state before it is still valid.

    Attributes:
        status: `Status.DIVERGED` or `Status.NON_FINITE`.
        component: the name of the component whose answer was unusable.
        iteration: the iteration that failed.
    """

    def __init__(self, status: Status, component: str, iteration: int) -> None:
        self.status = status
        self.component = component
        self.iteration = iteration
        super().__init__(f"iteration {iteration}, {component}: {status.advice}")


@attrs.frozen(eq=False, slots=False)
class OuterState:
    """The state of the outer loop between two iterations.

    Args:
        iteration: updates of x so far.
        x: (n,) the leader's decision.
        solution: the follower's answer at x.
        hyper: the hyper-gradient at x.
        optimizer: the optimiser's state.
        cost: the costs that the components counted so far.
        seconds: wall-clock time in the components' calls so far.
    """

    iteration: int
    x: Array
    solution: Any
    hyper: HyperGradient
    optimizer: OptimizerState
    cost: Cost
    seconds: float = 0.0


@attrs.frozen(eq=False)
class BestIterate:
    """The x with the smallest objective so far.

    A random objective counts as its estimate plus twice its standard error. An objective with an unknown error is never
    the best.

    Args:
        iteration: the iteration that reached it.
        x: (n,).
        objective: `f(x, π)` by the algorithm's own estimate.
        bound: the objective plus twice its standard error, which is compared.
    """

    iteration: int
    x: Array
    objective: float
    bound: float

    @classmethod
    def of(cls, state: OuterState, before: BestIterate | None = None) -> BestIterate | None:
        """The better one of a state and the best before it; None if both have an unknown error."""
        bound = state.hyper.objective + 2.0 * state.hyper.objective_error
        if math.isnan(bound) or (before is not None and not bound < before.bound):
            return before
        return cls(state.iteration, state.x, state.hyper.objective, bound)


@attrs.frozen
class OuterLoop:
    """A lower-level solver, a hyper-gradient estimator and an upper-level optimizer: one outer iteration.

    Args:
        lower: computes the follower's answer to x.
        estimator: differentiates the leader's objective through that answer.
        upper: updates x.
        name: its name in tables and pictures.
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

    def __attrs_post_init__(self) -> None:
        check_pair(self.lower, self.estimator)

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
        """Raise `IncompatibleError`, with what would work, if a component needs what the problem does not offer."""
        if not isinstance(problem, BilevelProblem):
            raise InputError("problem", kind_words(problem), "a BilevelProblem, such as bilevelrl.problem(name)")
        lower, objective = problem.lower, problem.objective
        check_requirement(Kind.LOWER_LEVEL_SOLVER, "lower-level solver", self.lower, "requires", problem, lower)
        kind = Kind.HYPERGRADIENT_ESTIMATOR
        check_requirement(kind, "estimator", self.estimator, "requires", problem, lower)
        check_requirement(kind, "estimator", self.estimator, "requires_objective", problem, objective)
        produced = getattr(self.estimator, "occupancy_forms", ())
        check_occupancy_forms(
            self._estimator_label, produced, problem.name, getattr(lower, "occupancy_forms", produced)
        )

    def start(self, problem: BilevelProblem, *, seed: int = 0, x: object = None) -> OuterState:
        """The state at iteration 0: the follower's answer and the hyper-gradient at the starting point.

        Args:
            problem: what to solve.
            seed: keys every random stream of the run.
            x: the starting point, instead of the problem's own.
        """
        if x is None:
            return self.evaluate(problem, problem.initial_point(stream(seed, "start")), seed=seed)
        return self.evaluate(problem, problem.feasible_set.project(problem.point(x)), seed=seed)

    def evaluate(self, problem: BilevelProblem, x: object, *, seed: int = 0) -> OuterState:
        """The follower's answer and the hyper-gradient at x, from a cold start; x is not projected."""
        point = problem.point(x)
        with quietly():
            began = time.perf_counter()
            return self._evaluate(problem, Streams(seed), 0, point, None, self.upper.init(point), began)

    def step(self, problem: BilevelProblem, state: OuterState, *, seed: int = 0) -> OuterState:
        """One outer iteration: update x, project it, compute the follower's answer, differentiate it.

        The returned state is consistent: its solution and hyper-gradient are those at its x. The same (state, seed)
        gives the same step, bit for bit.

        Raises:
            StepFailed: if a component diverged or a value is not finite; `state` is then still valid.
        """
        with quietly():
            return self._step(problem, state, Streams(seed))

    def _step(self, problem: BilevelProblem, state: OuterState, streams: Streams) -> OuterState:
        iteration, began = state.iteration + 1, time.perf_counter()
        try:
            answer = self.upper.update(state.x, state.hyper, state.optimizer)
        except Exception as error:
            note_origin(error, self._upper_label, iteration)
            raise
        x, optimizer = check_update(self._upper_label, answer)
        check_table(f"x from {self._upper_label}", x, state.x.shape)
        if not isinstance(problem.feasible_set, Free):
            x = problem.feasible_set.project(x)
        if not all_finite(x):
            raise StepFailed(Status.NON_FINITE, self._upper_label, iteration)
        return self._evaluate(problem, streams, iteration, x, state, optimizer, began)

    def _evaluate(
        self,
        problem: BilevelProblem,
        streams: Streams,
        iteration: int,
        x: Array,
        before: OuterState | None,
        optimizer: OptimizerState,
        began: float,
    ) -> OuterState:
        warm_start, previous, spent, seconds = (
            (None, None, Cost(), 0.0)
            if before is None
            else (before.solution, before.hyper, before.cost, before.seconds)
        )
        try:
            solution = self.lower.solve(problem, x, warm_start, streams.of(self.lower, "lower", iteration))
        except Exception as error:
            note_origin(error, self._lower_label, iteration)
            raise
        if before is None or type(solution) is not type(warm_start):
            check_protocol(f"the answer of {self._lower_label}", solution, LowerLevelSolution)
        check_parts(self._lower_label, solution)
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
        cost = spent.plus(solution.cost, hyper.cost)
        return OuterState(iteration, x, solution, hyper, optimizer, cost, seconds + time.perf_counter() - began)

    def _check_estimate(self, hyper: HyperGradient, x: Array, solution: Any, iteration: int) -> None:
        check_table(f"the gradient's direct part from {self._estimator_label}", hyper.direct, x.shape)
        check_table(f"the gradient's implicit part from {self._estimator_label}", hyper.implicit, x.shape)
        finite = math.isfinite(hyper.objective) and all_finite(hyper.gradient)
        if not (hyper.status.usable and finite):
            status = Status.NON_FINITE if hyper.status.usable else hyper.status
            policy = getattr(solution, "policy", None)
            if isinstance(policy, np.ndarray) and not np.isfinite(policy).all():  # its input is not finite
                raise StepFailed(Status.NON_FINITE, self._lower_label, iteration)
            raise StepFailed(status, self._estimator_label, iteration)

    def iterate(self, problem: BilevelProblem, *, seed: int = 0, x: object = None) -> Iterator[OuterState]:
        """The states of a run, including the first, one at a time and without end: the caller decides when to stop.

        The states are those of `run`, bit for bit.

        Raises:
            StepFailed: if a step cannot be completed, or the gradient grows without bound; the states before it are
                valid.
        """
        check_count("seed", seed, at_least=0)
        self.check_compatible(problem)
        return self._states(problem, seed, x)

    def _states(self, problem: BilevelProblem, seed: int, x: object) -> Iterator[OuterState]:
        state, streams = self.start(problem, seed=seed, x=x), Streams(seed)
        with quietly():
            distance = stationarity(problem.feasible_set, state.x, state.hyper.gradient)
        limit = divergence_limit(distance)
        while True:
            yield state
            with quietly():
                state, _ = self.next_state(problem, state, streams, limit)

    def next_state(
        self, problem: BilevelProblem, state: OuterState, streams: Streams, limit: float
    ) -> tuple[OuterState, float]:
        """The next state with its distance to stationarity; raises `StepFailed` if the distance exceeds the limit."""
        moved = self._step(problem, state, streams)
        distance = stationarity(problem.feasible_set, moved.x, moved.hyper.gradient)
        if distance > limit:
            raise StepFailed(Status.DIVERGED, self._upper_label, moved.iteration)
        return moved, distance


def divergence_limit(first: float) -> float:
    """The distance to stationarity above which a run has diverged, given that of its first state."""
    return DIVERGENCE * max(1.0, first)


def quietly() -> np.errstate:
    """A block without NumPy's warnings: a value that is not finite is reported once, as a status with its component."""
    return np.errstate(over="ignore", invalid="ignore")


NEEDS: dict[type, str] = {
    SupportsModel: "a transition model",
    SupportsSampling: "a simulator",
    PolicyObjective: "an objective of the policy",
    TrajectoryObjective: "an objective over trajectories",
    StepwiseObjective: "an objective that adds up over the steps of a trajectory",
}


def check_protocol(field: str, value: object, protocol: Any) -> None:
    """Raise `InputError` for a class instead of an instance, and for an object that lacks members of the protocol."""
    if isinstance(value, type):
        raise InputError(field, f"the class {value.__name__}", f"an instance, such as {value.__name__}()")
    if isinstance(value, protocol):
        return
    missing = [name for name in sorted(members_of(protocol)) if not hasattr(value, name)]
    without = f" without {', '.join(missing)}" if 0 < len(missing) < len(members_of(protocol)) else ""
    raise InputError(field, kind_words(value) + without, f"a {protocol.__name__}")


def members_of(kind: Any) -> frozenset[str]:
    """The names that a protocol requires, or that a class has: methods, properties, attrs fields, annotations."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base not in (object, Generic, Protocol):
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
    return frozenset(name for name in names if not name.startswith("_"))


def satisfies(offered: type, wanted: type) -> bool:
    """Whether instances of a class, or of a protocol, are instances of another class or protocol."""
    if getattr(wanted, "_is_protocol", False):
        return members_of(wanted) <= members_of(offered)
    return issubclass(offered, wanted)


def check_pair(lower: Any, estimator: Any) -> None:
    """Raise `IncompatibleError`, with what would work, if an estimator does not accept what a solver produces."""
    for component, member in ((lower, "produces"), (estimator, "accepts")):
        if not isinstance(getattr(component, member), type):
            field = f"{member} of {component.name!r}"
            raise InputError(field, kind_words(getattr(component, member)), "a class or a runtime-checkable protocol")
    if satisfies(lower.produces, estimator.accepts):
        return
    estimators = _working(Kind.HYPERGRADIENT_ESTIMATOR, "accepts", lambda accepts: satisfies(lower.produces, accepts))
    solvers = _working(Kind.LOWER_LEVEL_SOLVER, "produces", lambda produces: satisfies(produces, estimator.accepts))
    raise IncompatibleError(
        f"estimator {estimator.name!r} accepts a {estimator.accepts.__name__}, and lower-level solver {lower.name!r} "
        f"produces a {lower.produces.__name__}. Estimators that accept it: {estimators}; "
        f"solvers that produce a {estimator.accepts.__name__}: {solvers}"
    )


def _working(kind: Kind, member: str, works: Callable[[type], bool]) -> str:
    """The names of the registered components of a kind that work, without those whose member depends on options."""
    found = []
    for entry in registry().of_kind(kind):
        declared = getattr(entry.component, member)
        if isinstance(declared, type) and works(declared):
            found.append(repr(entry.name))
    return ", ".join(found) or "none is registered"


def check_update(label: str, answer: object) -> tuple[Any, OptimizerState]:
    """An optimizer's answer as x and a state; raises `InputError` for anything else."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], OptimizerState)):
        raise InputError(f"the answer of {label}", kind_words(answer), "a tuple of x and an OptimizerState")
    return answer


def check_parts(label: str, solution: Any) -> None:
    """Raise `InputError` if the solution has a method `check` that finds inconsistent parts."""
    check = getattr(solution, "check", None)
    if check is None:
        return
    try:
        check()
    except InputError as error:
        raise InputError(f"{error.field} from {label}", error.value, error.expected) from None


def note_origin(error: Exception, label: str, iteration: int) -> None:
    """Add a note with the component and the iteration to a component's own error; an `InputError` needs none."""
    if not isinstance(error, InputError):
        error.add_note(f"raised in {label} at iteration {iteration}")


def check_requirement(
    kind: Kind, role: str, component: Any, member: str, problem: BilevelProblem, offered: object
) -> None:
    """Raise `IncompatibleError` if the problem lacks what a component requires; the message names what would work."""
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
