"""The command line: `bilevelrl run | resume | compare | check | list | show | plugins`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

import bilevelrl
from bilevelrl.callbacks import CallbackWarning
from bilevelrl.checkpoint import CheckpointWarning
from bilevelrl.cli.catalogue import list_command, plugins_command, show_command
from bilevelrl.cli.check import check_command
from bilevelrl.cli.compare import compare_command
from bilevelrl.cli.resume import resume_command
from bilevelrl.cli.run import FAILED, INTERRUPTED, run_command
from bilevelrl.outer_loop import StepFailed
from bilevelrl.plugins import PluginWarning
from bilevelrl.validation import InputError, WorkerLost

BAD_INPUT = 2
SENTENCES = (PluginWarning, CheckpointWarning, CallbackWarning)
"""Warnings that speak for themselves."""


class _Commands(click.Group):
    """Ctrl-C outside of a run's iterations, which save what they have, ends with the same exit status as there."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted: nothing was saved.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bilevelrl.__version__, prog_name="bilevelrl")
def cli() -> None:
    """Bilevel reinforcement learning: a leader tunes rewards or dynamics, a follower answers optimally."""


cli.add_command(run_command)
cli.add_command(compare_command)
cli.add_command(resume_command)
cli.add_command(check_command)
cli.add_command(list_command)
cli.add_command(show_command)
cli.add_command(plugins_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line on standard error and exit status 2."""
    warnings.showwarning = _show_warning
    for category in SENTENCES:
        warnings.simplefilter("always", category)
    try:
        cli.main(args=arguments, prog_name="bilevelrl")
    except WorkerLost as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED)
    except (InputError, StepFailed) as error:
        click.echo("\n".join([f"Error: {error}", *getattr(error, "__notes__", [])]), err=True)
        sys.exit(BAD_INPUT)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, SENTENCES):
        click.echo(f"Warning: {message}", err=True)
    elif not issubclass(category, DeprecationWarning):
        click.echo(f"Warning: {category.__name__}: {message}", err=True)
