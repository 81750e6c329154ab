"""What is registered: `bilevelrl list`, `show` and `plugins`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import attrs
import click

from bilevelrl.plugins.components import Kind, Registered
from bilevelrl.plugins.configuration import option_fields, type_words
from bilevelrl.plugins.discovery import registry
from bilevelrl.validation.errors import UnknownNameError

SECTIONS = {
    "solvers": Kind.LOWER_LEVEL_SOLVER,
    "estimators": Kind.HYPERGRADIENT_ESTIMATOR,
    "optimizers": Kind.UPPER_LEVEL_OPTIMIZER,
    "problems": Kind.PROBLEM,
    "algorithms": Kind.ALGORITHM,
}


@click.command("list")
@click.argument("kind", required=False)
def list_command(kind: str | None) -> None:
    """List everything registered, or one KIND: solvers, estimators, optimizers, problems or algorithms."""
    if kind is not None and kind not in SECTIONS:
        raise UnknownNameError("KIND", kind, SECTIONS)
    known = registry()
    for section, section_kind in SECTIONS.items():
        if kind in (None, section):
            rows = [
                (entry.name, f"{entry.plugin} ({entry.distribution})", _first_line(entry))
                for entry in known.of_kind(section_kind)
            ]
            click.secho(section, bold=True)
            _print_columns(rows or [("(none)", "", "")], indent="  ")


@click.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show one component, problem or algorithm: what it does, its options, and its plugin."""
    for index, entry in enumerate(named(name)):
        click.echo("\n" * bool(index) + _page(entry))


def named(name: str) -> list[Registered]:
    """Everything registered under a name, of any kind; raises `UnknownNameError` if there is nothing."""
    known = registry()
    found = [entry for entry in known if entry.name == name]
    if not found:
        raise UnknownNameError("NAME", name, {entry.name for entry in known})
    return found


@click.command("plugins")
def plugins_command() -> None:
    """List the plugins that were found, their distributions, and those that failed."""
    known = registry()
    for plugin in known.plugins:
        click.secho(f"{plugin.name}  ", bold=True, nl=False)
        click.echo(plugin.distribution)
        rows = [(entry.kind.value, entry.name) for entry in known if entry.plugin == plugin.name]
        rows += [("command", name) for name in plugin.commands]
        _print_columns(rows, indent="  ")
    for failure in known.failures:
        click.secho(f"{failure.plugin}  ", bold=True, nl=False)
        click.echo(f"{failure.distribution}\n  left out ({failure.stage}): {failure.error}")


def _page(entry: Registered) -> str:
    component = entry.component
    lines = [f"{entry.name} — {entry.kind.value}, from plugin {entry.plugin} ({entry.distribution})", ""]
    lines += [inspect.getdoc(component) or "", ""]
    for member in ("requires", "requires_objective"):
        needed = getattr(component, member, None)
        if needed is not None:
            lines.append(f"{member.replace('_', ' ')}: {needed.__name__}")
    fields = option_fields(component)
    lines.append("options:" if fields else "options: none")
    for field in fields:
        default = "required" if field.default is attrs.NOTHING else f"default {_default_words(field)}"
        lines.append(f"  {field.alias or field.name}: {type_words(component, field)}, {default}")
    return "\n".join(lines)


def _default_words(field: attrs.Attribute[object]) -> str:
    return "made when needed" if isinstance(field.default, attrs.Factory) else repr(field.default)  # type: ignore[arg-type]


def _first_line(entry: Registered) -> str:
    return (inspect.getdoc(entry.component) or "").split("\n")[0]


def _print_columns(rows: Iterable[Sequence[str]], indent: str) -> None:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]
        click.echo((indent + "  ".join(cells)).rstrip())
