"""Run: what a run saw and where it ended — printed, plotted, saved."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.experiment import Experiment
from bilevelrl.protocols import Cost, HyperGradient, OptimizerState, Status
from bilevelrl.validation import Array, UnknownNameError

if TYPE_CHECKING:
    from bilevelrl.outer_loop import Algorithm


@attrs.frozen(eq=False, slots=False)
class OuterState:
    """Everything the outer loop carries from one iteration to the next.

    Args:
        iteration: updates of x so far.
        x: (n,) the leader's decision.
        solution: the follower's answer at x.
        hyper: the hyper-gradient at x.
        optimizer: what the optimiser remembers.
        cost: the cost of the run so far.
    """

    iteration: int
    x: Array
    solution: Any
    hyper: HyperGradient
    optimizer: OptimizerState
    cost: Cost


COLUMNS = (
    "iteration",
    "objective",
    "stationarity",
    "gradient_norm",
    "direct_norm",
    "implicit_norm",
    "lower_residual",
    "estimator_residual",
    "standard_error",
    "backups",
    "linear_solves",
    "products",
    "samples",
    "seconds",
)
"""The columns of a history: figures at x_k, and costs summed over the run so far."""


class History:
    """One row an iteration, by column: `history["objective"]` is an array."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    def append(self, state: OuterState, distance: float) -> None:
        """Record a state and its stationarity."""
        hyper, cost, residual, error = (
            state.hyper,
            state.cost,
            state.hyper.residual,
            state.hyper.standard_error,
        )
        self._rows.append(
            (
                state.iteration,
                hyper.objective,
                distance,
                _norm(hyper.gradient),
                _norm(hyper.direct),
                _norm(hyper.implicit),
                state.solution.residual,
                math.nan if residual is None else residual,
                math.nan if error is None else _norm(error),
                cost.backups,
                cost.linear_solves,
                cost.products,
                cost.samples,
                cost.seconds,
            )
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> Array:
        if column not in COLUMNS:
            raise UnknownNameError("the column of a history", column, COLUMNS)
        index = COLUMNS.index(column)
        return np.array([row[index] for row in self._rows], dtype=np.float64)

    def write_csv(self, path: Path) -> None:
        """Write all rows with a header line; numbers keep all their digits."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)


def _norm(vector: Array) -> float:
    return math.sqrt(vector @ vector)


@attrs.frozen(eq=False, repr=False)
class Run:
    """A finished run: `print` it, `plot` it, `save` it, or read its parts.

    Args:
        problem: what was solved.
        algorithm: with what.
        iterations: the updates of x that were allowed.
        seed: the seed of its random streams.
        tolerance: the stationarity it was asked for; 0 for none.
        first: the state it began with.
        last: the last good state.
        history: figures for every iteration.
        status: how it ended.
        stopped_by: what failed, and when; empty where nothing did.
        seconds: wall-clock time, everything included.
    """

    problem: BilevelProblem
    algorithm: Algorithm
    iterations: int
    seed: int
    tolerance: float
    first: OuterState
    last: OuterState
    history: History
    status: Status
    stopped_by: str
    seconds: float

    @property
    def x(self) -> Array:
        """The leader's last decision (n,)."""
        return self.last.x

    @property
    def objective(self) -> float:
        """The leader's objective there, by the algorithm's own estimate."""
        return self.last.hyper.objective

    @property
    def gradient(self) -> Array:
        """The hyper-gradient there (n,)."""
        return self.last.hyper.gradient

    @property
    def solution(self) -> Any:
        """The follower's answer there."""
        return self.last.solution

    @property
    def cost(self) -> Cost:
        """What the run cost."""
        return self.last.cost

    def comparison(self) -> list[tuple[str, float, float]]:
        """Figures (label, at the first state, at the last): the problem's own measures, objective, gradient."""
        rows = []
        if self.problem.measures is not None:
            before = self.problem.measures(self.first.x, self.first.solution)
            after = self.problem.measures(self.last.x, self.last.solution)
            rows += [(label, float(before[label]), float(after[label])) for label in before]
        for label, column in (
            ("objective", "objective"),
            ("gradient norm", "gradient_norm"),
            ("  direct part", "direct_norm"),
            ("  implicit part", "implicit_norm"),
            ("distance to stationarity", "stationarity"),
        ):
            values = self.history[column]
            rows.append((label, float(values[0]), float(values[-1])))
        return rows

    def facts(self) -> list[tuple[str, str]]:
        """What else a report tells, in words: iterations, status, cost, time."""
        cost = self.cost
        spent = [
            f"{count:,} {unit}"
            for count, unit in (
                (cost.backups, "Bellman backups"),
                (cost.linear_solves, "linear solves"),
                (cost.products, "products with P^π"),
                (cost.samples, "samples"),
            )
            if count
        ]
        status = self.status.advice + (f" ({self.stopped_by})" if self.stopped_by else "")
        return [
            ("iterations", f"{self.last.iteration:,} of {self.iterations:,}"),
            ("status", status),
            ("cost", ", ".join(spent) or "nothing counted"),
            ("time", f"{self.seconds:.2f} s"),
        ]

    def __str__(self) -> str:
        lines = [f"{self.algorithm.name} on {self.problem.name}", f"{'':26}{'start':>12}{'end':>14}"]
        lines += [f"{label:26}{before:>12.6g}{after:>14.6g}" for label, before, after in self.comparison()]
        lines += [f"{label:26}{text}" for label, text in self.facts()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<Run of {self.algorithm.name!r} on {self.problem.name!r}: {self.last.iteration} iterations, "
            f"objective {self.objective:.6g}, {self.status.name}>"
        )

    def experiment(self) -> Experiment:
        """What this run was asked to do; `bilevelrl.compose` builds it again."""
        return Experiment.describe(
            self.problem, self.algorithm, iterations=self.iterations, seed=self.seed, tolerance=self.tolerance
        )

    def plot(self, path: str | Path) -> Path:
        """Draw the problem's picture and the curves of the run into a file (needs the extra `plot`)."""
        from bilevelrl.plotting import plot_run

        return plot_run(self, Path(path))

    def save(self, directory: str | Path) -> Path:
        """Write the run to a directory, which is made where it does not exist.

        `experiment.toml` (`bilevelrl run` takes it), `history.csv` (one row an iteration), `summary.json`, and
        `state.npz` (x, the gradient's parts, and the follower's policy and values where they are tables).
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        self.experiment().write(target / "experiment.toml")
        self.history.write_csv(target / "history.csv")
        summary = json.dumps(self._summary(), indent=2, ensure_ascii=False)
        (target / "summary.json").write_text(summary + "\n", encoding="utf-8")
        arrays: dict[str, Any] = self._arrays()
        np.savez(target / "state.npz", **arrays)
        return target

    def _summary(self) -> dict[str, Any]:
        return {
            "problem": self.problem.name,
            "algorithm": self.algorithm.name,
            "status": self.status.name,
            "advice": self.status.advice,
            "stopped_by": self.stopped_by,
            "iterations": self.last.iteration,
            "seconds": self.seconds,
            "cost": attrs.asdict(self.cost),
            "figures": {label.strip(): [before, after] for label, before, after in self.comparison()},
        }

    def _arrays(self) -> dict[str, Array]:
        arrays = {"x": self.x, "direct": self.last.hyper.direct, "implicit": self.last.hyper.implicit}
        for name in ("policy", "values", "action_values"):
            table = getattr(self.solution, name, None)
            if isinstance(table, np.ndarray):
                arrays[name] = table
        return arrays
