"""Progress during runs, and reports at their end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import click

from bilevelrl.certificates.certificate import Certificate
from bilevelrl.execution.workers import Progress
from bilevelrl.outer_loop import OuterState
from bilevelrl.runs.run import Run
from bilevelrl.runs.seeds import figures

QUIET_LINES = 10


@contextlib.contextmanager
def progress(iterations: int) -> Iterator[Callable[[OuterState], None]]:
    """A progress bar on a terminal, otherwise a few lines."""
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
    """The progress of several runs: a bar on a terminal, otherwise a few lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

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
    norm = math.hypot(*state.hyper.gradient.tolist())  # hypot scales: the square of 1e200 would overflow
    return f"objective {state.hyper.objective:.6g}  gradient norm {norm:.3g}"


def report(run: Run, certificate: Certificate | None = None) -> None:
    """Print the figures at the start and at the end, the run's facts, and its certificate if there is one."""
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
    facts = run.facts()
    if certificate is not None:
        facts.append(("certificate", str(certificate)))
    for label, text in facts:
        console.print(f"  [bold]{escape(label)}[/bold]  {escape(text)}", soft_wrap=True, highlight=False)


def report_seeds(runs: list[Run]) -> None:
    """Print a row for each seed, then the mean and the standard deviation of each figure."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    every = figures(runs)
    shown = [label for label in every if not label.startswith(" ")]
    shown = [*shown[: shown.index("objective")][:2], "objective", "distance to stationarity"]
    columns = {label.removeprefix("distance to "): every[label] for label in shown}
    title = f"{runs[0].algorithm.name} on {runs[0].problem.name}, {len(runs)} seeds"
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("seed", justify="right")
    for label in columns:
        table.add_column(escape(label), justify="right")
    table.add_column("status")
    for index, run in enumerate(runs):
        cells = [f"{values[index]:.5g}" for values in columns.values()]
        table.add_row(str(run.seed), *cells, run.status.words, end_section=run is runs[-1])
    table.add_row("mean", *(f"{values.mean():.5g}" for values in columns.values()))
    if len(runs) > 1:
        table.add_row("deviation", *(f"{values.std(ddof=1):.3g}" for values in columns.values()))
    Console().print(table)
