"""Several runs of one algorithm with different seeds, done by workers and returned as complete runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bilevelrl.execution.workers import Progress, completed, done_here, use_jobs
from bilevelrl.outer_loop import OuterLoop
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Status
from bilevelrl.runs import driver
from bilevelrl.runs.run import Run
from bilevelrl.storage.checkpoint import Checkpoint, CheckpointWarning, decode, encode
from bilevelrl.storage.directory_lock import directory_words
from bilevelrl.storage.files import write_atomically
from bilevelrl.storage.run_directory import (
    EXPERIMENT,
    SUMMARY,
    RunDirectory,
    check_enough,
    differences,
    is_unfinished,
    read_checkpoint,
    read_experiment,
    seed_directory,
    seeds_in,
    writable,
)
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import check_count

if TYPE_CHECKING:
    from bilevelrl.execution.workers import Jobs


TABLE = "seeds.csv"


@attrs.frozen(eq=False)
class Plan:
    """The settings that all the runs share; see `Algorithm.run`.

    Args:
        iterations: the largest number of updates of x; None: as before, for resumed runs.
        x: the starting point.
        tolerance: the stationarity at which to stop.
        out: the directory of the seeds' directories.
        checkpoint_every: iterations between two checkpoints.
        checkpoint_seconds: seconds between two checkpoints; None: as before, for resumed runs.
        begun: whether the runs are resumed.
    """

    iterations: int | None
    x: object
    tolerance: float
    out: Path | None
    checkpoint_every: int | None
    checkpoint_seconds: float | None
    begun: bool = False

    def directory(self, seed: int) -> Path | None:
        """The directory of one seed."""
        return None if self.out is None else seed_directory(self.out, seed)


def as_seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds, from their number or as given; raises `InputError` if there are none, or one occurs twice."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        for seed in given:
            check_count("a seed", seed, at_least=0)
        if not given or len(set(given)) < len(given):
            raise InputError("seeds", value_words(list(given)), "at least one seed, and none twice")
        return tuple(int(seed) for seed in given)
    check_count("seeds", given)
    return tuple(range(int(given)))


def run_seeds(
    algorithm: OuterLoop,
    problem: BilevelProblem,
    seeds: Sequence[int],
    plan: Plan,
    jobs: Jobs | None,
    progress: Progress | None,
) -> list[Run]:
    """A run for each seed, in their order; see `Algorithm.run_seeds`."""
    if not plan.begun:
        _take_directories(algorithm, problem, seeds, plan)
    elif plan.iterations is not None and plan.out is not None:
        check_count("iterations", plan.iterations, at_least=0)
        _check_enough(problem, algorithm, seeds, plan.out, plan.iterations)
    runs: dict[int, Run] = {}
    with use_jobs(jobs), contextlib.suppress(KeyboardInterrupt):
        alone = done_here(seeds)
        for index, data in completed(_run_one, (problem, algorithm, plan), seeds, patient=True):
            runs[index] = run = _decoded(data, problem, algorithm)
            _keep(run, plan)
            if progress is not None:
                progress(len(runs), len(seeds))
            if alone and run.status is Status.INTERRUPTED:  # this run received the Ctrl-C, which is meant for all
                break
    ended = [runs[index] for index in sorted(runs)]
    if plan.out is not None and ended:
        with writable(plan.out):
            lines = [",".join(row) for row in table(ended)]
            write_atomically(plan.out / TABLE, ("\n".join(lines) + "\n").encode())
    return ended


def figures(runs: Sequence[Run]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """The figures of each run's end in reports, by label: the problem's measures, the objective, norms."""
    each = [{label: end for label, _, end in run.comparison()} for run in runs]
    return {label: np.array([figure[label] for figure in each]) for label in each[0]}


def table(runs: Sequence[Run]) -> list[list[str]]:
    """A header and a row for each run: seed, iterations, status, figures with all digits."""
    columns = figures(runs)
    rows = [["seed", "iterations", "status", *(f'"{label.strip()}"' for label in columns)]]
    for index, run in enumerate(runs):
        told = [repr(float(values[index])) for values in columns.values()]
        rows.append([str(run.seed), str(run.last.iteration), run.status.name, *told])
    return rows


def _take_directories(algorithm: OuterLoop, problem: BilevelProblem, seeds: Sequence[int], plan: Plan) -> None:
    """Make all directories before the first run: an error must not appear only after hours of computing.

    All are checked and locked before the first is changed: if one is refused, nothing in the others is lost.
    """
    if plan.out is None:
        return
    out = plan.out
    if (out / EXPERIMENT).exists():
        expected = "another one for several seeds, which would hide it"
        raise InputError(directory_words(out), "that of a single run", expected)
    assert plan.checkpoint_seconds is not None
    often: dict[str, Any] = {"every": plan.checkpoint_every, "seconds": plan.checkpoint_seconds}
    each = []
    for seed in seeds:
        settings = {"iterations": plan.iterations, "seed": seed, "tolerance": plan.tolerance}
        each.append(RunDirectory(seed_directory(out, seed), problem, algorithm, settings, **often))
    _check_others(each[0], [seed for seed in seeds_in(out) if seed not in seeds], out)
    with contextlib.ExitStack() as held:
        # Existing directories come first: if one of them is refused, no new one has been made.
        for directory in sorted(each, key=lambda directory: not directory.path.exists()):
            directory.claim()
            held.callback(directory.close)
        for directory in each:
            directory.create(begins_elsewhere=plan.x is not None)


def _check_others(asked: RunDirectory, others: Sequence[int], out: Path) -> None:
    """Raise `InputError` if other seeds in the directory are not of the same problem and algorithm."""
    tables = asked.tables
    for seed in others:
        path = seed_directory(out, seed)
        if not (path / EXPERIMENT).exists():
            continue
        saved = read_experiment(path).tables
        names = {table: {"name": entries["name"]} for table, entries in tables.items()}
        there = {table: {"name": saved.get(table, {}).get("name")} for table in names}
        different = next(differences(names, there), None)
        if different is None:
            found, _ = read_checkpoint(path, asked.problem, asked.algorithm.lower)
            different = None if found is None else next(differences(tables, found.tables), None)
        if different is not None:
            option, wanted, has = different
            told = f"that of {path.name}, whose {option} is {value_words(has)}"
            raise InputError(directory_words(out), told, f"another one for seeds with {value_words(wanted)}")


def _check_enough(
    problem: BilevelProblem, algorithm: OuterLoop, seeds: Sequence[int], out: Path, iterations: int
) -> None:
    """Raise `InputError` if one of the runs has made more iterations than that, before any is resumed."""
    for seed in seeds:
        path, found = seed_directory(out, seed), None
        with contextlib.suppress(InputError), warnings.catch_warnings():  # the run itself reports what is damaged
            warnings.simplefilter("ignore", CheckpointWarning)
            found, _ = read_checkpoint(path, problem, algorithm.lower)
        if found is not None:
            check_enough(path, iterations, found)


def _run_one(shared: tuple[BilevelProblem, OuterLoop, Plan], seed: int) -> bytes:
    """One run; if its worker died, it is resumed from its last checkpoint."""
    problem, algorithm, plan = shared
    path = plan.directory(seed)
    often: dict[str, Any] = {"checkpoint_every": plan.checkpoint_every, "checkpoint_seconds": plan.checkpoint_seconds}
    if path is not None and (plan.begun or is_unfinished(path)):
        return _encoded(driver.resume(algorithm, problem, path, iterations=plan.iterations, **often))
    assert plan.iterations is not None
    return _encoded(
        driver.begin(
            algorithm, problem, plan.iterations, seed, plan.tolerance, x=plan.x, callback=None, directory=path, **often
        )
    )


def _encoded(run: Run) -> bytes:
    """The run as a checkpoint, without the data that its reader has."""
    tables = {"problem": {"name": run.problem.name}}
    pieces = Checkpoint(
        run.first, run.last, run.history, run.best, run.settings, tables, {}, run.status, run.stopped_by, run.seconds
    )
    return encode(pieces, run.algorithm.lower)


def _decoded(data: bytes, problem: BilevelProblem, algorithm: OuterLoop) -> Run:
    found = decode(data, "a worker's answer", problem, algorithm.lower)
    return Run.restored(problem, algorithm, found.settings, found)


def _keep(run: Run, plan: Plan) -> None:
    """Write the run here as well if a worker has written it to a disk of its own."""
    path = plan.directory(run.seed)
    if path is not None and not (path / SUMMARY).exists():
        run.save(path)
