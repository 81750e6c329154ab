"""`bilevelrl compare`: several algorithms on one problem, with the same budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bilevelrl.cli.options import parse_option
from bilevelrl.cli.reports import runs_progress
from bilevelrl.comparison import results as report
from bilevelrl.comparison.contest import DEFAULT_CHECKPOINTS, DEFAULT_GRID, compare
from bilevelrl.comparison.picture import CENTRES
from bilevelrl.comparison.results import Comparison
from bilevelrl.storage.experiment import ROLES, Experiment
from bilevelrl.storage.run_directory import writable
from bilevelrl.validation.errors import InputError, UnknownNameError

EXAMPLE = "NAME.KEY=VALUE, such as m-sobirl.sweeps=20"


@click.command("compare")
@click.argument("problem")
@click.option(
    "--algorithms",
    "-a",
    "names",
    metavar="A,B,C",
    required=True,
    help="Recipes; or LABEL=NAME for another label; or NAME.toml for the components of an experiment.",
)
@click.option("--seeds", type=int, default=10, show_default=True, help="Reported runs of each algorithm.")
@click.option(
    "--budget",
    metavar="UNIT[=AMOUNT]",
    help="What a run may spend: backups, samples, seconds or iterations. Default: 5000 backups, or 1e6 samples.",
)
@click.option("--set", "changes", metavar="NAME.KEY=VALUE", multiple=True, help="An option of NAME, or of problem.")
@click.option(
    "--grid",
    metavar="A,B,C",
    default=",".join(f"{factor:g}" for factor in DEFAULT_GRID),
    show_default=True,
    help="Factors on each algorithm's step size, tuned on separate seeds; a single factor is not tuned.",
)
@click.option("--tuning-seeds", type=int, default=2, show_default=True, help="Seeds for tuning, not reported.")
@click.option("--checkpoints", type=int, default=DEFAULT_CHECKPOINTS, show_default=True, help="Evaluations per run.")
@click.option("--spread", type=float, default=0.0, show_default=True, help="Standard deviation of noise on the start.")
@click.option("--rate", "rates", metavar="KIND=BACKUPS", multiple=True, help="Price of a linear_solve or a product.")
@click.option("--centre", default=CENTRES[0], show_default=True, help="Centre in the picture: mean or median.")
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help="Number of processes.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Save tables, CSV and picture here.")
def compare_command(
    problem: str,
    names: str,
    seeds: int,
    budget: str | None,
    changes: tuple[str, ...],
    grid: str,
    tuning_seeds: int,
    checkpoints: int,
    spread: float,
    rates: tuple[str, ...],
    centre: str,
    jobs: int,
    out: Path | None,
) -> None:
    """Compare algorithms on PROBLEM: same starting points, same budget, tuned step sizes, independent evaluation."""
    if centre not in CENTRES:
        raise UnknownNameError("--centre", centre, CENTRES)
    algorithms = _algorithms(names)
    own, options = _options(changes, algorithms)
    if out is not None:
        # Checked before the runs, so that a wrong directory does not waste an hour of computing.
        with writable(out):
            out.mkdir(parents=True, exist_ok=True)
    with runs_progress() as progress:
        comparison = compare(
            {"name": problem} | own,
            algorithms,
            seeds=seeds,
            budget=budget,
            options=options,
            grid=_factors(grid),
            tuning_seeds=tuning_seeds,
            checkpoints=checkpoints,
            spread=spread,
            rates=dict(parse_option("--rate", rate, "linear_solve=5") for rate in rates),
            jobs=jobs,
            progress=progress,
        )
    _print(comparison)
    if out is not None:
        _save(comparison, out, centre)


def _algorithms(names: str) -> dict[str, Any]:
    """Label to name, or to the tables of an experiment file."""
    algorithms: dict[str, Any] = {}
    for word in (word.strip() for word in names.split(",")):
        label, separator, name = word.partition("=")
        meant = name if separator else label
        if not label or not meant:
            raise InputError("--algorithms", repr(names), "names with commas between them")
        label = Path(label).stem if label.endswith(".toml") else label
        if label in algorithms:
            raise InputError("--algorithms", f"{label!r} twice", "each label once; LABEL=NAME gives another")
        algorithms[label] = _file(meant) if meant.endswith(".toml") else meant
    return algorithms


def _file(name: str) -> dict[str, Any]:
    tables = Experiment.read(Path(name)).tables
    return {table: content for table, content in tables.items() if table != "problem"}


def _options(changes: tuple[str, ...], algorithms: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The problem's options, and each algorithm's."""
    own: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for change in changes:
        path, value = parse_option("--set", change, "m-sobirl.sweeps=20")
        owner, dot, key = path.partition(".")
        if not dot or not owner or not key:
            raise InputError("--set", repr(change), EXAMPLE)
        if owner == "problem":
            own[key] = value
            continue
        if owner not in algorithms:
            raise UnknownNameError(f"the part before the dot in --set {change!r}", owner, ("problem", *algorithms))
        role, dot, inner = key.partition(".")
        if dot and role not in ROLES:
            raise UnknownNameError(f"the role in --set {change!r}", role, ROLES)
        table = options.setdefault(owner, {})
        if dot:
            table.setdefault(role, {})[inner] = value
        else:
            table[key] = value
    return own, options


def _factors(grid: str) -> list[float]:
    try:
        return [float(word) for word in grid.split(",")]
    except ValueError:
        raise InputError("--grid", repr(grid), "factors with commas between them, such as 0.1,1,10") from None


def _print(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    title = f"{comparison.problem['name']}, {comparison.budget} a run, {len(comparison.seeds)} seeds"
    for rows in ([report.header(comparison), *report.results(comparison)], report.work(comparison)):
        table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
        for index, column in enumerate(rows[0]):
            table.add_column(escape(column), justify="right" if index else "left")
        for row in rows[1:]:
            table.add_row(*map(escape, row))  # a label such as [/b] is not markup
        console.print(table)
        title = "work, means over the seeds"
    for remark in report.remarks(comparison)[1:]:
        console.print(f"  {remark}", soft_wrap=True, highlight=False, markup=False)


def _save(comparison: Comparison, out: Path, centre: str) -> None:
    written = "table.md, checkpoints.csv, runs.csv, summary.json"
    with writable(out):
        try:
            comparison.save(out)
            picture = comparison.plot(out / "comparison.png", centre=centre)
        except InputError as error:
            click.echo(f"No picture: {error}", err=True)
        else:
            written += f", {picture.name}"
    click.echo(f"  saved to {out}: {written}")
