"""The command line: `bilevelrl run | resume | compare | check | list | show | plugins`.

Each command is imported when it is called, and the framework's other modules only then.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

import bilevelrl
from bilevelrl.cli.exit_statuses import BAD_INPUT, FAILED, INTERRUPTED
from bilevelrl.validation.notices import Notice

COMMANDS = {
    "check": ("check", "Check a component, a problem or an algorithm against its laws."),
    "compare": ("compare", "Compare algorithms on a problem, with the same budget."),
    "list": ("catalogue", "List what is registered."),
    "plugins": ("catalogue", "List the plugins that were found, and those that failed."),
    "resume": ("resume", "Resume a run that was interrupted."),
    "run": ("run", "Run an algorithm on a problem."),
    "show": ("catalogue", "Show a registered component, problem or algorithm with its options."),
}
"""Each command's module, which defines `<name>_command`, and what it does."""


class _Commands(click.Group):
    """Knows the name and the summary of each command, and imports a command when it is called.

    Ctrl-C outside a run's iterations has the same exit status as during them.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            module = importlib.import_module(f"bilevelrl.cli.{COMMANDS[name][0]}")
            command = getattr(module, f"{name}_command")
        return name, command, rest

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None:  # plugins are loaded for a name that is not our own, and not for `--help`
            from bilevelrl.plugins.discovery import registry

            found = registry().commands.get(cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted: nothing was saved.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bilevelrl.__version__, prog_name="bilevelrl")
def cli() -> None:
    """Bilevel reinforcement learning: a leader tunes rewards or dynamics, a follower answers optimally.

    Plugins may add commands; `bilevelrl plugins` lists them.
    """


for _name, (_, _words) in COMMANDS.items():
    cli.add_command(click.Command(_name, short_help=_words))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line on standard error and exit status 2."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", Notice)
    try:
        cli.main(args=arguments, prog_name="bilevelrl")
    except SystemExit:
        raise
    except bilevelrl.validation.WorkerLost as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED)
    except (bilevelrl.InputError, bilevelrl.outer_loop.StepFailed) as error:
        click.echo("\n".join([f"Error: {error}", *getattr(error, "__notes__", [])]), err=True)
        sys.exit(BAD_INPUT)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, Notice):
        click.echo(f"Warning: {message}", err=True)
    elif not issubclass(category, DeprecationWarning):
        click.echo(f"Warning: {category.__name__}: {message}", err=True)
