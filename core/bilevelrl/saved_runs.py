"""From a directory back to a run: to look at, and to go on with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.composition import compose_algorithm, compose_problem
from bilevelrl.experiment import Experiment
from bilevelrl.outer_loop import Algorithm
from bilevelrl.plugins import registry
from bilevelrl.run import Run
from bilevelrl.run_directory import SEED_PREFIX, read_checkpoint, read_experiment, seeds_in
from bilevelrl.seeds import Plan, run_seeds
from bilevelrl.validation import InputError, as_path
from bilevelrl.workers import Progress

if TYPE_CHECKING:
    from bilevelrl.workers import Jobs


def load_run(
    directory: str | Path, *, problem: BilevelProblem | None = None, algorithm: Algorithm | None = None
) -> Run:
    """The run in a directory, finished or not, as its last good checkpoint has it.

    Args:
        directory: what `Run.save`, `Algorithm.run(out=…)` or `bilevelrl run --out` wrote.
        problem: for a problem composed in Python, of which the directory knows the name only.
        algorithm: for components that no plugin has registered.

    Raises:
        InputError: where there is no run, or it is damaged.
    """
    path = as_path("directory", directory)
    experiment = read_experiment(path)
    problem, algorithm = _rebuilt(experiment, problem, algorithm)
    found, _ = read_checkpoint(path, problem)
    if found is None:
        raise InputError(f"the directory {str(path)!r}", "without a checkpoint", "one that a run was saved to")
    return Run.restored(problem, algorithm, experiment.settings, found)


def resume_run(directory: str | Path, **options: Any) -> Run:
    """Go on with the run in a directory; problem and algorithm are those of its `experiment.toml`.

    Args:
        directory: what `Algorithm.run(out=…)` or `bilevelrl run --out` wrote.
        options: those of `Algorithm.resume`, such as `iterations`.
    """
    path = as_path("directory", directory)
    problem, algorithm = _rebuilt(read_experiment(path), None, None)
    return algorithm.resume(problem, path, **options)


def resume_seeds(
    directory: str | Path,
    *,
    iterations: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    jobs: Jobs | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Go on with all the runs in a directory of several seeds; those that have ended are only read.

    Args:
        directory: what `Algorithm.run_seeds(out=…)` or `bilevelrl run --seeds N --out` wrote.
        iterations: see `Algorithm.resume`.
        checkpoint_every: see `Algorithm.run`; None: as before.
        checkpoint_seconds: see `Algorithm.run`; None: as before.
        jobs: who does the runs; see `use_jobs`.
        progress: see `Algorithm.run_seeds`.

    Raises:
        InputError: where there are no runs, one of them cannot go on, or has made more iterations than asked for.
    """
    path = as_path("directory", directory)
    seeds = seeds_in(path)
    if not seeds:
        raise InputError(f"the directory {str(path)!r}", "without runs", "one that several seeds were saved to")
    plan = Plan(iterations, None, 0.0, path, checkpoint_every, checkpoint_seconds, begun=True)
    problem, algorithm = _rebuilt(read_experiment(path / f"{SEED_PREFIX}{seeds[0]}"), None, None)
    return run_seeds(algorithm, problem, seeds, plan, jobs, progress)


def _rebuilt(
    experiment: Experiment, problem: BilevelProblem | None, algorithm: Algorithm | None
) -> tuple[BilevelProblem, Algorithm]:
    if problem is None or algorithm is None:
        known = registry()
        problem = compose_problem(experiment, known) if problem is None else problem
        algorithm = compose_algorithm(experiment, known) if algorithm is None else algorithm
    return problem, algorithm
