"""`bilevelrl resume`: go on with a run that was cut off, or with more iterations."""

from __future__ import annotations

from pathlib import Path

import click

from bilevelrl.cli.log import log_option, loggers
from bilevelrl.cli.run import checkpoint_options, end, progress, stopped_by_signals
from bilevelrl.run_directory import read_experiment
from bilevelrl.saved_runs import resume_run


@click.command("resume")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--iterations", type=int, help="The largest number of updates of x, those made included.")
@checkpoint_options
@log_option
def resume_command(
    directory: Path,
    iterations: int | None,
    checkpoint_every: int | None,
    checkpoint_seconds: float | None,
    logs: tuple[str, ...],
) -> None:
    """Go on with the run in DIRECTORY, as if it had never stopped.

    It is what `bilevelrl run --out DIRECTORY` wrote, whatever ended it.
    """
    wanted = read_experiment(directory).iterations if iterations is None else iterations
    watching = loggers(logs, directory)
    with stopped_by_signals(directory, logs) as signals:
        with progress(wanted) as bar:
            run = resume_run(
                directory,
                iterations=iterations,
                callback=[bar, *watching],
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
            )
        end(run, directory, logs, signals)
