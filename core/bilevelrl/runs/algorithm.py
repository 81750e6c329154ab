"""Algorithm: an outer loop that is run to its end, once or for several seeds, and resumed."""

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
    """A lower-level solver, a hyper-gradient estimator and an upper-level optimizer, run in turn.

    Args:
        lower: answers x with the follower's policy.
        estimator: differentiates the leader's objective through that answer.
        upper: moves x.
        name: what tables and pictures call it.
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
