"""Algorithms: an outer loop with methods that run it to its end, once or for several seeds, and resume it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bilevelrl.execution.workers import Progress, use_jobs
from bilevelrl.outer_loop import OuterLoop
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.runs import driver
from bilevelrl.runs.callbacks import Callbacks
from bilevelrl.runs.run import Run
from bilevelrl.runs.seeds import Plan, as_seeds, run_seeds
from bilevelrl.validation.errors import as_path

if TYPE_CHECKING:
    from bilevelrl.execution.workers import Jobs


@attrs.frozen
class Algorithm(OuterLoop):
    """A lower-level solver, a hyper-gradient estimator and an upper-level optimizer, which run in turn.

    Args:
        lower: computes the follower's answer to x.
        estimator: differentiates the leader's objective through that answer.
        upper: updates x.
        name: its name in tables and pictures.
    """

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
        """Run the outer loop and return the run.

        Args:
            problem: what to solve.
            iterations: the largest number of updates of x.
            seed: keys every random stream of the run.
            x: the starting point, instead of the problem's own.
            tolerance: stop once `‖x − Π_X(x − ∇φ)‖₂` and the residuals of solver and estimator are at most this.
                0: never stop early.
            callback: a `Callback`, a function that is called with every state (including the first), or several of
                either. One that raises an error is removed with a `CallbackWarning`.
            out: a directory to which the run in progress is written, so that `resume` can resume it. A directory is
                refused if it holds a run that could be resumed, or the runs of several seeds.
            checkpoint_every: iterations between two checkpoints; None: only the time counts.
            checkpoint_seconds: seconds between two checkpoints.
            jobs: the workers for components that divide their work, such as sample batches and contexts; see
                `use_jobs`. It does not change the results.

        Returns:
            A `Run`. Its status reports a failure (a value that is not finite, a diverging component) or Ctrl-C; the
            last good state is kept.

        Raises:
            InputError: for a mistake of the caller.
            StepFailed: if the starting point cannot be evaluated.
        """
        directory = None if out is None else as_path("out", out)
        with use_jobs(jobs):
            return driver.begin(
                self,
                problem,
                iterations,
                seed,
                tolerance,
                x=x,
                callback=callback,
                directory=directory,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
            )

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
        """Run the outer loop once for each seed: the runs of `run`, bit for bit except for the seconds.

        Args:
            problem: what to solve.
            seeds: the number of seeds, from seed 0; or the seeds themselves.
            iterations: the largest number of updates of x in each run.
            x: see `run`; the same for all seeds.
            tolerance: see `run`.
            out: a directory with a subdirectory for each seed, such as `seed-0`, which `load_run` and `resume` accept.
                A directory is refused, and not changed, if it holds a single run, seeds of another problem or
                algorithm, or a run of one of the seeds that could be resumed.
            checkpoint_every: see `run`.
            checkpoint_seconds: see `run`.
            jobs: the workers that do the runs, several at a time; see `use_jobs`. One process does one run.
            progress: called with the number of finished runs and of all runs, each time a run finishes.

        Returns:
            A run for each seed, in their order. Ctrl-C ends the runs in progress, which are in the list too; runs that
            have not begun are missing. `last.hyper.occupancy` is None, as in a run that was loaded.

        Raises:
            InputError: for a mistake of the caller.
            Exception: the exception of a run, after the other runs have finished; they are saved in `out`.
        """
        driver.check_settings(iterations, 0, tolerance)
        driver.check_intervals(checkpoint_every, checkpoint_seconds)
        self.check_compatible(problem)
        path = None if out is None else as_path("out", out)
        plan = Plan(iterations, x, float(tolerance), path, checkpoint_every, checkpoint_seconds)
        return run_seeds(self, problem, as_seeds(seeds), plan, jobs, progress)

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
        """Resume the run in a directory: bit for bit as if it had not been stopped, except for the seconds.

        Args:
            problem: the same as before.
            directory: the directory that `run(out=…)` wrote to.
            iterations: the largest number of updates of x, including those already made; None: as before.
            callback: see `run`; it receives the state of the checkpoint again.
            checkpoint_every: see `run`; None: as before.
            checkpoint_seconds: see `run`; None: as before.
            jobs: see `run`.

        Raises:
            InputError: if there is no run to resume, it is that of another problem or algorithm, or it has made more
                iterations than requested.
        """
        with use_jobs(jobs):
            return driver.resume(
                self,
                problem,
                as_path("directory", directory),
                iterations=iterations,
                callback=callback,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
            )
