"""`bilevelrl check`: check anything registered against the laws of its kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from bilevelrl.cli.catalogue import named
from bilevelrl.cli.exit_statuses import FAILED
from bilevelrl.cli.options import parse_option
from bilevelrl.plugins.components import Registered
from bilevelrl.plugins.discovery import registry
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import check_count


@click.command("check")
@click.argument("name")
@click.option("--examples", type=int, default=50, show_default=True, help="Problems for each law.")
@click.option("--seed", type=int, default=0, show_default=True, help="Key of the random problems.")
@click.option("--deadline", type=float, help="Seconds a law may take with a problem (default 60).")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="An option of NAME. Repeatable.")
@click.option("--expect", "expected", metavar="LAW=REASON", multiple=True, help="A law known to be broken. Repeatable.")
def check_command(
    name: str, examples: int, seed: int, deadline: float | None, changes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Check a component, a problem or an algorithm against every law that applies, on randomly drawn problems.

    The exit status is 1 if a law is broken. Each broken law is reported with the smallest problem that breaks
    it.
    """
    try:
        from bilevelrl import testing
    except ImportError as error:
        raise InputError("bilevelrl check", f"without hypothesis ({error})", "bilevelrl[testing] installed") from None
    check_count("--examples", examples)
    options = dict(parse_option("--set", change, "step_size=0.05") for change in changes)
    known = {law: str(reason) for law, reason in (parse_option("--expect", given, "LAW=REASON") for given in expected)}
    failed = False
    for index, entry in enumerate(named(name)):
        click.echo("\n" * bool(index), nl=False)
        click.secho(f"{entry.kind.value} {entry.name}", bold=True)
        report = testing.check(
            _factory(entry, options),
            kind=entry.kind,
            examples=examples,
            seed=seed,
            deadline=deadline,
            expected_failed_checks=known,
            strict=False,
            progress=_row,
        )
        _conclude(report)
        failed = failed or bool(report.failures)
    if failed:
        sys.exit(FAILED)


def _factory(entry: Registered, options: Mapping[str, Any]) -> Callable[[], Any]:
    def factory() -> Any:
        return registry().create(entry.kind, entry.name, options)

    factory()  # reports wrong options before anything is drawn
    return factory


def _row(outcome: Any) -> None:
    if outcome.result == "skipped":
        return
    broken = outcome.violation is not None
    mark = click.style("broken" if broken else "holds ", fg="red" if outcome.failed else "green")
    count = f"{outcome.examples:>4} example{'s' if outcome.examples != 1 else ' '}"
    detail = f"  {outcome.detail}" if outcome.detail else ""
    click.echo(f"  {outcome.law:<44}{mark} {count} {outcome.seconds:>7.1f} s{detail}".rstrip())


def _conclude(report: Any) -> None:
    skipped: dict[str, list[str]] = {}
    for outcome in report:
        if outcome.result == "skipped":
            skipped.setdefault(outcome.detail, []).append(outcome.law)
    for reason, laws in skipped.items():
        click.echo(f"  skipped, since {reason}: {', '.join(laws)}")
    click.secho(f"  {str(report).splitlines()[0]}", bold=True)
    for outcome in report.failures:
        click.echo(f"\n{outcome.violation or f'law {outcome.law}: {outcome.detail}'}")
