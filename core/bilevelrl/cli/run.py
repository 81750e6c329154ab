"""`bilevelrl run`: a problem and an algorithm by name, or an experiment file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from bilevelrl.cli.endings import end, end_seeds, stopped_by_signals
from bilevelrl.cli.log import log_option, loggers
from bilevelrl.cli.options import JOBS, certify_option, checkpoint_options, one_run_only, parse_option
from bilevelrl.cli.reports import progress, runs_progress
from bilevelrl.factories import compose
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.discovery import registry
from bilevelrl.storage.experiment import INTERVALS, ROLES, SETTINGS, TABLES, Experiment, check_setting
from bilevelrl.storage.run_directory import EXPERIMENT, seed_directory, seeds_in
from bilevelrl.validation.errors import InputError, UnknownNameError, value_words
from bilevelrl.validation.fields import check_count


@click.command("run")
@click.argument("problem")
@click.option("--algorithm", "-a", metavar="NAME", help="A recipe; see `bilevelrl list algorithms`.")
@click.option("--lower", metavar="NAME", help="A lower-level solver that replaces the recipe's.")
@click.option("--estimator", metavar="NAME", help="A hyper-gradient estimator that replaces the recipe's.")
@click.option("--upper", metavar="NAME", help="An upper-level optimizer that replaces the recipe's.")
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option: KEY of the algorithm, or problem.KEY, lower.KEY, estimator.KEY, upper.KEY. Repeatable.",
)
@click.option("--iterations", type=int, help="The largest number of updates of x (default 500).")
@click.option("--seed", type=int, help="The key of every random stream of the run (default 0).")
@click.option("--seeds", type=int, metavar="N", help="N runs, with seeds from --seed on, and a table of them all.")
@click.option("--tolerance", type=float, help="Stop at this distance from stationarity (default 0: never).")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Write the run here while it is running.")
@checkpoint_options
@certify_option
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
    certify: bool,
    logs: tuple[str, ...],
    jobs: int,
) -> None:
    """Run an algorithm on PROBLEM, a registered name or a TOML file.

    Components that are not named are those of `--algorithm`, which is by default the algorithm that the problem
    recommends.
    """
    names = {"algorithm": algorithm, "lower": lower, "estimator": estimator, "upper": upper}
    settings = {"iterations": iterations, "seed": seed, "tolerance": tolerance}
    settings |= {"checkpoint_every": checkpoint_every, "checkpoint_seconds": checkpoint_seconds}
    experiment = _experiment(problem, names, changes, settings)
    built_problem, built_algorithm = compose(experiment, registry())
    if seeds is not None:
        check_count("--seeds", seeds)
        one_run_only(logs, certify)
        with stopped_by_signals(out, ()) as signals:
            with runs_progress() as advance:
                runs = built_algorithm.run_seeds(
                    built_problem,
                    seeds=range(experiment.seed, experiment.seed + seeds),
                    iterations=experiment.iterations,
                    tolerance=experiment.tolerance,
                    **experiment.intervals,
                    out=out,
                    jobs=jobs,
                    progress=advance,
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
        end(run, out, logs, signals, certify=certify)


def _experiment(
    problem: str,
    names: Mapping[str, str | None],
    changes: tuple[str, ...],
    settings: Mapping[str, int | float | None],
) -> Experiment:
    if problem.endswith(".toml"):
        base = Experiment.read(Path(problem))
    else:
        _check_no_directory(problem)
        base = Experiment({"problem": {"name": problem}})
        # If all three components are named, no recipe is needed. Otherwise the problem recommends one.
        if names["algorithm"] is None and any(names[role] is None for role in ROLES):
            base = attrs.evolve(base, tables={**base.tables, "algorithm": {"name": _recommended(problem)}})
    tables: dict[str, dict[str, Any]] = {key: dict(table) for key, table in base.tables.items()}
    for table, name in names.items():
        if name is not None and tables.get(table, {}).get("name") != name:
            tables[table] = {"name": name}  # drops the options of the replaced component
            if table == "algorithm":
                for role in ROLES:
                    tables.pop(role, None)
    for change in changes:
        table, key, value = _parse_change(change)
        tables.setdefault(table, {})[key] = value
    given = {key: value for key, value in settings.items() if value is not None}
    return attrs.evolve(base, tables=tables, **{key: check_setting(key, value) for key, value in given.items()})


def _recommended(problem: str) -> str:
    """The algorithm that a problem's factory recommends, in its class attribute `algorithm`."""
    name = getattr(registry().find(Kind.PROBLEM, problem).component, "algorithm", None)
    if not isinstance(name, str):
        expected = "the name of one, since the problem recommends none; `bilevelrl list algorithms` shows them"
        raise InputError("--algorithm", "missing", expected)
    return name


def _check_no_directory(problem: str) -> None:
    """Raise `InputError` for the directory of a run in place of a problem, with what was probably meant."""
    path = Path(problem)
    known = any(entry.name == problem for entry in registry().of_kind(Kind.PROBLEM))
    seeds = seeds_in(path)
    if known or not (seeds or (path / EXPERIMENT).exists()):
        return
    file = (seed_directory(path, seeds[0]) if seeds else path) / EXPERIMENT
    expected = (
        f"the name of a problem or a TOML file; resume it with `bilevelrl resume {shlex.quote(problem)}`, or run "
    )
    expected += f"it again with `bilevelrl run {shlex.quote(str(file))}`"
    raise InputError("PROBLEM", f"{value_words(problem)}, the directory of a run", expected)


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
