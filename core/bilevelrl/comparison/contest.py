"""Compares several algorithms on one problem, from the same starting points, with the same budget and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bilevelrl.comparison.budgets import Budget, ExchangeRates
from bilevelrl.comparison.judge import FOLLOWER_SAMPLES, Judge
from bilevelrl.comparison.results import Comparison
from bilevelrl.comparison.trials import (
    ComparedRun,
    Standing,
    Tables,
    Task,
    build_algorithm,
    execute,
    starting_point,
    step_size_of,
)
from bilevelrl.execution.workers import Progress, parallel_map, use_jobs
from bilevelrl.factories import compose_problem
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.evaluation import GROUPS
from bilevelrl.runs.algorithm import Algorithm
from bilevelrl.runs.seeds import as_seeds
from bilevelrl.storage.experiment import ROLES, Experiment
from bilevelrl.validation.errors import IncompatibleError, InputError, UnknownNameError, kind_words, value_words
from bilevelrl.validation.fields import as_float, check_count, check_not_negative

if TYPE_CHECKING:
    from bilevelrl.execution.workers import Jobs


DEFAULT_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
DEFAULT_CHECKPOINTS = 30
NO_DIFFERENCE = 1e-3


def compare(
    problem: str | Mapping[str, Any] | BilevelProblem,
    algorithms: Iterable[str | Algorithm] | Mapping[str, str | Tables | Algorithm],
    *,
    seeds: int | Sequence[int] = 10,
    budget: Budget | str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    grid: Sequence[float] = DEFAULT_GRID,
    tuning_seeds: int = 2,
    checkpoints: int = DEFAULT_CHECKPOINTS,
    spread: float = 0.0,
    rates: Mapping[str, float] | None = None,
    groups: int = GROUPS,
    follower_samples: int = FOLLOWER_SAMPLES,
    jobs: Jobs | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run algorithms on a problem, from the same starting points, with the same budget and the same evaluation.

    Every algorithm's step size is first tuned on seeds that are not reported: it is multiplied by the factors of the
    grid, and the smallest mean of the final objective is best. A failed run counts as the worst. Of the step sizes
    within 0.1 % of the best, the shortest is chosen. The objective is always re-evaluated, at checkpoints of the run
    and at its end, at no cost to the run's budget.

    Args:
        problem: a registered name; or a table of name and options; or a problem.
        algorithms: registered names or `Algorithm`s; or a mapping from labels to names, `Algorithm`s or the tables of
            an `Experiment`.
        seeds: the number of reported runs of each algorithm, from seed 0; or the seeds themselves.
        budget: the amount that a run may spend: a `Budget` or a string, such as "backups=2000". Default: 5,000 backups,
            or 1,000,000 samples if the objective is one over trajectories.
        options: label to options of the recipe; `lower`, `estimator` and `upper` hold options of a component.
        grid: factors of the step size, above zero. With a single factor nothing is tuned.
        tuning_seeds: the number of tuning seeds, which follow the largest of `seeds`.
        checkpoints: how often a run is evaluated.
        spread: standard deviation of noise added to the problem's starting point, the same for all algorithms.
        rates: exchange rates instead of the counted ones; see `ExchangeRates`.
        groups: losses drawn to re-evaluate an objective over trajectories.
        follower_samples: transitions for learning a follower that cannot be solved, for the re-evaluation.
        jobs: the workers that do the runs; see `use_jobs`. The results do not depend on it, except for the seconds.
        progress: called with the number of finished runs and of all runs.

    Raises:
        InputError: for a mistake of the caller, or if the budget is too small for a first evaluation of every
            algorithm.
        IncompatibleError: if the problem supports none of the algorithms.
    """
    reported = as_seeds(seeds)
    for name, count, least in (
        ("tuning_seeds", tuning_seeds, 1),
        ("checkpoints", checkpoints, 1),
        ("groups", groups, 2),
        ("follower_samples", follower_samples, 1),
    ):
        check_count(name, count, at_least=least)
    check_not_negative("spread", spread)
    made = _problem(problem)
    contest = _Contest(
        problem=made,
        entries=_entries(algorithms, options or {}),
        seeds=reported,
        tuning_seeds=tuple(range(max(reported) + 1, max(reported) + 1 + tuning_seeds)),
        budget=_budget(budget, made),
        rates=ExchangeRates.of(made, starting_point(made, reported[0], float(spread)), rates),
        grid=_grid(grid),
        checkpoints=checkpoints,
        spread=float(spread),
        groups=groups,
        follower_samples=follower_samples,
    )
    with use_jobs(jobs):
        return contest.decide(_Runs(made, progress))


@attrs.frozen(eq=False)
class _Contest:
    """The checked arguments of a comparison, and its steps."""

    problem: BilevelProblem
    entries: Mapping[str, Tables | Algorithm]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    budget: Budget
    rates: ExchangeRates
    grid: tuple[float, ...]
    checkpoints: int
    spread: float
    groups: int
    follower_samples: int

    def decide(self, runs: _Runs) -> Comparison:
        """Leave out algorithms that cannot run, tune the others, run them, evaluate them."""
        steps, skipped = self._candidates()
        self._check_any_left(steps, skipped)
        tuned = [label for label in steps if len(steps[label]) > 1]
        wanted = [
            self._task(label, step, seed, tuning=True)
            for label in tuned
            for step in steps[label]
            for seed in self.tuning_seeds
        ]
        runs.expect(len(wanted) + len(self.seeds) * len(steps))
        tuning = runs.run(wanted)
        chosen = {label: _best(steps[label], [run for run in tuning if run.algorithm == label]) for label in steps}
        skipped |= self._refused(tuning)
        left = [label for label in steps if label not in skipped]
        # If no algorithm is left, the message needs the cost of every seed's first evaluation.
        final = runs.run(
            [self._task(label, chosen[label].step_size, seed) for label in left or steps for seed in self.seeds]
        )
        skipped |= self._refused(final)
        left = [label for label in left if label not in skipped]
        self._check_any_left(left, skipped, [*tuning, *final])
        standings = [
            Standing(
                label,
                chosen[label].step_size,
                chosen[label].at_edge,
                tuple(run for run in final if run.algorithm == label),
            )
            for label in left
        ]
        return self._comparison(standings, skipped, tuning)

    def _candidates(self) -> tuple[dict[str, tuple[float | None, ...]], dict[str, str]]:
        """A map from labels to the step sizes to try, or to the reason why there are none."""
        steps: dict[str, tuple[float | None, ...]] = {}
        skipped: dict[str, str] = {}
        for label, meant in self.entries.items():
            algorithm = build_algorithm(meant)
            try:
                algorithm.check_compatible(self.problem)
            except IncompatibleError as error:
                skipped[label] = str(error)
            else:
                steps[label] = _steps(step_size_of(algorithm), self.grid)
        return steps, skipped

    def _task(self, label: str, step_size: float | None, seed: int, *, tuning: bool = False) -> Task:
        return Task(
            build_algorithm(self.entries[label]),
            ComparedRun(label, seed, step_size, tuning),
            self.budget,
            self.rates,
            1 if tuning else self.checkpoints,
            self.spread,
            self.groups,
            self.follower_samples,
        )

    def _refused(self, runs: Iterable[ComparedRun]) -> dict[str, str]:
        """A map from labels to reasons, for algorithms with a run that was not possible."""
        runs = list(runs)
        short = {label: f"its first evaluation takes {self.budget.enough(n)}" for label, n in _short(runs).items()}
        return short | {run.algorithm: run.refused for run in runs if run.refused}

    def _check_any_left(
        self, left: Iterable[str], skipped: Mapping[str, str], runs: Sequence[ComparedRun] = ()
    ) -> None:
        """Raise if no algorithm can be compared: the budget is too small, or the problem unsuitable."""
        if list(left):
            return
        short = _short(runs)
        if short:
            label = min(short, key=lambda name: short[name])
            told = f"at least {self.budget.enough(short[label])}, for the first evaluation of {label!r}"
            raise InputError("the budget", f"{self.budget.unit}={self.budget.amount:g}", told)
        reasons = "; ".join(f"{label}: {reason}" for label, reason in skipped.items())
        raise IncompatibleError(f"None of the algorithms can be compared on problem {self.problem.name!r}. {reasons}")

    def _comparison(
        self, standings: list[Standing], skipped: Mapping[str, str], tuning: Sequence[ComparedRun]
    ) -> Comparison:
        return Comparison(
            problem={"name": self.problem.name, **(self.problem.configuration or {})},
            budget=self.budget,
            rates=self.rates,
            seeds=self.seeds,
            tuning_seeds=self.tuning_seeds if tuning else (),
            grid=self.grid,
            spread=self.spread,
            fixed_start=self.spread == 0.0 and not callable(self.problem.start),
            judgement=Judge(self.problem, groups=self.groups, follower_samples=self.follower_samples).words,
            standings=tuple(sorted(standings, key=lambda standing: standing.objective)),  # stable
            skipped=skipped,
            algorithms={label: _told(meant) for label, meant in self.entries.items()},
            tuning_runs=tuple(tuning),
        )


class _Runs:
    """Does the runs, and reports how many are finished."""

    def __init__(self, problem: BilevelProblem, progress: Progress | None) -> None:
        self._problem = problem
        self._progress = progress
        self._done = self._expected = 0

    def expect(self, count: int) -> None:
        """The number of all runs."""
        self._expected = count

    def run(self, tasks: Sequence[Task]) -> list[ComparedRun]:
        """The runs of all tasks, in their order."""
        before = self._done

        def tell(done: int, _: int) -> None:
            self._done = before + done
            if self._progress is not None:
                self._progress(self._done, max(self._done, self._expected))

        return parallel_map(execute, self._problem, tasks, progress=tell)


def _grid(given: Sequence[float]) -> tuple[float, ...]:
    try:
        factors = list(given)
    except TypeError:
        raise InputError("grid", value_words(given), "a list of factors above 0") from None
    for factor in factors:
        if not (math.isfinite(as_float(factor)) and factor > 0):
            raise InputError("a factor of the grid", value_words(factor), "a finite number above 0")
    if not factors:
        raise InputError("grid", "empty", "at least one factor above 0")
    return tuple(sorted({float(factor) for factor in factors}))


def _problem(given: Any) -> BilevelProblem:
    """The problem from its name, table or object."""
    if isinstance(given, BilevelProblem):
        return given
    if not isinstance(given, str | Mapping):
        raise InputError("problem", kind_words(given), "a registered name, a table with one, or a BilevelProblem")
    table = {"name": given} if isinstance(given, str) else dict(given)
    return compose_problem(Experiment({"problem": table}), registry())


def _entries(given: Any, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Tables | Algorithm]:
    """A map from labels to tables or algorithms, with the options merged in."""
    if isinstance(given, str):
        given = [given]
    entries: dict[str, Tables | Algorithm] = {}
    for label, meant in _labelled(given):
        if label in entries:
            raise InputError("algorithms", f"{label!r} twice", "each label once")
        if isinstance(meant, str):
            meant = {"algorithm": {"name": meant}}
        if not isinstance(meant, Algorithm | Mapping):
            raise InputError(f"algorithm {label!r}", kind_words(meant), "a registered name, tables, or an Algorithm")
        entries[label] = meant
    if not entries:
        raise InputError("algorithms", "empty", "at least one name")
    for label, changes in options.items():
        entries[label] = _changed(label, entries, changes)
    return entries


def _labelled(given: Any) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        return list(given.items())
    try:
        listed = list(given)
    except TypeError:
        raise InputError("algorithms", kind_words(given), "a list of names") from None
    return [(getattr(meant, "name", str(meant)), meant) for meant in listed]


def _changed(label: str, entries: Mapping[str, Tables | Algorithm], changes: Mapping[str, Any]) -> Tables:
    if label not in entries:
        raise UnknownNameError("an algorithm with options", label, entries)
    tables = entries[label]
    if isinstance(tables, Algorithm):
        raise InputError(f"options of {label!r}", value_words(dict(changes)), "none, since it is given as an Algorithm")
    changed = {table: dict(content) for table, content in tables.items()}
    for key, value in changes.items():
        if key in ROLES and isinstance(value, Mapping):
            changed[key] = changed.get(key, {}) | dict(value)
        else:
            changed.setdefault("algorithm", {})[key] = value
    return changed


def _budget(given: Budget | str | None, problem: BilevelProblem) -> Budget:
    if isinstance(given, Budget):
        return given
    if given is None:
        return Budget.parse("backups" if isinstance(problem.objective, PolicyObjective) else "samples")
    if not isinstance(given, str):
        raise InputError("budget", kind_words(given), "a Budget, or words such as 'backups=2000'")
    return Budget.parse(given)


def _steps(centre: float | None, factors: tuple[float, ...]) -> tuple[float | None, ...]:
    # Twelve digits, so that 0.1 · 3 is shown as 0.3.
    return (None,) if centre is None else tuple(float(f"{centre * factor:.12g}") for factor in factors)


@attrs.frozen
class _Tuned:
    """A step size, and whether a better one may be outside the grid."""

    step_size: float | None
    at_edge: bool


def _best(steps: tuple[float | None, ...], runs: Iterable[ComparedRun]) -> _Tuned:
    """The step size with the smallest mean; the shortest one if the differences are negligible, or all fail."""
    if len(steps) == 1:
        return _Tuned(steps[0], False)
    final: dict[float | None, list[float]] = {step: [] for step in steps}
    for run in runs:
        final[run.step_size].append(math.inf if run.failed else run.objective)
    worths = [float(np.mean(final[step])) for step in steps]
    best = min(worths)
    # A longer step that is not better is only nearer to divergence.
    alike = [worth == best or math.isclose(worth, best, rel_tol=NO_DIFFERENCE) for worth in worths]
    chosen = alike.index(True)
    at_edge = chosen == len(steps) - 1 or (chosen == 0 and not alike[1])
    return _Tuned(steps[chosen], at_edge)


def _short(runs: Iterable[ComparedRun]) -> dict[str, float]:
    """A map from labels to the cost of the first evaluation, of the most expensive seed, if it exceeds the budget."""
    needed: dict[str, float] = {}
    for run in runs:
        if not run.affordable:
            needed[run.algorithm] = max(run.needed, needed.get(run.algorithm, 0.0))
    return needed


def _told(tables: Tables | Algorithm) -> Any:
    if isinstance(tables, Algorithm):
        return repr(tables)
    return {name: dict(content) for name, content in tables.items()}
