"""Algorithm: three components composed, and the outer loop that runs them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.callbacks import Callbacks, Watchers
from bilevelrl.compatibility import (
    check_protocol,
    check_requirement,
    check_shape,
    check_tables,
    check_update,
    note_origin,
)
from bilevelrl.component_registry import Kind
from bilevelrl.feasible_sets import Free, stationarity
from bilevelrl.history import OuterState
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
from bilevelrl.run import Run
from bilevelrl.run_directory import RunDirectory, read_experiment
from bilevelrl.seeds import Plan, as_seeds, run_seeds
from bilevelrl.validation import Array, InputError, all_finite, as_path, check_count, kind_words
from bilevelrl.whole_runs import DIVERGENCE, WholeRun, check_intervals, check_settings, quietly
from bilevelrl.whole_runs import StepFailed as StepFailed
from bilevelrl.workers import Progress, use_jobs

if TYPE_CHECKING:
    from bilevelrl.workers import Jobs


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

    def run(
        self,
        problem: BilevelProblem,
        *,
        iterations: int,
        seed: int = 0,
        x: object = None,
        tolerance: float = 0.0,
        callback: Callbacks = None,
        out: str | Path | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float = 30.0,
        jobs: Jobs | None = None,
    ) -> Run:
        """Run the outer loop and return all it saw.

        Args:
            problem: what to solve.
            iterations: the largest number of updates of x.
            seed: keys every random stream of the run.
            x: where to begin, instead of the problem's own starting point.
            tolerance: stop once `‖x − Π_X(x − ∇φ)‖₂` and the residuals of solver and estimator are at most this.
                0 never stops early.
            callback: a `Callback`, a function that is called with every state (the first included), or several of
                either. One that raises an error is left out with a `CallbackWarning`.
            out: a directory to write the run to while it goes on, so that `resume` can go on with it. One that holds a
                run which could go on, or the runs of several seeds, is refused.
            checkpoint_every: iterations from one checkpoint to the next; None: only the time counts.
            checkpoint_seconds: time from one checkpoint to the next.
            jobs: who does the work of components that divide it, such as sample batches and contexts; see `use_jobs`.
                It does not change the run.

        Returns:
            A `Run`. A failure on the way (a value that is not finite, a diverging component) is told in its status,
            with the last good state kept; Ctrl-C likewise.

        Raises:
            InputError: for a mistake of the caller.
            StepFailed: where not even the starting point can be evaluated.
        """
        check_settings(iterations, seed, tolerance)
        check_intervals(checkpoint_every, checkpoint_seconds)
        self.check_compatible(problem)
        watchers = Watchers(callback)
        settings = {"iterations": iterations, "seed": seed, "tolerance": float(tolerance)}
        directory = None
        if out is not None:
            every, seconds = checkpoint_every, checkpoint_seconds
            directory = RunDirectory(as_path("out", out), problem, self, settings, every=every, seconds=seconds)
        with use_jobs(jobs):
            return WholeRun(self, problem, settings, watchers, directory).begin(x)

    def run_seeds(
        self,
        problem: BilevelProblem,
        *,
        seeds: int | Sequence[int],
        iterations: int,
        x: object = None,
        tolerance: float = 0.0,
        out: str | Path | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float = 30.0,
        jobs: Jobs | None = None,
        progress: Progress | None = None,
    ) -> list[Run]:
        """Run the outer loop once for each seed: the runs of `run`, bit for bit but for the seconds.

        Args:
            problem: what to solve.
            seeds: how many, from seed 0; or the seeds themselves.
            iterations: the largest number of updates of x in each run.
            x: see `run`; for all seeds.
            tolerance: see `run`.
            out: a directory that gets one for each seed, such as `seed-0`, which `load_run` and `resume` take. One that
                holds a single run, other seeds of another problem or algorithm, or one of the seeds with a run which
                could go on, is refused, and nothing in it is changed.
            checkpoint_every: see `run`.
            checkpoint_seconds: see `run`.
            jobs: who does the runs, several at a time; see `use_jobs`. One run is done by one process.
            progress: called with the number of runs that have ended and of all, each time one does.

        Returns:
            A run for each seed, in their order. Ctrl-C ends all that are under way, and those are in the list too; what
            had not begun is missing. `last.hyper.occupancy` is None, as in a run that was loaded.

        Raises:
            InputError: for a mistake of the caller.
            Exception: what a run raised, once the others are done; `out` has them.
        """
        check_settings(iterations, 0, tolerance)
        check_intervals(checkpoint_every, checkpoint_seconds)
        self.check_compatible(problem)
        path = None if out is None else as_path("out", out)
        plan = Plan(iterations, x, float(tolerance), path, checkpoint_every, checkpoint_seconds)
        return run_seeds(self, problem, as_seeds(seeds), plan, jobs, progress)

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
                state, _ = self._next(problem, state, streams, limit)

    def _next(
        self, problem: BilevelProblem, state: OuterState, streams: Streams, limit: float
    ) -> tuple[OuterState, float]:
        """The next state with its distance to stationarity; raises `StepFailed` where that is beyond the limit."""
        moved = self._step(problem, state, streams)
        distance = stationarity(problem.feasible_set, moved.x, moved.hyper.gradient)
        if distance > limit:
            raise StepFailed(Status.DIVERGED, self._upper_label, moved.iteration)
        return moved, distance

    def resume(
        self,
        problem: BilevelProblem,
        directory: str | Path,
        *,
        iterations: int | None = None,
        callback: Callbacks = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float | None = None,
        jobs: Jobs | None = None,
    ) -> Run:
        """Go on with the run in a directory: bit for bit as if it had never stopped, but for the seconds.

        Args:
            problem: the same as before.
            directory: what `run(out=…)` wrote to.
            iterations: the largest number of updates of x, those already made included; None: as before.
            callback: see `run`; the state in the checkpoint is shown once more.
            checkpoint_every: see `run`; None: as before.
            checkpoint_seconds: see `run`; None: as before.
            jobs: see `run`.

        Raises:
            InputError: where there is no run to go on with, it is that of another problem or algorithm, or it has made
                more iterations than asked for.
        """
        self.check_compatible(problem)
        asked = read_experiment(as_path("directory", directory))
        settings = asked.settings if iterations is None else asked.settings | {"iterations": iterations}
        every = asked.checkpoint_every if checkpoint_every is None else checkpoint_every
        seconds = asked.checkpoint_seconds if checkpoint_seconds is None else checkpoint_seconds
        check_settings(**settings)
        check_intervals(every, seconds)
        watchers = Watchers(callback)
        held = RunDirectory(directory, problem, self, settings, every=every, seconds=seconds)
        with use_jobs(jobs):
            return WholeRun(self, problem, settings, watchers, held).go_on(held)
