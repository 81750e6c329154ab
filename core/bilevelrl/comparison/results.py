"""The results of a comparison: a standing for each algorithm, tables and files."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import scipy

from bilevelrl.comparison.budgets import Budget, ExchangeRates
from bilevelrl.comparison.trials import ComparedRun, Standing
from bilevelrl.protocols import UNITS
from bilevelrl.validation.errors import as_path


@attrs.frozen(eq=False, repr=False)
class Comparison:
    """The result of `compare`: `print` it, `plot` it, `save` it, or read its parts.

    Args:
        problem: the problem's name and options.
        budget: the amount that each run could spend.
        rates: the cost of linear solves and products in backups.
        seeds: the seeds of the reported runs.
        tuning_seeds: the seeds of the runs that determined the step sizes, which are not reported.
        grid: the factors of each algorithm's own step size that were tried.
        spread: standard deviation of the noise added to the starting point.
        fixed_start: whether all seeds start at the same point.
        judgement: the method of re-evaluation, in words.
        standings: one for each algorithm, best first.
        skipped: a map from labels to reasons, for algorithms that could not be compared.
        algorithms: a map from labels to the tables of names and options.
        tuning_runs: the runs that determined the step sizes.
    """

    problem: Mapping[str, Any]
    budget: Budget
    rates: ExchangeRates
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    grid: tuple[float, ...]
    spread: float
    fixed_start: bool
    judgement: str
    standings: tuple[Standing, ...]
    skipped: Mapping[str, str]
    algorithms: Mapping[str, Any]
    tuning_runs: tuple[ComparedRun, ...]

    def __getitem__(self, algorithm: str) -> Standing:
        """The result of one algorithm, by its label."""
        for standing in self.standings:
            if standing.algorithm == algorithm:
                return standing
        raise KeyError(algorithm)

    def __str__(self) -> str:
        return markdown(self)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.standings)} algorithms on {self.problem['name']!r}, {self.budget}>"

    def plot(self, path: str | Path, *, centre: str = "mean") -> Path:
        """Draw objective against budget (needs the extra `plot`).

        Args:
            path: the picture's path; its suffix gives the format.
            centre: "mean", with a band of one standard error, or "median", with a band between the quartiles.
        """
        from bilevelrl.comparison.picture import plot_standings

        name = str(self.problem["name"])
        labels = tuple(self.algorithms)
        return plot_standings(self.standings, labels, name, self.budget, as_path("path", path), centre)

    def save(self, directory: str | Path) -> Path:
        """Write `table.md`, `checkpoints.csv`, `runs.csv` and `summary.json` to a directory, made if missing."""
        return write(self, as_path("directory", directory))


AT_EDGE = "*"


def header(comparison: Comparison) -> list[str]:
    """The columns of the table of results."""
    return ["algorithm", "objective", "median", "stationarity", "step size", "failed"]


def results(comparison: Comparison) -> list[list[str]]:
    """Its rows, best first, then the skipped algorithms."""
    rows = [
        [
            standing.algorithm,
            _with_error(standing.objective, standing.standard_error),
            f"{standing.median:.5g}",
            _number(standing.mean(lambda run: run.stationarity)),
            _step_size(standing),
            f"{standing.failures} of {len(standing.runs)}",
        ]
        for standing in comparison.standings
    ]
    return rows + [[label, "skipped", "", "", "", ""] for label in comparison.skipped]


def work(comparison: Comparison) -> list[list[str]]:
    """The costs of the runs, means over the seeds, with a header: the budget's unit, iterations, counts, seconds."""
    used = _units(comparison)
    unit = comparison.budget.unit
    spent = [] if unit in ("iterations", "seconds") else [f"spent, {unit}"]
    rows = [["algorithm", *spent, "iterations", *(name.replace("_", " ") for name in used), "seconds"]]
    for standing in comparison.standings:
        counts = [f"{standing.mean(lambda run, name=name: run.cost.counts.get(name, 0)):,.0f}" for name in used]  # type: ignore[misc]
        seconds = f"{standing.mean(lambda run: run.seconds):.2f}"
        total = [f"{standing.mean(lambda run: run.spent):,.0f}"] if spent else []
        rows.append([standing.algorithm, *total, f"{standing.mean(lambda run: run.iterations):,.0f}", *counts, seconds])
    return rows


def _units(comparison: Comparison) -> list[str]:
    """The units of cost that any run counted, with those of `UNITS` first."""
    runs = [*comparison.tuning_runs, *(run for standing in comparison.standings for run in standing.runs)]
    used = {unit for run in runs for unit in run.cost.counts}
    return [*(unit for unit in UNITS if unit in used), *sorted(used - UNITS.keys())]


def remarks(comparison: Comparison) -> list[str]:
    """The conditions of the comparison, for readers of the tables."""
    count = len(comparison.seeds)
    told = [f"{comparison.problem['name']}, {comparison.budget} a run, {count} seed{'s' * (count > 1)}"]
    told.append(f"objective (smaller is better): mean ± standard error over the seeds; {comparison.judgement}")
    if comparison.budget.unit == "backups":
        rates = comparison.rates
        told.append(f"a linear solve counts {rates.linear_solve:.3g} backups, a product with P^π {rates.product:.3g}")
    if comparison.tuning_seeds:
        grid = ", ".join(f"{factor:g}" for factor in comparison.grid)
        seeds = ", ".join(map(str, comparison.tuning_seeds))
        told.append(f"step sizes: the default times {grid}, tuned on seeds {seeds}, which are not reported")
    if any(standing.at_edge for standing in comparison.standings):
        told.append(f"{AT_EDGE} at the edge of the grid: a better step size may be outside it")
    if comparison.fixed_start and count > 1:
        told.append("every seed starts at the same x: only algorithms that draw random numbers have a spread")
    if comparison.spread:
        told.append(f"starting points: the problem's own plus noise of deviation {comparison.spread:g}")
    told += _failures(comparison)
    return told + [f"{label} was skipped: {reason}" for label, reason in comparison.skipped.items()]


def _failures(comparison: Comparison) -> list[str]:
    told = []
    for standing in comparison.standings:
        failed = [run for run in standing.runs if run.failed]
        if failed:
            first = failed[0]
            told.append(
                f"{standing.algorithm} failed in {len(failed)} of {len(standing.runs)} runs, counted as they were; "
                f"seed {first.seed}: {first.status.words}, {first.stopped_by}"
            )
    return told


def markdown(comparison: Comparison) -> str:
    """Both tables and the remarks."""
    first = _markdown([header(comparison), *results(comparison)])
    listed = "\n".join(f"- {remark}" for remark in remarks(comparison))
    return f"{first}\n\n{_markdown(work(comparison))}\n\n{listed}"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write(comparison: Comparison, directory: Path) -> Path:
    """See `Comparison.save`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("table.md", "checkpoints.csv", "runs.csv", "summary.json"):
        (directory / name).unlink(missing_ok=True)  # nothing is written through an existing link
    (directory / "table.md").write_text(markdown(comparison) + "\n", encoding="utf-8")
    _write_checkpoints(comparison, directory / "checkpoints.csv")
    _write_runs(comparison, directory / "runs.csv")
    summary = json.dumps(_summary(comparison), indent=2, ensure_ascii=False, default=str)
    (directory / "summary.json").write_text(summary + "\n", encoding="utf-8")
    return directory


def _write_checkpoints(comparison: Comparison, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["algorithm", "seed", "budget", "spent", "iteration", "objective", "standard_error"])
        for standing in comparison.standings:
            for run in standing.runs:
                for point in run.checkpoints:
                    writer.writerow([run.algorithm, run.seed, *attrs.astuple(point)])


def _write_runs(comparison: Comparison, path: Path) -> None:
    columns = ["algorithm", "tuning", "seed", "step_size", "status", "stopped_by", "iterations", "spent", "objective"]
    units = _units(comparison)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "stationarity", *units, "seconds"])
        reported = [run for standing in comparison.standings for run in standing.runs]
        for run in (*comparison.tuning_runs, *reported):
            row = [run.algorithm, int(run.tuning), run.seed, run.step_size, run.status.name, run.stopped_by]
            row += [run.iterations, run.spent, run.objective, run.stationarity]
            writer.writerow(row + [run.cost.counts.get(unit, 0) for unit in units] + [run.seconds])


def _summary(comparison: Comparison) -> dict[str, Any]:
    return {
        "problem": dict(comparison.problem),
        "budget": attrs.asdict(comparison.budget),
        "exchange_rates": attrs.asdict(comparison.rates),
        "seeds": list(comparison.seeds),
        "tuning_seeds": list(comparison.tuning_seeds),
        "grid": list(comparison.grid),
        "spread": comparison.spread,
        "judgement": comparison.judgement,
        "algorithms": dict(comparison.algorithms),
        "skipped": dict(comparison.skipped),
        "results": [_result(standing) for standing in comparison.standings],
        "versions": {
            "bilevelrl": importlib.metadata.version("bilevelrl"),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }


def _result(standing: Standing) -> dict[str, Any]:
    return {
        "algorithm": standing.algorithm,
        "step_size": standing.step_size,
        "step_size_at_edge_of_grid": standing.at_edge,
        "objective": _finite(standing.objective),
        "standard_error": _finite(standing.standard_error),
        "median": _finite(standing.median),
        "failures": standing.failures,
        "objectives": [_finite(value) for value in standing.objectives.tolist()],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _with_error(value: float, error: float) -> str:
    """`0.4146 ± 0.0003`: as many digits as the error allows."""
    if not math.isfinite(value):
        return "not finite"
    if not math.isfinite(error):
        return f"{value:.5g}"
    if error <= 1e-12 * max(1.0, abs(value)):
        return f"{value:.6g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 8 or abs(value) >= 1e7:
        return f"{value:.6g} ± {error:.1e}"
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "–"


def _step_size(standing: Standing) -> str:
    if standing.step_size is None:
        return "–"
    return f"{standing.step_size:g}{AT_EDGE * standing.at_edge}"
