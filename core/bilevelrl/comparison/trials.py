"""One run of a comparison, as a task for a worker, with re-evaluations at checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.comparison.budgets import Budget, ExchangeRates
from bilevelrl.comparison.judge import Judge
from bilevelrl.factories import compose_algorithm
from bilevelrl.outer_loop import OuterState, StepFailed
from bilevelrl.plugins.configuration import option_fields
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, Status
from bilevelrl.randomness import stream
from bilevelrl.runs.algorithm import Algorithm
from bilevelrl.storage.experiment import Experiment
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import IncompatibleError

# An algorithm that spends nothing in the budget's unit would run forever.
IDLE_ITERATIONS = 10

Tables = Mapping[str, Mapping[str, Any]]


@attrs.frozen
class Checkpoint:
    """The state of a run when it had spent one part of its budget.

    Args:
        budget: that part of the budget; the same for all algorithms.
        spent: the amount that the run had spent, at most `budget`.
        iteration: updates of x so far.
        objective: re-evaluated there.
        standard_error: of the re-evaluation.
    """

    budget: float
    spent: float
    iteration: int
    objective: float
    standard_error: float


@attrs.frozen
class ComparedRun:
    """A run of a comparison.

    Args:
        algorithm: its label.
        seed: the seed of the starting point and of every random stream.
        step_size: the optimizer's step size; None if it has none.
        tuning: whether the run only served to tune the step size.
        status: how it ended; `BUDGET_SPENT` if there was no failure.
        stopped_by: the failure, with its iteration; empty if there was none.
        refused: the reason why there is no run; empty if there is one.
        needed: the cost of the first evaluation in the budget's unit.
        cost: the counted cost.
        seconds: the time in the components' calls.
        spent: the cost in the budget's unit.
        checkpoints: one for each part of the budget; the last part is the whole.
        stationarity: the exact stationarity at the last x; NaN if it cannot be computed.
    """

    algorithm: str
    seed: int
    step_size: float | None
    tuning: bool
    status: Status = Status.BUDGET_SPENT
    stopped_by: str = ""
    refused: str = ""
    needed: float = 0.0
    cost: Cost = attrs.field(factory=Cost)
    seconds: float = 0.0
    spent: float = 0.0
    checkpoints: tuple[Checkpoint, ...] = ()
    stationarity: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether it stopped before its budget did."""
        return bool(self.stopped_by)

    @property
    def affordable(self) -> bool:
        """Whether the budget allowed the first evaluation."""
        return self.failed or bool(self.checkpoints) or bool(self.refused)

    @property
    def objective(self) -> float:
        """The leader's objective at the last good x, re-evaluated."""
        return self.checkpoints[-1].objective if self.checkpoints else math.inf

    @property
    def iterations(self) -> int:
        """Updates of x."""
        return self.checkpoints[-1].iteration if self.checkpoints else 0


@attrs.frozen
class Standing:
    """One algorithm's result.

    Args:
        algorithm: its label.
        step_size: the tuned step size; None if the optimizer has none.
        at_edge: whether it is the smallest or the largest of the grid, so that a better one may be outside.
        runs: the reported runs, in the order of the seeds.
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
        """The mean of the final objectives; infinite if one of them is."""
        return float(self.objectives.mean())

    @property
    def median(self) -> float:
        """The median of the final objectives, which one failed run hardly affects."""
        return float(np.median(self.objectives))

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the seeds; NaN if there is only one seed."""
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


@attrs.frozen(eq=False)
class Task:
    """The data that `execute` needs for a run, besides the problem.

    Args:
        algorithm: the algorithm, without the step size.
        run: the run's label, seed, step size and purpose.
        budget: the amount that it may spend.
        rates: the cost of its linear solves and products.
        checkpoints: the parts of the budget at which it is evaluated.
        spread: standard deviation of the noise added to the problem's starting point.
        groups: the number of losses drawn to re-evaluate an objective over trajectories.
        follower_samples: transitions for learning a follower that cannot be solved.
    """

    algorithm: Algorithm
    run: ComparedRun
    budget: Budget
    rates: ExchangeRates
    checkpoints: int
    spread: float
    groups: int
    follower_samples: int


def build_algorithm(algorithm: Tables | Algorithm) -> Algorithm:
    """The algorithm from its tables or object; raises `InputError` for an unknown name or a rejected option."""
    return algorithm if isinstance(algorithm, Algorithm) else compose_algorithm(Experiment(algorithm), registry())


def with_step_size(algorithm: Algorithm, step_size: float | None, seed: int) -> Algorithm:
    """The algorithm with another step size. An optimizer with a seed of its own gets the run's too."""
    changes: dict[str, Any] = {} if step_size is None else {"step_size": step_size}
    if "seed" in _options(algorithm.upper):
        changes["seed"] = seed
    upper: Any = algorithm.upper
    return attrs.evolve(algorithm, upper=attrs.evolve(upper, **changes)) if changes else algorithm


def step_size_of(algorithm: Algorithm) -> float | None:
    """The step size of its optimizer; None if the optimizer has no such option."""
    return float(algorithm.upper.step_size) if "step_size" in _options(algorithm.upper) else None  # type: ignore[attr-defined]


def _options(component: object) -> list[str]:
    kind = type(component)
    return [field.name for field in option_fields(kind)] if attrs.has(kind) else []


def starting_point(problem: BilevelProblem, seed: int, spread: float) -> Array:
    """The starting point of every algorithm's run of that seed: the problem's own, with noise of deviation `spread`."""
    start = problem.initial_point(stream(seed, "start"))
    if spread == 0.0:
        return start
    noise = stream(seed, "comparison").standard_normal(problem.dimension)
    return problem.feasible_set.project(start + spread * noise)


def execute(problem: BilevelProblem, task: Task) -> ComparedRun:
    """Do the run: it ends before the first iteration that would exceed the budget, and is evaluated at checkpoints.

    An error of a component does not end the comparison: the run reports it.
    """
    run, budget = task.run, task.budget
    algorithm = with_step_size(task.algorithm, run.step_size, run.seed)
    x = starting_point(problem, run.seed, task.spread)
    recorder = _Recorder(budget, task.rates, list(budget.checkpoints(task.checkpoints)))
    if budget.unit == "seconds":
        _warm_up(problem, algorithm, run.seed, x)
    status, stopped_by = Status.BUDGET_SPENT, ""
    try:
        for state in algorithm.iterate(problem, seed=run.seed, x=x):
            if recorder.ends_with(state):
                break
    except StepFailed as failure:
        status, stopped_by = failure.status, f"{failure.component} at iteration {failure.iteration}"
    except IncompatibleError as error:
        return attrs.evolve(run, refused=str(error))
    except Exception as error:  # an error in a plugin
        status, stopped_by = Status.NON_FINITE, f"{type(error).__name__}: {' '.join(str(error).split())}"
    if recorder.idle:
        return attrs.evolve(run, refused=f"it spends no {budget.unit}, so this budget cannot end its runs")
    if recorder.last is None and not stopped_by:
        return attrs.evolve(run, needed=recorder.needed)
    judge = Judge(problem, groups=task.groups, follower_samples=task.follower_samples)
    last = recorder.last or _Mark(0, x, Cost(), 0.0, 0.0)
    return attrs.evolve(
        run,
        status=status,
        stopped_by=stopped_by,
        needed=recorder.needed,
        cost=last.cost,
        seconds=last.seconds,
        spent=last.spent,
        checkpoints=_judged(judge, recorder.marks(last), run.seed),
        stationarity=math.nan if run.tuning else judge.stationarity(last.x),
    )


@attrs.frozen(eq=False)
class _Mark:
    """The part of a state that a comparison keeps."""

    iteration: int
    x: Array
    cost: Cost
    spent: float
    seconds: float


class _Recorder:
    """Follows a run's states: keeps the last within the budget, and those within each part of it."""

    def __init__(self, budget: Budget, rates: ExchangeRates, pending: list[float]) -> None:
        self.budget, self.rates, self.pending = budget, rates, pending
        self.last: _Mark | None = None
        self.needed = 0.0
        self._reached: list[tuple[float, _Mark]] = []
        self._moved_at = 0

    def ends_with(self, state: OuterState) -> bool:
        """Record a state; returns whether the run ends with it."""
        mark = _Mark(state.iteration, state.x, state.cost, self.budget.spent(state, self.rates), state.seconds)
        if self.last is None:
            self.needed = mark.spent
        elif mark.spent > self.last.spent:
            self._moved_at = mark.iteration
        while self.pending and self.pending[0] < mark.spent:
            part = self.pending.pop(0)
            if self.last is not None:
                self._reached.append((part, self.last))
        if mark.spent > self.budget.amount:
            return True
        self.last = mark
        return self.idle or (self.budget.unit == "iterations" and mark.spent >= self.budget.amount)

    @property
    def idle(self) -> bool:
        """Whether the last iterations spent nothing."""
        return self.last is not None and self.last.iteration - self._moved_at >= IDLE_ITERATIONS

    def marks(self, last: _Mark) -> list[tuple[float, _Mark]]:
        """Parts of the budget with the states reached by them; after an early stop the last state is repeated."""
        return [*self._reached, *((part, last) for part in self.pending)] or [(self.budget.amount, last)]


def _judged(judge: Judge, marks: list[tuple[float, _Mark]], seed: int) -> tuple[Checkpoint, ...]:
    verdicts = {mark.iteration: judge(mark.x, seed) for _, mark in {m.iteration: (p, m) for p, m in marks}.values()}
    return tuple(
        Checkpoint(
            part,
            mark.spent,
            mark.iteration,
            verdicts[mark.iteration].objective,
            verdicts[mark.iteration].standard_error,
        )
        for part, mark in marks
    )


def _warm_up(problem: BilevelProblem, algorithm: Algorithm, seed: int, x: Array) -> None:
    """Compute two states that are not counted, since the first call compiles kernels and loads libraries."""
    try:
        states = algorithm.iterate(problem, seed=seed, x=x)
        next(states), next(states)
    except Exception:  # the run itself will raise and report it again
        return
