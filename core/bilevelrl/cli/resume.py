"""`bilevelrl resume`: go on with a run that was cut off, or with more iterations."""

from __future__ import annotations

from pathlib import Path

import click

from bilevelrl.cli.run import (
    JOBS,
    checkpoint_options,
    end,
    end_seeds,
    progress,
    runs_progress,
    stopped_by_signals,
)
from bilevelrl.run_directory import read_settings
from bilevelrl.saved_runs import resume_run, resume_seeds
from bilevelrl.seeds import seeds_in


@click.command("resume")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--iterations", type=int, help="The largest number of updates of x, those made included.")
@checkpoint_options
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help=JOBS)
def resume_command(
    directory: Path, iterations: int | None, checkpoint_every: int | None, checkpoint_seconds: float, jobs: int
) -> None:
    """Go on with the run in DIRECTORY, as if it had never stopped, or with those of all its seeds.

    It is what `bilevelrl run --out DIRECTORY` wrote, whatever ended it.
    """
    seeds = seeds_in(directory)
    if seeds:
        with runs_progress() as told, stopped_by_signals() as signals:
            runs = resume_seeds(
                directory,
                iterations=iterations,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                jobs=jobs,
                progress=told,
            )
        end_seeds(runs, len(seeds), directory, signals)
        return
    wanted = read_settings(directory)["iterations"] if iterations is None else iterations
    with progress(wanted) as callback, stopped_by_signals() as signals:
        run = resume_run(
            directory,
            iterations=iterations,
            callback=callback,
            checkpoint_every=checkpoint_every,
            checkpoint_seconds=checkpoint_seconds,
            jobs=jobs,
        )
    end(run, directory, signals)
