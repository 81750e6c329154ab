"""A whole run: begun or gone on with, iterated to its end, and kept whatever ends it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.feasible_sets import stationarity
from bilevelrl.history import History, OuterState
from bilevelrl.protocols import Status
from bilevelrl.randomness import Streams
from bilevelrl.run import Run
from bilevelrl.run_directory import RunDirectory
from bilevelrl.validation import InputError, TravellingError, as_float, check_count, value_words

if TYPE_CHECKING:
    from bilevelrl.outer_loop import Algorithm

Callback = Callable[[OuterState], None]


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


def begin(
    algorithm: Algorithm,
    problem: BilevelProblem,
    settings: dict[str, Any],
    x: object,
    callback: Callback | None,
    directory: RunDirectory | None,
) -> Run:
    """A run from its first state to its end; see `Algorithm.run`."""
    began, seed = time.perf_counter(), settings["seed"]
    if directory is None:
        first = algorithm.start(problem, seed=seed, x=x)
        return _loop(algorithm, problem, settings, began, callback, *_first_row(problem, first))
    directory.create(begins_elsewhere=x is not None)
    try:
        first, state, history = _first_row(problem, algorithm.start(problem, seed=seed, x=x))
        return _loop(algorithm, problem, settings, began, callback, first, state, history, directory)
    finally:
        directory.close()


def go_on(
    algorithm: Algorithm,
    problem: BilevelProblem,
    settings: dict[str, Any],
    callback: Callback | None,
    directory: RunDirectory,
) -> Run:
    """A run from its last good checkpoint to its end; see `Algorithm.resume`."""
    began = time.perf_counter()
    found = directory.reopen()
    try:
        if found is None:
            first, state, history = _first_row(problem, algorithm.start(problem, seed=settings["seed"]))
        else:
            first, state, history = found.first, found.last, found.history
            began -= found.seconds
        return _loop(algorithm, problem, settings, began, callback, first, state, history, directory)
    finally:
        directory.close()


def directory_of(
    algorithm: Algorithm,
    problem: BilevelProblem,
    settings: dict[str, Any],
    path: str | Path,
    every: int | None,
    seconds: float,
) -> RunDirectory:
    """The directory at a path; raises `InputError` for an interval of nothing."""
    if every is not None:
        check_count("checkpoint_every", every, at_least=1)
    if not as_float(seconds) > 0:
        raise InputError("checkpoint_seconds", value_words(seconds), "a number above 0")
    return RunDirectory(path, problem, algorithm, settings, every=every, seconds=seconds)


def _first_row(problem: BilevelProblem, first: OuterState) -> tuple[OuterState, OuterState, History]:
    history = History()
    with quietly():
        history.append(first, stationarity(problem.feasible_set, first.x, first.hyper.gradient))
    return first, first, history


def _loop(
    algorithm: Algorithm,
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
            moved, distance = algorithm._next(problem, state, streams, limit)
            with quietly():
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
        algorithm=algorithm,
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


def check_settings(iterations: object, seed: object, tolerance: object) -> None:
    """Raise `InputError` for a setting that no run can have."""
    check_count("iterations", iterations, at_least=0)
    check_count("seed", seed, at_least=0)
    number = as_float(tolerance)
    if not (math.isfinite(number) and number >= 0):
        raise InputError("tolerance", value_words(tolerance), "a finite number of at least 0")


def quietly() -> np.errstate:
    """A value that is not finite is told once, as a status with its component, without NumPy's warnings before it."""
    return np.errstate(over="ignore", invalid="ignore")


def _has_converged(state: OuterState, distance: float, tolerance: float) -> bool:
    # An inexact gradient can be small by accident: it counts only once the pieces it is made of are accurate too.
    residual = state.hyper.residual
    return (
        distance <= tolerance and state.solution.residual <= tolerance and (residual is None or residual <= tolerance)
    )
