"""The three component protocols, and the values that their implementations exchange.

One outer iteration makes three calls, one to each component:

    solution = lower.solve(problem, x, warm_start, rng)                  # the follower's answer
    hyper    = estimator.estimate(problem, x, solution, previous, rng)   # gradient = direct + implicit
    x, state = upper.update(x, hyper, state)                             # then the feasible set projects

A warm start is the previous output, passed back as an input. Components keep no state between calls, so a run can be
stopped, saved, resumed, replayed and tested piece by piece.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.occupancy import Occupancy, Values
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import check_count, is_flag, is_real
from bilevelrl.validation.saved import saved_count


class Status(enum.Enum):
    """How a component or a run ended. Each member's value is a sentence that says what happened and what to do."""

    CONVERGED = "reached its tolerance"
    FELL_BACK = (
        "reached its tolerance by a slower method, since the first one stagnated; select the slower one to save time"
    )
    BUDGET_SPENT = "stopped at the requested number of iterations; increase it for a more accurate answer"
    STAGNATED = (
        "stopped improving before it reached its tolerance, because of rounding at this discount or of an inaccurate "
        "solution of the follower; increase the tolerance, or solve the follower more accurately"
    )
    DIVERGED = "moved away from the solution; use a smaller step size"
    NON_FINITE = (
        "computed a value that is not finite; check the problem's rewards at the last good x, or reduce the step size"
    )
    INTERRUPTED = "was interrupted; the last complete iteration is kept"
    STOPPED = "was stopped by a callback; resume it to continue"

    @property
    def advice(self) -> str:
        """The status and its advice, as one sentence."""
        return f"{self.words}: {self.value}"

    @property
    def words(self) -> str:
        """The status alone, in words: "budget spent"."""
        return self.name.lower().replace("_", " ")

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached, by any method."""
        return self in (Status.CONVERGED, Status.FELL_BACK)

    @property
    def usable(self) -> bool:
        """Whether an answer with this status can be used further."""
        return self not in (Status.DIVERGED, Status.NON_FINITE)


class Exactness(enum.Enum):
    """How accurate the answer of a solver or an estimator is. `Tags` accepts the names in lower case too."""

    EXACT = "as accurate as its tolerance, after one call"
    TRACKING = "exact once it has been warm-started by its own answers at a fixed x often enough"
    UNBIASED = "random, with the exact answer as its expectation"
    BIASED = "neither exact nor exact in expectation"


def _exactness(value: object) -> object:
    return Exactness.__members__.get(value.upper(), value) if isinstance(value, str) else value


@attrs.frozen
class Tags:
    """What a solver or an estimator guarantees. `bilevelrl.testing` tests it, and selects its laws by it.

    A component has them as `tags`: an attribute of the class, or a property if they depend on its options.

    Args:
        exactness: an `Exactness`, or its name: "exact", "tracking", "unbiased", "biased".
        deterministic: whether it draws no random numbers. Exact and tracking components are deterministic, unbiased
            ones are not.
        tolerance: of an exact solver, the error `‖V − V*‖∞` that `Status.CONVERGED` guarantees, in units of the reward;
            of an exact estimator, a relative error of the gradient in addition to rounding; of a biased deterministic
            one, the largest difference between its answers to two equivalent inputs (other storage, other labels), as a
            fraction of their largest terms; of a random solver, ε in `‖π − π*‖∞ ≤ ε (1 + span V*/τ)` on the kit's small
            problems.
        bias_bound: `γ ↦` an upper bound of the bias, as a fraction of `2‖c‖₁ max‖∇q‖/(1−γ)`, the largest size that an
            implicit part can have; infinite if there is no bound at this γ. None: unknown, and not tested.

    Raises:
        InputError: if the guarantees contradict each other.
    """

    exactness: Exactness = attrs.field(converter=_exactness)
    deterministic: bool = attrs.field(default=True, validator=is_flag())
    tolerance: float = attrs.field(default=0.0, validator=is_real(at_least=0.0))
    bias_bound: Callable[[float], float] | None = attrs.field(default=None, eq=False)

    @exactness.validator
    def _check_exactness(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, Exactness):
            known = ", ".join(repr(name.lower()) for name in Exactness.__members__)
            raise InputError("tags.exactness", value_words(value), f"one of {known}")

    def __attrs_post_init__(self) -> None:
        name = self.exactness.name.lower()
        if self.deterministic and self.exactness is Exactness.UNBIASED:
            raise InputError("tags", "unbiased and deterministic", "unbiased with deterministic=False, or exact")
        if not self.deterministic and (self.exact or self.tracking):
            raise InputError("tags", f"{name} and not deterministic", f"{name} with deterministic=True, or unbiased")

    @property
    def exact(self) -> bool:
        """Whether one call is as accurate as the tolerance."""
        return self.exactness is Exactness.EXACT

    @property
    def tracking(self) -> bool:
        """Whether repeated calls at a fixed x converge."""
        return self.exactness is Exactness.TRACKING

    @property
    def biased(self) -> bool:
        """Whether the answer, or its expectation, is not the exact one."""
        return self.exactness is Exactness.BIASED


UNITS: Mapping[str, str] = {
    "backups": "soft Bellman backups: passes over P that end in `T v`",
    "passes": "other passes over P or its transpose, such as `P v` for one v",
    "linear_solves": "systems solved with `I − γP^π` or its transpose by a factorisation",
    "products": "products with `P^π` or its transpose, those of iterative solvers and their preconditioners included",
    "samples": "transitions drawn from a simulator",
    "gradient_steps": "steps of an optimiser on parameters of a function approximation",
}
"""The units of cost that comparisons know, and what they count. A component may count in units of its own too."""


class Cost:
    """The cost of an answer: counts by unit, without seconds, which the framework measures. Costs can be added.

    `Cost(backups=3, samples=10).samples` is 10; a unit of `UNITS` that was not counted is 0.

    Args:
        counts: how many of each unit, integers of at least 0. Any name can be a unit; `UNITS` has the usual ones.

    Raises:
        InputError: if a count is not such an integer.
    """

    __slots__ = ("counts",)

    counts: Mapping[str, int]
    """Unit to count, without those that are 0."""

    def __init__(self, **counts: int) -> None:
        for count in counts.values():
            if type(count) is not int or count <= 0:
                counts = _checked_counts(counts)
                break
        self.counts = counts

    def __getattr__(self, unit: str) -> int:
        if unit.startswith("_") or unit == "counts":
            raise AttributeError(unit)
        found = self.counts.get(unit)
        if found is None and unit not in UNITS:
            raise AttributeError(f"{self!r} does not count {unit!r}")
        return found or 0

    def __add__(self, other: Cost) -> Cost:
        return self.plus(other)

    def plus(self, *others: Cost) -> Cost:
        """The sum with any number of other costs, in one call."""
        total = dict(self.counts)
        for other in others:
            for unit, count in other.counts.items():
                total[unit] = total.get(unit, 0) + count
        made = Cost.__new__(Cost)  # sums of checked counts
        made.counts = total
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cost) and self.counts == other.counts

    def __hash__(self) -> int:
        return hash(frozenset(self.counts.items()))

    def __repr__(self) -> str:
        return f"Cost({', '.join(f'{unit}={count}' for unit, count in self.counts.items())})"

    def __reduce__(self) -> Any:
        return _cost, (dict(self.counts),)


def _checked_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts as integers of at least 0, without those that are 0; raises `InputError` for any other."""
    for unit, count in counts.items():
        check_count(f"the cost in {unit}", count, at_least=0)
    return {unit: int(count) for unit, count in counts.items() if count}


def _cost(counts: dict[str, int]) -> Cost:
    return Cost(**counts)


def cost_from(figures: Mapping[str, Any]) -> Cost:
    """The cost with these saved counts by unit; raises `InputError` for invalid ones."""
    return Cost(**{unit: saved_count(figures, unit) for unit in figures})


def outcome(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Status, residual and cost from the figures that `LowerLevelSolver.restore` receives, as constructor arguments.

    A residual that was not finite is saved as None and read back as NaN.

    Raises:
        InputError: if one of the three is missing or invalid.
    """
    name, residual, cost = (figures.get(key) for key in OUTCOME)
    if not isinstance(name, str) or name not in Status.__members__:
        raise InputError("the saved status", value_words(name), f"one of {', '.join(Status.__members__)}")
    if residual is not None and (isinstance(residual, bool) or not isinstance(residual, int | float)):
        raise InputError("the saved residual", value_words(residual), "a number or None")
    if not isinstance(cost, Mapping):
        raise InputError("the saved cost", value_words(cost), "a count for each unit")
    return {
        "status": Status[name],
        "residual": math.nan if residual is None else float(residual),
        "cost": cost_from(cost),
    }


OUTCOME = ("status", "residual", "cost")
"""The names of figures that the framework saves itself; no solution may use them in its `figures()`."""


@runtime_checkable
class Policy(Protocol):
    """How the follower acts: a distribution over actions for each observation.

    An array (S, A) of probabilities is accepted wherever a policy is; `sampling.TabularPolicy` makes a `Policy` of such
    an array. A policy that estimates `Q(o, a)` also has a method `action_values(observations)` (N, …).
    """

    def sample(self, observations: Values, rng: np.random.Generator) -> Values:
        """One action (N, …) for each of the observations (N, …), drawn with `rng`."""

    def log_probabilities(self, observations: Values, actions: Values) -> Array:
        """(N,) `log π(a|o)` of each pair; for continuous actions the logarithm of the density."""


@runtime_checkable
class LowerLevelSolution(Protocol):
    """The follower's answer: what every solution has, of any kind.

    `arrays()` and `figures()` hold all of it except its handles (a model, a simulator, a factorisation), which its
    solver rebuilds from the problem and x. Checkpoints, workers and comparisons use these two methods, and do not
    depend on the kind of solution. Do not make a large store, such as a replay buffer, an array of a solution: keep it
    in a file of its own in the directory `stores/` of a run, which the framework neither writes nor removes.

    A solution may also have `check()`, which raises `InputError` if its parts are inconsistent, and is called after
    every solve; `restrict(lower, x, rows)`, its rows as a solution of one context's follower, for
    `ContextualMDP.restrict`; and `error_bound`, a proven bound of `‖V − V*‖∞` for reports.
    """

    @property
    def policy(self) -> Any:
        """The follower's policy: an array (S, A), or a `Policy`."""

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Its arrays by name: booleans, integers or floats of any shape."""

    def figures(self) -> Mapping[str, Any]:
        """Its numbers, flags, strings and Nones by name, without status, residual and cost, which are saved anyway."""

    @property
    def status(self) -> Status:
        """How the solver ended."""

    @property
    def residual(self) -> float:
        """The solver's own measure of how far the answer is from optimal; zero is optimal."""

    @property
    def cost(self) -> Cost:
        """What the answer cost."""


@attrs.frozen(eq=False, slots=False)
class HyperGradient:
    """An estimate of `∇φ(x)`, with its two parts separate.

    Args:
        direct: (n,) `∂f/∂x`: improves the objective under the follower's present policy (exploitation).
        implicit: (n,) the part through the follower's answer: moves the follower's policy to one with a better
            objective (exploration).
        objective: `f(x, π)` at the solution given.
        occupancy: the signed occupancy whose pullback is `implicit`; None if the estimator has none.
        residual: the residual of the adjoint equation or its equivalent, in the maximum norm; None if it does not
            apply.
        standard_error: (n,) standard error of `gradient`; None for deterministic estimates.
        cost: what the estimate cost.
        status: how the estimator ended.
        carry: arrays that the next call warm-starts from, by name.
        objective_error: the standard error of `objective`; 0 if it is not random, NaN if it is unknown.
        gradient: (n,) `direct + implicit`, computed here.
    """

    direct: Array
    implicit: Array
    objective: float
    occupancy: Occupancy | None
    cost: Cost
    status: Status
    residual: float | None = None
    standard_error: Array | None = None
    carry: Mapping[str, Array] = attrs.field(factory=dict)
    objective_error: float = 0.0
    gradient: Array = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.direct + self.implicit, takes_self=True)
    )


@attrs.frozen(eq=False, slots=False)
class OptimizerState:
    """The state of an optimiser: the number of steps taken, and arrays by name."""

    steps: int = 0
    arrays: Mapping[str, Array] = attrs.field(factory=dict)


@runtime_checkable
class Problem(Protocol):
    """What components may use of a problem; `BilevelProblem` is the one implementation that users need."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def lower(self) -> Any:
        """The follower: `SupportsModel`, `SupportsSampling`, or both."""

    @property
    def objective(self) -> Any:
        """The leader's objective: `PolicyObjective`, `TrajectoryObjective`, or both."""

    @property
    def feasible_set(self) -> Any:
        """The set of allowed x: `project(x)` gives the nearest point."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def point(self, x: object) -> Array:
        """x as a finite float64 vector (n,); raises `InputError` otherwise."""


@runtime_checkable
class LowerLevelSolver(Protocol):
    """Computes the follower's answer to x. Implementations are frozen attrs classes; fields are configuration."""

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: a class or a runtime protocol, such as `SupportsModel`."""
    produces: ClassVar[type]
    """The type of its answers: a class or a runtime protocol, such as `TabularSolution`."""

    @property
    def tags(self) -> Tags:
        """What it guarantees."""

    def solve(self, problem: Problem, x: Array, warm_start: Any | None, rng: np.random.Generator) -> LowerLevelSolution:
        """The follower's answer at x, from the previous answer or from scratch (None)."""

    def restore(
        self, problem: Problem, x: Array, arrays: Mapping[str, npt.NDArray[Any]], figures: Mapping[str, Any]
    ) -> LowerLevelSolution:
        """The solution at x with these `arrays()` and `figures()`, and with handles rebuilt from the problem and x.

        `figures` also has what the framework saved: `outcome(figures)` gives status, residual and cost. The arrays come
        from a file that may be forged: check the type, shape and range of each before you use it, with
        `bilevelrl.validation.saved_array` and similar functions. The framework compares the result with what was read.

        Raises:
            InputError: if they are not a valid solution of this problem.
        """


@runtime_checkable
class HyperGradientEstimator(Protocol):
    """Differentiates the leader's objective through the follower's answer."""

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: a class or a runtime protocol, such as `SupportsModel`."""
    requires_objective: ClassVar[type]
    """What `problem.objective` must satisfy, such as `PolicyObjective` or `TrajectoryObjective`."""
    accepts: ClassVar[type]
    """The type that the follower's answer must have: a class or a runtime protocol; `LowerLevelSolution` for any.

    An estimator from samples may also have `occupancy_forms`, the classes of occupancy that it can produce; the
    `pullback` of the lower level must accept one of them.
    """

    @property
    def tags(self) -> Tags:
        """What it guarantees."""

    def estimate(
        self,
        problem: Problem,
        x: Array,
        solution: Any,
        previous: HyperGradient | None,
        rng: np.random.Generator,
    ) -> HyperGradient:
        """`∇φ(x)` from the follower's answer; `previous` is the last estimate of this run, or None."""


@runtime_checkable
class UpperLevelOptimizer(Protocol):
    """Updates x; the result is then projected onto the problem's feasible set."""

    name: ClassVar[str]

    def init(self, x: Array) -> OptimizerState:
        """The state before the first step."""

    def update(self, x: Array, hyper: HyperGradient, state: OptimizerState) -> tuple[Array, OptimizerState]:
        """The next x, before projection, and the next state."""
