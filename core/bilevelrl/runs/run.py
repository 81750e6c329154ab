"""The result of a run: its states, history and status, which can be printed, plotted and saved."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from bilevelrl.certificates.certificate import Certificate, certify
from bilevelrl.outer_loop import BestIterate, OuterLoop, OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, HyperGradientEstimator, LowerLevelSolver, Status
from bilevelrl.storage.array_files import Arrays, checked_arrays, write_arrays
from bilevelrl.storage.checkpoint import Checkpoint, CheckpointWarning
from bilevelrl.storage.experiment import SETTINGS, Experiment
from bilevelrl.storage.history import History
from bilevelrl.storage.run_directory import ARRAYS, PICTURE, SUMMARY, RunDirectory, writable, write_json
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import as_path

WORDS = {"backups": "Bellman backups", "passes": "other passes over P", "products": "products with P^π"}
"""The names in reports of units of cost whose own names are unclear."""


@attrs.frozen(eq=False, repr=False)
class Run:
    """A finished run: `print` it, `plot` it, `save` it, or read its parts.

    Args:
        problem: the problem.
        algorithm: the algorithm.
        iterations: the largest allowed number of updates of x.
        seed: the seed of its random streams.
        tolerance: the requested stationarity; 0 for none.
        first: the first state.
        last: the last good state.
        best: the x with the smallest objective, plus twice its standard error; None if every objective has an unknown
            error.
        history: figures for every iteration.
        status: how it ended.
        stopped_by: the component that failed and the iteration, or a callback's message; empty if nothing stopped it.
        seconds: wall-clock time in total.
    """

    problem: BilevelProblem
    algorithm: OuterLoop
    iterations: int
    seed: int
    tolerance: float
    first: OuterState
    last: OuterState
    best: BestIterate | None
    history: History
    status: Status
    stopped_by: str
    seconds: float

    @classmethod
    def restored(
        cls, problem: BilevelProblem, algorithm: OuterLoop, settings: Mapping[str, Any], found: Checkpoint
    ) -> Run:
        """The run of a checkpoint, with its settings: iterations, seed and tolerance."""
        return cls(
            problem=problem,
            algorithm=algorithm,
            **settings,
            first=found.first,
            last=found.last,
            best=found.best,
            history=found.history,
            status=found.status,
            stopped_by=found.stopped_by,
            seconds=found.seconds,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Iterations, seed and tolerance, by name."""
        return {name: getattr(self, name) for name in SETTINGS}

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
        """The cost of the run."""
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
        """The other lines of a report: iterations, status, cost, time."""
        spent = [f"{count:,} {WORDS.get(unit, unit.replace('_', ' '))}" for unit, count in self.cost.counts.items()]
        status = self.status.advice + (f" ({self.stopped_by})" if self.stopped_by else "")
        return [
            ("iterations", f"{self.last.iteration:,} of {self.iterations:,}"),
            ("status", status),
            *self._reservations(),
            ("cost", ", ".join(spent) or "nothing counted"),
            ("time", f"{self.seconds:.2f} s"),
        ]

    def _reservations(self) -> list[tuple[str, str]]:
        """The status of the last answers of the components, if it is not the expected one."""
        solution, hyper = self.last.solution, self.last.hyper
        told = []
        if not _is_as_asked(self.algorithm.lower, solution.status):
            error = getattr(solution, "error_bound", None)
            bound = "" if error is None else f" (‖V − V*‖∞ ≤ {error:.2g})"
            told.append(("follower", solution.status.advice + bound))
        if not _is_as_asked(self.algorithm.estimator, hyper.status):
            told.append(("gradient", hyper.status.advice))
        return told

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
        """The experiment of this run; `bilevelrl.compose` builds its components again."""
        return Experiment.describe(self.problem, self.algorithm, **self.settings)

    def certificate(self, *, corrections: int = 10) -> Certificate:
        """A proven bound of `‖gradient − ∇φ(x)‖₂` at the run's end; see `certify`."""
        return certify(self.problem, self.x, self.solution, self.last.hyper, corrections=corrections)

    def plot(self, path: str | Path) -> Path:
        """Draw the problem's picture and the curves of the run into a file (needs the extra `plot`)."""
        from bilevelrl.runs.plotting import plot_run

        return plot_run(self, as_path("path", path))

    def to_pandas(self) -> Any:
        """The history as a `pandas.DataFrame`, one row for each iteration (needs the extra `pandas`)."""
        return self.history.to_pandas()

    def save(self, directory: str | Path, *, picture: bool = True) -> Path:
        """Write the run to a directory, which is made if it does not exist.

        `experiment.toml` (`bilevelrl run` accepts it), `history.jsonl` (one row for each iteration), `summary.json`,
        `state.safetensors` (x, the gradient's parts, and the arrays of the follower's solution), `environment.json`
        (versions, plugins, machine) and `checkpoint`, which `load_run` and `resume` read; with `picture`, and if the
        extra `plot` is installed, `run.png`.
        """
        target = RunDirectory(as_path("directory", directory), self.problem, self.algorithm, self.settings)
        target.create(replacing=True)
        try:
            target.first, target.spent = self.first, self.seconds
            with writable(target.path):
                self._write(target)
        finally:
            target.close()
        if picture and importlib.util.find_spec("matplotlib") is not None:
            with writable(target.path):
                self.plot(target.path / PICTURE)
        return target.path

    def write_end(self, directory: RunDirectory) -> None:
        """Write the files of a run's end; if that fails, warn, since the run itself is still good."""
        try:
            self._write(directory)
        except OSError as error:
            text = f"the end of the run could not be written to {directory.path} ({error.strerror})"
            warnings.warn(f"{text}; its last good checkpoint is kept", CheckpointWarning, stacklevel=2)

    def save_certificate(self, directory: str | Path, certificate: Certificate) -> None:
        """Write a certificate of the run's end into the `summary.json` of a directory that holds the saved run."""
        path = as_path("directory", directory)
        with writable(path):
            self._write_summary(path, {"certificate": certificate.summary()})

    def _write(self, directory: RunDirectory) -> None:
        directory.finish(self.last, self.history, self.best, self.status, self.stopped_by)
        write_arrays(directory.path / ARRAYS, self._arrays())
        self._write_summary(directory.path, {})

    def _write_summary(self, path: Path, more: Mapping[str, Any]) -> None:
        write_json(path / SUMMARY, self._summary() | dict(more))

    def _summary(self) -> dict[str, Any]:
        return {
            "problem": self.problem.name,
            "algorithm": self.algorithm.name,
            "status": self.status.name,
            "advice": self.status.advice,
            "stopped_by": self.stopped_by,
            "iterations": self.last.iteration,
            "seconds": self.seconds,
            "cost": dict(self.cost.counts),
            "figures": {label.strip(): [before, after] for label, before, after in self.comparison()},
        }

    def _arrays(self) -> Arrays:
        """x and the gradient's parts, and below `solution.` the arrays of the follower's solution."""
        solved = checked_arrays(self.solution.arrays(), "the follower's solution")
        own = {"x": self.x, "direct": self.last.hyper.direct, "implicit": self.last.hyper.implicit}
        return own | {f"solution.{name}": array for name, array in solved.items()}


def _is_as_asked(component: LowerLevelSolver | HyperGradientEstimator, status: Status) -> bool:
    """Whether a component kept its guarantee: an exact one must not stop at its limit of iterations."""
    return status is Status.CONVERGED or (status is Status.BUDGET_SPENT and not component.tags.exact)
