"""The driver of a run: starts or resumes it, iterates to its end, and keeps its results in every case."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilevelrl.outer_loop import BestIterate, OuterLoop, OuterState, StepFailed, divergence_limit, quietly
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.feasible_sets import stationarity
from bilevelrl.protocols import Status
from bilevelrl.randomness import Streams
from bilevelrl.runs.callbacks import Callbacks, RunFacts, StopRun, Watchers
from bilevelrl.runs.run import Run
from bilevelrl.storage.checkpoint import UnsaveableError, check_saveable
from bilevelrl.storage.history import History
from bilevelrl.storage.run_directory import RunDirectory, read_experiment
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import as_float, check_count, check_not_negative


def begin(
    algorithm: OuterLoop,
    problem: BilevelProblem,
    iterations: int,
    seed: int,
    tolerance: float,
    *,
    x: object,
    callback: Callbacks,
    directory: Path | None,
    checkpoint_every: int | None,
    checkpoint_seconds: float,
) -> Run:
    """Run the outer loop from its start; see `Algorithm.run`."""
    check_settings(iterations, seed, tolerance)
    check_intervals(checkpoint_every, checkpoint_seconds)
    algorithm.check_compatible(problem)
    watchers = Watchers(callback)
    settings = {"iterations": iterations, "seed": seed, "tolerance": float(tolerance)}
    held = None
    if directory is not None:
        held = RunDirectory(directory, problem, algorithm, settings, every=checkpoint_every, seconds=checkpoint_seconds)
    return WholeRun(algorithm, problem, settings, watchers, held).begin(x)


def resume(
    algorithm: OuterLoop,
    problem: BilevelProblem,
    directory: Path,
    *,
    iterations: int | None,
    callback: Callbacks = None,
    checkpoint_every: int | None,
    checkpoint_seconds: float | None,
) -> Run:
    """Resume the run in a directory; see `Algorithm.resume`."""
    algorithm.check_compatible(problem)
    asked = read_experiment(directory)
    settings = asked.settings if iterations is None else asked.settings | {"iterations": iterations}
    every = asked.checkpoint_every if checkpoint_every is None else checkpoint_every
    seconds = asked.checkpoint_seconds if checkpoint_seconds is None else checkpoint_seconds
    check_settings(**settings)
    check_intervals(every, seconds)
    watchers = Watchers(callback)
    held = RunDirectory(directory, problem, algorithm, settings, every=every, seconds=seconds)
    return WholeRun(algorithm, problem, settings, watchers, held).go_on(held)


class WholeRun:
    """A run in progress.

    Args:
        algorithm: the algorithm.
        problem: the problem.
        settings: iterations, seed and tolerance.
        watchers: the callbacks.
        directory: the directory to which the run is written; None if there is none.
    """

    def __init__(
        self,
        algorithm: OuterLoop,
        problem: BilevelProblem,
        settings: Mapping[str, Any],
        watchers: Watchers,
        directory: RunDirectory | None,
    ) -> None:
        self.algorithm, self.problem, self.settings = algorithm, problem, settings
        self.watchers, self.directory = watchers, directory
        self.began = time.perf_counter()
        self.history = History()
        self.status, self.stopped_by = Status.BUDGET_SPENT, ""
        self.first: OuterState
        self.state: OuterState
        self.best: BestIterate | None = None

    def begin(self, x: object) -> Run:
        """From the first state to the end; see `Algorithm.run`."""
        if self.directory is None:
            self._set_out(x)
            return self._run()
        self.directory.create(begins_elsewhere=x is not None)
        with contextlib.closing(self.directory):
            try:
                self._set_out(x)
            except UnsaveableError:
                self.directory.withdraw()
                raise
            return self._run()

    def go_on(self, directory: RunDirectory) -> Run:
        """From the last good checkpoint to the end; see `Algorithm.resume`."""
        found = directory.reopen()
        with contextlib.closing(directory):
            if found is None:
                self._set_out(None)
            else:
                self.first, self.state, self.history, self.best = found.first, found.last, found.history, found.best
                self.began -= found.seconds
            return self._run()

    def _set_out(self, x: object) -> None:
        self.first = self.state = self.algorithm.start(self.problem, seed=self.settings["seed"], x=x)
        check_saveable(self.first, self.algorithm.lower)
        with quietly():
            distance = stationarity(self.problem.feasible_set, self.first.x, self.first.hyper.gradient)
            self.history.append(self.first, distance)
        self.best = BestIterate.of(self.first)

    def _run(self) -> Run:
        """Iterate to the end, and keep the computed states in every case."""
        try:
            with quietly():
                self._iterate()
        except StepFailed as failure:
            self.status, self.stopped_by = failure.status, f"{failure.component} at iteration {failure.iteration}"
        except StopRun as stop:
            self.status, self.stopped_by = Status.STOPPED, str(stop)
        except KeyboardInterrupt:
            self._cut_off()
        except BaseException as error:  # an error of a component
            self._cut_off()
            if self.directory is not None:
                self.directory.rescue(self.state, self.history, self.best, error)
            self.watchers.end(self._result())
            raise
        run = self._result()
        if self.directory is not None:
            run.write_end(self.directory)
        self.watchers.end(run)
        return run

    def _iterate(self) -> None:
        iterations, tolerance = self.settings["iterations"], self.settings["tolerance"]
        streams, distances = Streams(self.settings["seed"]), self.history["stationarity"]
        limit, distance = divergence_limit(float(distances[0])), float(distances[-1])
        path = None
        if self.directory is not None:
            self.directory.begin(self.first, self.state, self.history, self.best)
            path = self.directory.path
        begins = self.state.iteration
        self.watchers.begin(RunFacts(self.problem, self.algorithm, self.settings, begins, self.history, path))
        while True:
            self.watchers.see(self.state, self.history)
            if tolerance > 0 and _has_converged(self.state, distance, tolerance):
                self.status = Status.CONVERGED
                break
            if self.state.iteration >= iterations:
                break
            moved, distance = self.algorithm.next_state(self.problem, self.state, streams, limit)
            self.history.append(moved, distance)
            self.state, self.best = moved, BestIterate.of(moved, self.best)
            if self.directory is not None:
                self.directory.see(moved, self.history, self.best)

    def _cut_off(self) -> None:
        self.status = Status.INTERRUPTED
        self.history.keep(self.state.iteration + 1)

    def _result(self) -> Run:
        return Run(
            problem=self.problem,
            algorithm=self.algorithm,
            **self.settings,
            first=self.first,
            last=self.state,
            best=self.best,
            history=self.history,
            status=self.status,
            stopped_by=self.stopped_by,
            seconds=time.perf_counter() - self.began,
        )


def check_settings(iterations: object, seed: object, tolerance: object) -> None:
    """Raise `InputError` for a setting that no run can have."""
    check_count("iterations", iterations, at_least=0)
    check_count("seed", seed, at_least=0)
    check_not_negative("tolerance", tolerance)


def check_intervals(checkpoint_every: object, checkpoint_seconds: object) -> None:
    """Raise `InputError` for an interval that is not positive."""
    if checkpoint_every is not None:
        check_count("checkpoint_every", checkpoint_every, at_least=1)
    if not as_float(checkpoint_seconds) > 0:
        raise InputError("checkpoint_seconds", value_words(checkpoint_seconds), "a number above 0")


def _has_converged(state: OuterState, distance: float, tolerance: float) -> bool:
    # An inexact gradient can be small by accident: it counts only if the residuals of its parts are small too.
    residual = state.hyper.residual
    return (
        distance <= tolerance and state.solution.residual <= tolerance and (residual is None or residual <= tolerance)
    )
