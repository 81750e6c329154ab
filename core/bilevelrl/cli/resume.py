"""`bilevelrl resume`: continue a run that was interrupted, or extend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bilevelrl.cli.endings import end, end_seeds, stopped_by_signals
from bilevelrl.cli.log import log_option, loggers
from bilevelrl.cli.options import JOBS, certify_option, checkpoint_options, one_run_only
from bilevelrl.cli.reports import progress, runs_progress
from bilevelrl.factories import resume_run, resume_seeds
from bilevelrl.storage.run_directory import read_experiment, seeds_in


@click.command("resume")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--iterations", type=int, help="The largest number of updates of x, including those already made.")
@checkpoint_options
@certify_option
@log_option
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help=JOBS)
def resume_command(
    directory: Path,
    iterations: int | None,
    checkpoint_every: int | None,
    checkpoint_seconds: float | None,
    certify: bool,
    logs: tuple[str, ...],
    jobs: int,
) -> None:
    """Resume the run in DIRECTORY, or the runs of all its seeds, with the results of an uninterrupted run.

    DIRECTORY was written by `bilevelrl run --out DIRECTORY`.
    """
    often: dict[str, Any] = {"checkpoint_every": checkpoint_every, "checkpoint_seconds": checkpoint_seconds}
    seeds = seeds_in(directory)
    if seeds:
        one_run_only(logs, certify)
        with stopped_by_signals(directory, ()) as signals:
            with runs_progress() as advance:
                runs = resume_seeds(directory, iterations=iterations, **often, jobs=jobs, progress=advance)
            end_seeds(runs, len(seeds), directory, signals)
        return
    wanted = read_experiment(directory).iterations if iterations is None else iterations
    watching = loggers(logs, directory)
    with stopped_by_signals(directory, logs) as signals:
        with progress(wanted) as bar:
            run = resume_run(directory, iterations=iterations, callback=[bar, *watching], **often, jobs=jobs)
        end(run, directory, logs, signals, certify=certify)
