"""Algorithm: three components composed, and the outer loop that runs them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.component_registry import Kind
from bilevelrl.feasible_sets import Free, stationarity
from bilevelrl.history import History, OuterState
from bilevelrl.plugins import registry
from bilevelrl.protocols import (
    Cost,
    HyperGradient,
    HyperGradientEstimator,
    LowerLevelSolution,
    LowerLevelSolver,
    OptimizerState,
    PolicyObjective,
    Status,
    StepwiseObjective,
    SupportsModel,
    SupportsSampling,
    TrajectoryObjective,
    UpperLevelOptimizer,
)
from bilevelrl.randomness import Streams, stream
from bilevelrl.run import Run
from bilevelrl.run_directory import RunDirectory, read_settings
from bilevelrl.validation import (
    Array,
    IncompatibleError,
    InputError,
    all_finite,
    as_float,
    check_count,
    kind_words,
    value_words,
)

Callback = Callable[[OuterState], None]


NEEDS: dict[type, str] = {
    SupportsModel: "a transition model",
    SupportsSampling: "a simulator",
    PolicyObjective: "an objective of the policy",
    TrajectoryObjective: "an objective over trajectories",
    StepwiseObjective: "an objective that adds up over the steps of a trajectory",
}


# A gradient this many times longer than the first is no longer being descended.
DIVERGENCE = 1e8


class StepFailed(ArithmeticError):
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


@attrs.frozen
class Algorithm:
    """A lower-level solver, a hyper-gradient estimator and an upper-level optimizer, run in turn.

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
        _check_protocol("lower", value, LowerLevelSolver)

    @estimator.validator
    def _check_estimator(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        _check_protocol("estimator", value, HyperGradientEstimator)

    @upper.validator
    def _check_upper(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        _check_protocol("upper", value, UpperLevelOptimizer)

    @property
    def _lower_label(self) -> str:
        return f"lower-level solver {self.lower.name!r}"

    @property
    def _estimator_label(self) -> str:
        return f"estimator {self.estimator.name!r}"

    def check_compatible(self, problem: BilevelProblem) -> None:
        """Raise `IncompatibleError` where a component needs what the problem does not offer, naming what would work."""
        if not isinstance(problem, BilevelProblem):
            raise InputError("problem", kind_words(problem), "a BilevelProblem, such as bilevelrl.problem(name)")
        lower, objective = problem.lower, problem.objective
        _check_requirement(Kind.LOWER_LEVEL_SOLVER, "lower-level solver", self.lower, "requires", problem, lower)
        kind = Kind.HYPERGRADIENT_ESTIMATOR
        _check_requirement(kind, "estimator", self.estimator, "requires", problem, lower)
        _check_requirement(kind, "estimator", self.estimator, "requires_objective", problem, objective)

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
        with _quietly():
            return self._evaluate(problem, Streams(seed), 0, point, None, self.upper.init(point))

    def step(self, problem: BilevelProblem, state: OuterState, *, seed: int = 0) -> OuterState:
        """One outer iteration: move x, project it, let the follower answer, differentiate the answer.

        The state that comes out is consistent: its solution and hyper-gradient belong to its x. The same (state, seed)
        gives the same step, bit for bit.

        Raises:
            StepFailed: where a component diverged or a value is not finite; `state` is then still good.
        """
        with _quietly():
            return self._step(problem, state, Streams(seed))

    def _step(self, problem: BilevelProblem, state: OuterState, streams: Streams) -> OuterState:
        x, optimizer = self.upper.update(state.x, state.hyper, state.optimizer)
        if not isinstance(problem.feasible_set, Free):
            x = problem.feasible_set.project(x)
        if x.shape != state.x.shape:
            raise InputError(f"the shape of x from optimizer {self.upper.name!r}", str(x.shape), str(state.x.shape))
        if not all_finite(x):
            raise StepFailed(Status.NON_FINITE, f"optimizer {self.upper.name!r}", state.iteration + 1)
        return self._evaluate(problem, streams, state.iteration + 1, x, state, optimizer)

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
        solution = self.lower.solve(problem, x, warm_start, streams.of(self.lower, "lower", iteration))
        if before is None:
            _check_protocol(f"the answer of {self._lower_label}", solution, LowerLevelSolution)
        if not (solution.status.usable and math.isfinite(solution.residual)):
            status = Status.NON_FINITE if solution.status.usable else solution.status
            raise StepFailed(status, self._lower_label, iteration)
        hyper = self.estimator.estimate(
            problem, x, solution, previous, streams.of(self.estimator, "estimator", iteration)
        )
        if before is None:
            _check_protocol(f"the answer of {self._estimator_label}", hyper, HyperGradient)
        self._check_estimate(hyper, x, solution, iteration)
        return OuterState(iteration, x, solution, hyper, optimizer, spent.plus(solution.cost, hyper.cost))

    def _check_estimate(self, hyper: HyperGradient, x: Array, solution: Any, iteration: int) -> None:
        if hyper.gradient.shape != x.shape:
            label = f"the shape of the gradient from {self._estimator_label}"
            raise InputError(label, str(hyper.gradient.shape), str(x.shape))
        finite = math.isfinite(hyper.objective) and all_finite(hyper.gradient)
        if not (hyper.status.usable and finite):
            status = Status.NON_FINITE if hyper.status.usable else hyper.status
            policy = getattr(solution, "policy", None)
            if isinstance(policy, np.ndarray) and not np.isfinite(policy).all():  # garbage in, garbage out
                raise StepFailed(Status.NON_FINITE, self._lower_label, iteration)
            raise StepFailed(status, self._estimator_label, iteration)

    def run(
        self,
        problem: BilevelProblem,
        *,
        iterations: int,
        seed: int = 0,
        x: object = None,
        tolerance: float = 0.0,
        callback: Callback | None = None,
        out: str | Path | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> Run:
        """Run the outer loop and return all it saw.

        Args:
            problem: what to solve.
            iterations: the largest number of updates of x.
            seed: keys every random stream of the run.
            x: where to begin, instead of the problem's own starting point.
            tolerance: stop once `‖x − Π_X(x − ∇φ)‖₂` and the residuals of solver and estimator are at most this.
                0 never stops early.
            callback: called with every state, the first included.
            out: a directory to write the run to while it goes on, so that `resume` can go on with it.
            checkpoint_every: iterations from one checkpoint to the next; None: only the time counts.
            checkpoint_seconds: time from one checkpoint to the next.

        Returns:
            A `Run`. A failure on the way (a value that is not finite, a diverging component) is told in its status,
            with the last good state kept; Ctrl-C likewise.

        Raises:
            InputError: for a mistake of the caller.
            StepFailed: where not even the starting point can be evaluated.
        """
        _check_settings(iterations, seed, tolerance)
        self.check_compatible(problem)
        began = time.perf_counter()
        settings = {"iterations": iterations, "seed": seed, "tolerance": float(tolerance)}
        callback = _as_here(callback)
        if out is None:
            first = self.start(problem, seed=seed, x=x)
            with _quietly():
                return self._loop(problem, settings, began, callback, *self._first_row(problem, first))
        directory = self._directory(out, problem, settings, checkpoint_every, checkpoint_seconds)
        directory.create(begins_elsewhere=x is not None)
        try:
            with _quietly():
                first, state, history = self._first_row(problem, self.start(problem, seed=seed, x=x))
                return self._loop(problem, settings, began, callback, first, state, history, directory)
        finally:
            directory.close()

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
        with _quietly():
            distance = stationarity(problem.feasible_set, state.x, state.hyper.gradient)
        limit = DIVERGENCE * max(1.0, distance)
        while True:
            yield state
            with _quietly():
                state, _ = self._next(problem, state, streams, limit)

    def _next(
        self, problem: BilevelProblem, state: OuterState, streams: Streams, limit: float
    ) -> tuple[OuterState, float]:
        """The next state with its distance to stationarity; raises `StepFailed` where that is beyond the limit."""
        moved = self._step(problem, state, streams)
        distance = stationarity(problem.feasible_set, moved.x, moved.hyper.gradient)
        if distance > limit:
            raise StepFailed(Status.DIVERGED, f"optimizer {self.upper.name!r}", moved.iteration)
        return moved, distance

    def resume(
        self,
        problem: BilevelProblem,
        directory: str | Path,
        *,
        iterations: int | None = None,
        callback: Callback | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> Run:
        """Go on with the run in a directory: bit for bit as if it had never stopped, but for the seconds.

        Args:
            problem: the same as before.
            directory: what `run(out=…)` wrote to.
            iterations: the largest number of updates of x, those already made included; None: as before.
            callback: called with every state, the one in the checkpoint included.
            checkpoint_every: see `run`.
            checkpoint_seconds: see `run`.

        Raises:
            InputError: where there is no run to go on with, or it is that of another problem or algorithm.
        """
        self.check_compatible(problem)
        began = time.perf_counter()
        settings = read_settings(Path(directory))
        if iterations is not None:
            settings["iterations"] = iterations
        _check_settings(**settings)
        held = self._directory(directory, problem, settings, checkpoint_every, checkpoint_seconds)
        found = held.reopen()
        try:
            if found is None:
                first, state, history = self._first_row(problem, self.start(problem, seed=settings["seed"]))
            else:
                first, state, history = found.first, found.last, found.history
                began -= found.seconds
            callback = _as_here(callback)
            with _quietly():
                return self._loop(problem, settings, began, callback, first, state, history, held)
        finally:
            held.close()

    def _directory(
        self,
        path: str | Path,
        problem: BilevelProblem,
        settings: dict[str, Any],
        every: int | None,
        seconds: float,
    ) -> RunDirectory:
        if every is not None:
            check_count("checkpoint_every", every, at_least=1)
        if not as_float(seconds) > 0:
            raise InputError("checkpoint_seconds", value_words(seconds), "a number above 0")
        return RunDirectory(path, problem, self, settings, every=every, seconds=seconds)

    def _first_row(self, problem: BilevelProblem, first: OuterState) -> tuple[OuterState, OuterState, History]:
        history = History()
        with _quietly():
            history.append(first, stationarity(problem.feasible_set, first.x, first.hyper.gradient))
        return first, first, history

    def _loop(
        self,
        problem: BilevelProblem,
        settings: dict[str, Any],
        began: float,
        callback: Callback | None,
        first: OuterState,
        state: OuterState,
        history: History,
        directory: RunDirectory | None = None,
    ) -> Run:
        iterations, tolerance = settings["iterations"], settings["tolerance"]
        streams = Streams(settings["seed"])
        status, stopped_by = Status.BUDGET_SPENT, ""
        distances = history["stationarity"]
        limit, distance = DIVERGENCE * max(1.0, float(distances[0])), float(distances[-1])
        try:
            if directory is not None:
                directory.begin(first, state, history)
            while True:
                if callback is not None:
                    callback(state)
                if tolerance > 0 and _has_converged(state, distance, tolerance):
                    status = Status.CONVERGED
                    break
                if state.iteration >= iterations:
                    break
                moved, distance = self._next(problem, state, streams, limit)
                history.append(moved, distance)
                state = moved
                if directory is not None:
                    directory.see(state, history)
        except StepFailed as failure:
            status, stopped_by = failure.status, f"{failure.component} at iteration {failure.iteration}"
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
            history.keep(state.iteration + 1)
        except BaseException:
            if directory is not None:  # a component's own error: what was computed before it is kept
                history.keep(state.iteration + 1)
                with contextlib.suppress(OSError, InputError):
                    directory.finish(state, history, Status.INTERRUPTED, "")
            raise
        run = Run(
            problem=problem,
            algorithm=self,
            iterations=iterations,
            seed=settings["seed"],
            tolerance=tolerance,
            first=first,
            last=state,
            history=history,
            status=status,
            stopped_by=stopped_by,
            seconds=time.perf_counter() - began,
        )
        if directory is not None:
            run.write_end(directory)
        return run


def _check_settings(iterations: object, seed: object, tolerance: object) -> None:
    check_count("iterations", iterations, at_least=0)
    check_count("seed", seed, at_least=0)
    number = as_float(tolerance)
    if not (math.isfinite(number) and number >= 0):
        raise InputError("tolerance", value_words(tolerance), "a finite number of at least 0")


def _quietly() -> np.errstate:
    """A value that is not finite is told once, as a status with its component, without NumPy's warnings before it."""
    return np.errstate(over="ignore", invalid="ignore")


def _as_here(callback: Callback | None) -> Callback | None:
    """A callback that has NumPy's warnings as they are here, and not as they are where it is called."""
    if callback is None:
        return None
    here = np.geterr()

    def called(state: OuterState) -> None:
        with np.errstate(**here):
            callback(state)

    return called


def _has_converged(state: OuterState, distance: float, tolerance: float) -> bool:
    # An inexact gradient can be small by accident: it counts only once the pieces it is made of are accurate too.
    residual = state.hyper.residual
    return (
        distance <= tolerance and state.solution.residual <= tolerance and (residual is None or residual <= tolerance)
    )


def _check_protocol(field: str, value: object, protocol: Any) -> None:
    if isinstance(value, type):
        raise InputError(field, f"the class {value.__name__}", f"an instance, such as {value.__name__}()")
    if not isinstance(value, protocol):
        raise InputError(field, kind_words(value), f"a {protocol.__name__}")


def _check_requirement(
    kind: Kind, role: str, component: Any, member: str, problem: BilevelProblem, offered: object
) -> None:
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
