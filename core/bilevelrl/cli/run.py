"""`bilevelrl run`: a problem and an algorithm by name, or an experiment file."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from bilevelrl.composition import compose
from bilevelrl.experiment import ROLES, SETTINGS, TABLES, Experiment, check_setting
from bilevelrl.history import OuterState
from bilevelrl.outer_loop import Callback
from bilevelrl.plugins import registry
from bilevelrl.protocols import Status
from bilevelrl.run import Run
from bilevelrl.run_directory import SUMMARY, writable
from bilevelrl.validation import InputError, UnknownNameError

INTERRUPTED = 130
FAILED = 1
QUIET_LINES = 10
TERMINATED = 143
WRITTEN = "experiment.toml, environment.json, history.csv, summary.json, state.npz, checkpoint"


def checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how often a run is written."""
    every = click.option("--checkpoint-every", type=int, metavar="K", help="Write a checkpoint every K iterations.")
    seconds = click.option(
        "--checkpoint-seconds",
        type=float,
        default=30.0,
        metavar="T",
        help="Write a checkpoint where the last one is T seconds old (default 30).",
    )
    return every(seconds(command))


@click.command("run")
@click.argument("problem")
@click.option("--algorithm", "-a", metavar="NAME", help="A recipe; see `bilevelrl list algorithms`.")
@click.option("--lower", metavar="NAME", help="A lower-level solver, instead of the recipe's.")
@click.option("--estimator", metavar="NAME", help="A hyper-gradient estimator, instead of the recipe's.")
@click.option("--upper", metavar="NAME", help="An upper-level optimizer, instead of the recipe's.")
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option: KEY of the algorithm, or problem.KEY, lower.KEY, estimator.KEY, upper.KEY. Repeatable.",
)
@click.option("--iterations", type=int, help="The largest number of updates of x (default 500).")
@click.option("--seed", type=int, help="Keys every random stream of the run (default 0).")
@click.option("--tolerance", type=float, help="Stop at this distance from stationarity (default 0: never).")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Write the run here while it goes on.")
@checkpoint_options
def run_command(
    problem: str,
    algorithm: str | None,
    lower: str | None,
    estimator: str | None,
    upper: str | None,
    changes: tuple[str, ...],
    iterations: int | None,
    seed: int | None,
    tolerance: float | None,
    out: Path | None,
    checkpoint_every: int | None,
    checkpoint_seconds: float,
) -> None:
    """Run an algorithm on PROBLEM, a registered name or a TOML file.

    Components that are not named are those of `--algorithm`, which is m-sobirl where it is not given.
    """
    names = {"algorithm": algorithm, "lower": lower, "estimator": estimator, "upper": upper}
    settings = {"iterations": iterations, "seed": seed, "tolerance": tolerance}
    experiment = _experiment(problem, names, changes, settings)
    built_problem, built_algorithm = compose(experiment, registry())
    with progress(experiment.iterations) as callback, stopped_by_signals() as signals:
        run = built_algorithm.run(
            built_problem,
            iterations=experiment.iterations,
            seed=experiment.seed,
            tolerance=experiment.tolerance,
            callback=callback,
            out=out,
            checkpoint_every=checkpoint_every,
            checkpoint_seconds=checkpoint_seconds,
        )
    end(run, out, signals)


def end(run: Run, out: Path | None, signals: list[int]) -> None:
    """Report a run, draw it into its directory, and leave with its exit status."""
    _report(run)
    if out is not None:
        _draw(run, out)
    if run.status is Status.INTERRUPTED:
        if out is not None:
            click.echo(f"Interrupted: go on with `bilevelrl resume {shlex.quote(str(out))}`", err=True)
        sys.exit(TERMINATED if signal.SIGTERM in signals else INTERRUPTED)
    if not run.status.usable:
        sys.exit(FAILED)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[list[int]]:
    """SIGTERM ends the run as Ctrl-C does, after the last complete iteration; the signals that came."""
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
    except KeyboardInterrupt:  # outside of the iterations
        if came:
            click.echo("Terminated.", err=True)
            sys.exit(TERMINATED)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _experiment(
    problem: str,
    names: Mapping[str, str | None],
    changes: tuple[str, ...],
    settings: Mapping[str, int | float | None],
) -> Experiment:
    if problem.endswith(".toml"):
        base = Experiment.read(Path(problem))
    else:
        # All three components may be composed freely; where one is not named, it is that of the paper's method.
        composed = names["algorithm"] is not None or all(names[role] is not None for role in ROLES)
        base = Experiment({"problem": {"name": problem}} | ({} if composed else {"algorithm": {"name": "m-sobirl"}}))
    tables: dict[str, dict[str, Any]] = {key: dict(table) for key, table in base.tables.items()}
    for table, name in names.items():
        if name is not None and tables.get(table, {}).get("name") != name:
            tables[table] = {"name": name}  # the options of another component mean nothing to this one
            if table == "algorithm":
                for role in ROLES:
                    tables.pop(role, None)
    for change in changes:
        table, key, value = _parse_change(change)
        tables.setdefault(table, {})[key] = value
    given = {key: value for key, value in settings.items() if value is not None}
    return attrs.evolve(base, tables=tables, **{key: check_setting(key, value) for key, value in given.items()})


def _parse_change(change: str) -> tuple[str, str, Any]:
    path, value = parse_option("--set", change, "lower.sweeps=20")
    table, dot, key = path.rpartition(".")
    if not dot:
        table = "algorithm"
    if not key:
        raise InputError("--set", repr(change), "KEY=VALUE, such as lower.sweeps=20")
    if table not in TABLES:
        raise UnknownNameError(f"the part before the dot in --set {change!r}", table, TABLES)
    if key in SETTINGS and table == "algorithm":
        raise InputError("--set", repr(change), f"the option --{key}")
    return table, key, value


def parse_option(option: str, change: str, example: str) -> tuple[str, Any]:
    """`KEY=VALUE`, given with an option of the command line, as a key and a value."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise InputError(option, repr(change), f"KEY=VALUE, such as {example}")
    return key.strip(), _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value, or, where it is none, the text itself: `--set problem.environment=Taxi-v3` needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:  # not TOML, or an integer of thousands of digits
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break in the text would begin another key


@contextlib.contextmanager
def progress(iterations: int) -> Iterator[Callback]:
    """A bar on a terminal; elsewhere a few quiet lines."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        every = max(1, iterations // QUIET_LINES)

        def quiet(state: OuterState) -> None:
            if state.iteration % every == 0:
                click.echo(f"iteration {state.iteration:>8,}  {_figures(state)}", err=True)

        yield quiet
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=iterations, figures="")
        every = max(1, iterations // 200)

        def draw(state: OuterState) -> None:
            if state.iteration % every == 0 or state.iteration == iterations:
                bar.update(task, completed=state.iteration, figures=_figures(state))

        yield draw


def _figures(state: OuterState) -> str:
    norm = math.hypot(*state.hyper.gradient.tolist())  # which scales: 1e200 has a norm, though not a square
    return f"objective {state.hyper.objective:.6g}  gradient norm {norm:.3g}"


def _report(run: Run) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"{run.algorithm.name} on {run.problem.name}"), box=box.SIMPLE_HEAD, title_justify="left"
    )
    table.add_column("")
    table.add_column("start", justify="right")
    table.add_column("end", justify="right")
    for label, before, after in run.comparison():
        table.add_row(escape(label), f"{before:.6g}", f"{after:.6g}")
    console = Console()
    console.print(table)
    for label, text in run.facts():
        console.print(f"  [bold]{escape(label)}[/bold]  {escape(text)}", soft_wrap=True, highlight=False)


def _draw(run: Run, out: Path) -> None:
    if not (out / SUMMARY).exists():
        raise InputError("--out", repr(str(out)), "a directory that can be written, to its end")
    written = WRITTEN
    with writable(out):
        try:
            picture = run.plot(out / "run.png")
        except InputError as error:
            click.echo(f"No picture: {error}", err=True)
        else:
            written += f", {picture.name}"
    click.echo(f"  saved to {out}: {written}")
