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

from bilevelrl.cli.exit_statuses import FAILED, INTERRUPTED, TERMINATED
from bilevelrl.cli.log import log_option, loggers
from bilevelrl.composition import compose
from bilevelrl.directory_lock import directory_words
from bilevelrl.experiment import INTERVALS, ROLES, SETTINGS, TABLES, Experiment, check_setting
from bilevelrl.history import OuterState
from bilevelrl.plugins import registry
from bilevelrl.protocols import Status
from bilevelrl.run import Run
from bilevelrl.run_directory import PICTURE, SUMMARY, holds_run, writable
from bilevelrl.seeds import PREFIX, TABLE, figures, seeds_in
from bilevelrl.validation import InputError, UnknownNameError, check_count
from bilevelrl.workers import Progress

QUIET_LINES = 10
JOBS = "Processes that share seeds, sample batches and contexts. The results do not depend on it."
WRITTEN = "experiment.toml, environment.json, history.csv, summary.json, state.npz, checkpoint"


def checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how often a run is written; what is not given is as in the file, or as before."""
    every = click.option("--checkpoint-every", type=int, metavar="K", help="Write a checkpoint every K iterations.")
    seconds = click.option(
        "--checkpoint-seconds",
        type=float,
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
@click.option("--seeds", type=int, metavar="N", help="N runs, with seeds from --seed on, and a table of them all.")
@click.option("--tolerance", type=float, help="Stop at this distance from stationarity (default 0: never).")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Write the run here while it goes on.")
@checkpoint_options
@log_option
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help=JOBS)
def run_command(
    problem: str,
    algorithm: str | None,
    lower: str | None,
    estimator: str | None,
    upper: str | None,
    changes: tuple[str, ...],
    iterations: int | None,
    seed: int | None,
    seeds: int | None,
    tolerance: float | None,
    out: Path | None,
    checkpoint_every: int | None,
    checkpoint_seconds: float | None,
    logs: tuple[str, ...],
    jobs: int,
) -> None:
    """Run an algorithm on PROBLEM, a registered name or a TOML file.

    Components that are not named are those of `--algorithm`, which is m-sobirl where it is not given.
    """
    names = {"algorithm": algorithm, "lower": lower, "estimator": estimator, "upper": upper}
    settings = {"iterations": iterations, "seed": seed, "tolerance": tolerance}
    settings |= {"checkpoint_every": checkpoint_every, "checkpoint_seconds": checkpoint_seconds}
    experiment = _experiment(problem, names, changes, settings)
    built_problem, built_algorithm = compose(experiment, registry())
    if seeds is not None:
        check_count("--seeds", seeds)
        one_run_only(logs)
        with stopped_by_signals(out, ()) as signals:
            with runs_progress() as told:
                runs = built_algorithm.run_seeds(
                    built_problem,
                    seeds=range(experiment.seed, experiment.seed + seeds),
                    iterations=experiment.iterations,
                    tolerance=experiment.tolerance,
                    **experiment.intervals,
                    out=out,
                    jobs=jobs,
                    progress=told,
                )
            end_seeds(runs, seeds, out, signals)
        return
    watching = loggers(logs, out)
    with stopped_by_signals(out, logs) as signals:
        with progress(experiment.iterations) as bar:
            run = built_algorithm.run(
                built_problem,
                **experiment.settings,
                **experiment.intervals,
                callback=[bar, *watching],
                out=out,
                jobs=jobs,
            )
        end(run, out, logs, signals)


def one_run_only(logs: tuple[str, ...]) -> None:
    """Raise `InputError` where several runs would write one log."""
    if logs:
        raise InputError("--log", repr(logs[0]), "one run, not several seeds; `--out` keeps the history of each")


def end(run: Run, out: Path | None, logs: tuple[str, ...], signals: list[int]) -> None:
    """Report a run, draw it into its directory, and leave with its exit status."""
    _report(run)
    if out is not None:
        _draw(run, out)
    leave(run.status is Status.INTERRUPTED, not run.status.usable, out, logs, signals)


def leave(interrupted: bool, failed: bool, out: Path | None, logs: tuple[str, ...], signals: list[int]) -> None:
    """End with the exit status of what has happened, having said how to go on."""
    if interrupted:
        _leave_interrupted(out, logs, signals)
    if failed:
        sys.exit(FAILED)


def end_seeds(runs: list[Run], wanted: int, out: Path | None, signals: list[int]) -> None:
    """Report the runs of several seeds, and leave with their exit status."""
    if runs:
        _report_seeds(runs)
    if out is not None and runs:
        click.echo(f"  saved to {out}: {TABLE}, and for each seed, as in {PREFIX}{runs[0].seed}: {WRITTEN}")
    interrupted = len(runs) < wanted or any(run.status is Status.INTERRUPTED for run in runs)
    leave(interrupted, any(not run.status.usable for run in runs), out, (), signals)


def _leave_interrupted(out: Path | None, logs: tuple[str, ...], signals: list[int]) -> None:
    if out is None or not (holds_run(out) or seeds_in(out)):
        click.echo("Interrupted: nothing was saved.", err=True)
    else:
        words = ["bilevelrl", "resume", str(out), *(word for log in logs for word in ("--log", log))]
        click.echo(f"Interrupted: go on with `{shlex.join(words)}`", err=True)
    sys.exit(TERMINATED if signal.SIGTERM in signals else INTERRUPTED)


@contextlib.contextmanager
def stopped_by_signals(out: Path | None, logs: tuple[str, ...]) -> Iterator[list[int]]:
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
    except KeyboardInterrupt:  # outside of the iterations, or while they were being saved
        _leave_interrupted(out, logs, came)
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
    if key in SETTINGS | INTERVALS and table == "algorithm":
        raise InputError("--set", repr(change), f"the option --{key.replace('_', '-')}")
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
def progress(iterations: int) -> Iterator[Callable[[OuterState], None]]:
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


@contextlib.contextmanager
def runs_progress() -> Iterator[Progress]:
    """Of several runs: a bar on a terminal; elsewhere a few quiet lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:

        def quiet(done: int, total: int) -> None:
            if done % max(1, total // QUIET_LINES) == 0 or done == total:
                click.echo(f"run {done:>6,} of {total:,}", err=True)

        yield quiet
        return
    with Bar(TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _figures(state: OuterState) -> str:
    norm = math.hypot(*state.hyper.gradient.tolist())  # which scales: 1e200 has a norm, though not a square
    return f"objective {state.hyper.objective:.6g}  gradient norm {norm:.3g}"


def _report(run: Run) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{run.algorithm.name} on {run.problem.name}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    table.add_column("start", justify="right")
    table.add_column("end", justify="right")
    for label, before, after in run.comparison():
        table.add_row(label, f"{before:.6g}", f"{after:.6g}")
    console = Console()
    console.print(table)
    for label, text in run.facts():
        console.print(f"  [bold]{label}[/bold]  {text}", soft_wrap=True, highlight=False)


def _report_seeds(runs: list[Run]) -> None:
    """A row for each seed, then the mean and the standard deviation of each figure."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    every = figures(runs)
    shown = [label for label in every if not label.startswith(" ")]
    shown = [*shown[: shown.index("objective")][:2], "objective", "distance to stationarity"]
    columns = {label.removeprefix("distance to "): every[label] for label in shown}
    title = f"{runs[0].algorithm.name} on {runs[0].problem.name}, {len(runs)} seeds"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("seed", justify="right")
    for label in columns:
        table.add_column(label, justify="right")
    table.add_column("status")
    for index, run in enumerate(runs):
        told = [f"{values[index]:.5g}" for values in columns.values()]
        table.add_row(str(run.seed), *told, run.status.name.lower().replace("_", " "), end_section=run is runs[-1])
    table.add_row("mean", *(f"{values.mean():.5g}" for values in columns.values()))
    if len(runs) > 1:
        table.add_row("deviation", *(f"{values.std(ddof=1):.3g}" for values in columns.values()))
    Console().print(table)


def _draw(run: Run, out: Path) -> None:
    if not (out / SUMMARY).exists():
        kept = f"its last good checkpoint is kept: go on with `bilevelrl resume {shlex.quote(str(out))}`"
        raise InputError(directory_words(out), "not written to the run's end", f"one that can be written; {kept}")
    written = WRITTEN
    with writable(out):
        try:
            picture = run.plot(out / PICTURE)
        except InputError as error:
            click.echo(f"No picture: {error}", err=True)
        else:
            written += f", {picture.name}"
    click.echo(f"  saved to {out}: {written}")
