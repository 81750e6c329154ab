"""What a comparison found: a standing for each algorithm, and the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bilevelrl.budgets import Budget, ExchangeRates
from bilevelrl.comparison_runs import ComparedRun
from bilevelrl.validation import as_path


@attrs.frozen
class Standing:
    """One algorithm's result.

    Args:
        algorithm: its label.
        step_size: the tuned one; None where the optimizer has none.
        at_edge: whether that is the smallest or the largest of the grid, so that a better one may lie beyond.
        runs: those of the report, in the order of the seeds.
    """

    algorithm: str
    step_size: float | None
    at_edge: bool
    runs: tuple[ComparedRun, ...]

    @property
    def objectives(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The final objectives, re-evaluated; a failed run's is that of its last good x."""
        return np.array([run.objective for run in self.runs])

    @property
    def objective(self) -> float:
        """Their mean; infinite where one is."""
        return float(self.objectives.mean())

    @property
    def median(self) -> float:
        """Their median, which one failed run does not move."""
        return float(np.median(self.objectives))

    @property
    def standard_error(self) -> float:
        """Of that mean over the seeds; NaN where there is one seed only."""
        values = self.objectives
        if values.size < 2 or not np.isfinite(values).all():
            return math.nan
        return float(values.std(ddof=1)) / math.sqrt(values.size)

    @property
    def failures(self) -> int:
        """Runs that stopped before their budget did."""
        return sum(run.failed for run in self.runs)

    def mean(self, figure: Callable[[ComparedRun], float]) -> float:
        """The mean of a figure over the runs."""
        return float(np.mean([figure(run) for run in self.runs]))


@attrs.frozen(eq=False, repr=False)
class Comparison:
    """What `compare` found: `print` it, `plot` it, `save` it, or read its parts.

    Args:
        problem: the problem's name and options.
        budget: what each run could spend.
        rates: what linear solves and products were worth in backups.
        seeds: of the runs reported.
        tuning_seeds: of the runs that chose the step sizes; none of them is reported.
        grid: the factors that were tried on each algorithm's own step size.
        spread: standard deviation of the noise added to the starting point.
        fixed_start: whether all seeds begin at the same point.
        judgement: how objectives were re-evaluated, in words.
        standings: one for each algorithm, the best first.
        skipped: label to reason, for those that could not be compared.
        algorithms: label to the tables of names and options.
        tuning_runs: the runs behind the step sizes.
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
        from bilevelrl.comparison_report import markdown

        return markdown(self)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.standings)} algorithms on {self.problem['name']!r}, {self.budget}>"

    def plot(self, path: str | Path, *, centre: str = "mean") -> Path:
        """Draw objective against budget (needs the extra `plot`).

        Args:
            path: of the picture; its suffix is the format.
            centre: "mean", with a band of one standard error, or "median", with one from quartile to quartile.
        """
        from bilevelrl.comparison_picture import plot_comparison

        return plot_comparison(self, as_path("path", path), centre)

    def save(self, directory: str | Path) -> Path:
        """Write `table.md`, `checkpoints.csv`, `runs.csv` and `summary.json` to a directory, made if missing."""
        from bilevelrl.comparison_report import write

        return write(self, as_path("directory", directory))
