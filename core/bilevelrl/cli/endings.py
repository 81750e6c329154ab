"""The end of commands that run something: report, picture, interruption, exit status."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bilevelrl.certificates.certificate import Certificate
from bilevelrl.cli.exit_statuses import FAILED, INTERRUPTED, TERMINATED
from bilevelrl.cli.reports import report, report_seeds
from bilevelrl.protocols import Status
from bilevelrl.runs.run import Run
from bilevelrl.runs.seeds import TABLE
from bilevelrl.storage.directory_lock import directory_words
from bilevelrl.storage.run_directory import PICTURE, SEED_PREFIX, SUMMARY, holds_run, seeds_in, writable
from bilevelrl.validation.errors import InputError

WRITTEN = "experiment.toml, environment.json, history.jsonl, summary.json, state.safetensors, checkpoint"


@contextlib.contextmanager
def stopped_by_signals(out: Path | None, logs: tuple[str, ...]) -> Iterator[list[int]]:
    """Make SIGTERM end the run like Ctrl-C, after the last complete iteration; yields the list of received signals."""
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    except KeyboardInterrupt:  # outside the iterations, or while they were being saved
        _leave_interrupted(out, logs, came)
    finally:
        signal.signal(signal.SIGTERM, before)


def end(run: Run, out: Path | None, logs: tuple[str, ...], signals: list[int], *, certify: bool = False) -> None:
    """Report a run, draw it into its directory, and exit with its status."""
    certificate = run.certificate() if certify else None
    report(run, certificate)
    if out is not None:
        _draw(run, out, certificate)
    leave(run.status is Status.INTERRUPTED, not run.status.usable, out, logs, signals)


def leave(interrupted: bool, failed: bool, out: Path | None, logs: tuple[str, ...], signals: list[int]) -> None:
    """Exit with the status for what has happened; after an interruption print how to resume."""
    if interrupted:
        _leave_interrupted(out, logs, signals)
    if failed:
        sys.exit(FAILED)


def end_seeds(runs: list[Run], wanted: int, out: Path | None, signals: list[int]) -> None:
    """Report the runs of several seeds, and exit with their status."""
    if runs:
        report_seeds(runs)
    if out is not None and runs:
        click.echo(f"  saved to {out}: {TABLE}, and for each seed, as in {SEED_PREFIX}{runs[0].seed}: {WRITTEN}")
    interrupted = len(runs) < wanted or any(run.status is Status.INTERRUPTED for run in runs)
    leave(interrupted, any(not run.status.usable for run in runs), out, (), signals)


def _leave_interrupted(out: Path | None, logs: tuple[str, ...], signals: list[int]) -> None:
    if out is None or not (holds_run(out) or seeds_in(out)):
        click.echo("Interrupted: nothing was saved.", err=True)
    else:
        words = ["bilevelrl", "resume", str(out), *(word for log in logs for word in ("--log", log))]
        click.echo(f"Interrupted: resume with `{shlex.join(words)}`", err=True)
    sys.exit(TERMINATED if signal.SIGTERM in signals else INTERRUPTED)


def _draw(run: Run, out: Path, certificate: Certificate | None) -> None:
    if not (out / SUMMARY).exists():
        kept = f"its last good checkpoint is kept: resume with `bilevelrl resume {shlex.quote(str(out))}`"
        raise InputError(directory_words(out), "not written to the run's end", f"one that can be written; {kept}")
    if certificate is not None:
        run.save_certificate(out, certificate)
    written = WRITTEN
    with writable(out):
        try:
            picture = run.plot(out / PICTURE)
        except InputError as error:
            click.echo(f"No picture: {error}", err=True)
        else:
            written += f", {picture.name}"
    click.echo(f"  saved to {out}: {written}")
