"""The vocabulary: three protocols, and what their implementations exchange.

One outer iteration is three calls, each replaceable:

    solution = lower.solve(problem, x, warm_start, rng)                  # the follower's answer
    hyper    = estimator.estimate(problem, x, solution, previous, rng)   # gradient = direct + implicit
    x, state = upper.update(x, hyper, state)                             # then the feasible set projects

Values go in and come out; a warm start is the previous output passed back in. Components keep nothing between calls,
so a run can be stopped, saved, resumed, replayed and tested piece by piece.
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
    """How a component or a run ended. Each member's value says what to do about it."""

    CONVERGED = "met its tolerance"
    FELL_BACK = (
        "met its tolerance, but by a slower method than the first, which stagnated; ask for that one to save time"
    )
    BUDGET_SPENT = "stopped after the requested number of iterations; allow more for a more accurate answer"
    STAGNATED = (
        "stopped improving above its tolerance, which float64 cannot meet at this discount, or not with so inaccurate "
        "an answer of the follower; loosen the tolerance, or solve the follower further"
    )
    DIVERGED = "moved away from the answer; use a smaller step size"
    NON_FINITE = "met a value that is not finite; check the problem's rewards at the last good x, or step less far"
    INTERRUPTED = "was interrupted; the last complete iteration is kept"
    STOPPED = "was stopped by a callback; resume it to continue"

    @property
    def advice(self) -> str:
        """The status in a sentence, with what to do."""
        return f"{self.name.lower().replace('_', ' ')}: {self.value}"

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met, whatever it took."""
        return self in (Status.CONVERGED, Status.FELL_BACK)

    @property
    def usable(self) -> bool:
        """Whether the answer that comes with this status can be built on."""
        return self not in (Status.DIVERGED, Status.NON_FINITE)


class Exactness(enum.Enum):
    """What the answer of a solver or an estimator is worth. `Tags` takes the names in lower case too."""

    EXACT = "as accurate as its tolerance, after one call"
    TRACKING = "exact once it has been warm-started by its own answers at a fixed x often enough"
    UNBIASED = "random, with the exact answer as its expectation"
    BIASED = "neither exact nor exact in expectation"


def _exactness(value: object) -> object:
    return Exactness.__members__.get(value.upper(), value) if isinstance(value, str) else value


@attrs.frozen
class Tags:
    """What a solver or an estimator promises; `bilevelrl.testing` tests it, and picks its laws by it.

    A component has them as `tags`: an attribute of the class, or a property where they depend on its options.

    Args:
        exactness: an `Exactness`, or its name: "exact", "tracking", "unbiased", "biased".
        deterministic: draws no random numbers. Exact and tracking components are deterministic, unbiased ones are not.
        tolerance: of an exact solver, the error `‖V − V*‖∞` that `Status.CONVERGED` guarantees, in units of the reward;
            of an exact estimator, a relative error of the gradient on top of rounding; of a biased deterministic one,
            by how much two forms of one question (other storage, other labels) may move its answer, as a share of the
            largest terms in it; of a random solver, ε in `‖π − π*‖∞ ≤ ε (1 + span V*/τ)` on the kit's small problems.
        bias_bound: `γ ↦` an upper bound of the bias, as a share of `2‖c‖₁ max‖∇q‖/(1−γ)`, the largest size that an
            implicit part can have; infinite where there is none at this γ. None: unknown, and not tested.

    Raises:
        InputError: where the promises contradict each other.
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
"""The units of cost that comparisons know, and what they count. A component may count others of its own."""


class Cost:
    """What an answer cost: counts by unit; costs add. Seconds are not among them, since the framework measures them.

    `Cost(backups=3, samples=10).samples` is 10; a unit of `UNITS` that was not counted is 0.

    Args:
        counts: how many of each unit, integers of at least 0. Any name is a unit; `UNITS` has the usual ones.

    Raises:
        InputError: for a count that is no such integer.
    """

    __slots__ = ("counts",)

    counts: Mapping[str, int]
    """Unit to count, without those that are 0."""

    def __init__(self, **counts: int) -> None:
        for unit, count in counts.items():
            if type(count) is not int or count < 0:
                check_count(f"the cost in {unit}", count, at_least=0)
                counts[unit] = int(count)
        self.counts = {unit: count for unit, count in counts.items() if count}

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
        """The sum with any number of other costs, in one step."""
        total = dict(self.counts)
        for other in others:
            for unit, count in other.counts.items():
                total[unit] = total.get(unit, 0) + count
        made = Cost()
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


def _cost(counts: dict[str, int]) -> Cost:
    return Cost(**counts)


def cost_figures(cost: Cost) -> dict[str, int]:
    """A cost as a mapping from its units to their counts."""
    return dict(cost.counts)


def cost_from(figures: Mapping[str, Any]) -> Cost:
    """The cost that `cost_figures` wrote down; raises `InputError` for counts that none has."""
    return Cost(**{unit: saved_count(figures, unit) for unit in figures})


def outcome(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Status, residual and cost from the figures that `LowerLevelSolver.restore` gets, as a constructor's arguments.

    A residual that was not finite was saved as None, and comes back as NaN.

    Raises:
        InputError: where one of the three is missing or is none.
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

    An array (S, A) of probabilities is accepted wherever a policy is; a `sampling.TabularPolicy` is such an array as a
    `Policy`. A policy that estimates `Q(o, a)` has a method `action_values(observations)` too (N, …).
    """

    def sample(self, observations: Values, rng: np.random.Generator) -> Values:
        """(N, …) one action for each of the observations (N, …), drawn with `rng`."""

    def log_probabilities(self, observations: Values, actions: Values) -> Array:
        """(N,) `log π(a|o)` of each pair; for continuous actions the logarithm of the density."""


@runtime_checkable
class LowerLevelSolution(Protocol):
    """What every follower's answer has, whatever it is made of.

    `arrays()` and `figures()` hold all of it but its handles (a model, a simulator, a factorisation), which its solver
    rebuilds from the problem and x: checkpoints, workers and comparisons use them, and never ask what kind of solution
    it is. A large store, such as a replay buffer, is no array of a solution: it belongs into a file of its own in the
    directory `stores/` of a run, which the framework neither writes nor removes.

    A solution may also have `check()`, which raises `InputError` where its parts do not fit together and is called
    after every solve; `restrict(lower, x, rows)`, its rows as a solution of one context's follower, for
    `ContextualMDP.restrict`; and `error_bound`, a proven bound of `‖V − V*‖∞` for reports.
    """

    @property
    def policy(self) -> Any:
        """The follower's policy: an array (S, A), or whatever answers observations."""

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The arrays it is made of, by name: booleans, integers or floats of any shape."""

    def figures(self) -> Mapping[str, Any]:
        """The numbers, flags, words and Nones it is made of, by name; status, residual and cost are saved without."""

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
    """An estimate of `∇φ(x)`, its two parts kept apart.

    Args:
        direct: (n,) `∂f/∂x`: fits the objective where the follower already goes (exploitation).
        implicit: (n,) the part through the follower's answer: moves the follower to where the objective is better
            (exploration).
        objective: `f(x, π)` at the solution given.
        occupancy: the signed occupancy whose pullback is `implicit`; None where an estimator has none.
        residual: how far the adjoint (or its like) is from solved, in the maximum norm; None if it does not apply.
        standard_error: (n,) standard error of `gradient`; None for deterministic estimates.
        cost: what the estimate cost.
        status: how the estimator ended.
        carry: arrays that the next call warm-starts from, by name.
        objective_error: the standard error of `objective`; 0 where it is not random, NaN where it is not known.
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
    """What an optimiser remembers: the number of steps taken and arrays by name."""

    steps: int = 0
    arrays: Mapping[str, Array] = attrs.field(factory=dict)


@runtime_checkable
class Problem(Protocol):
    """What components may ask of a problem; `BilevelProblem` is the one implementation that users need."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def lower(self) -> Any:
        """The follower: `SupportsModel`, `SupportsSampling`, or both."""

    @property
    def objective(self) -> Any:
        """The leader's objective: `PolicyObjective`, `TrajectoryObjective`, or both."""

    @property
    def feasible_set(self) -> Any:
        """Where x may lie: `project(x)` gives the nearest point."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def point(self, x: object) -> Array:
        """x as a finite float64 vector (n,); raises `InputError` otherwise."""


@runtime_checkable
class LowerLevelSolver(Protocol):
    """Answers x with the follower's policy. Implementations are frozen attrs classes; fields are configuration."""

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: a class or a runtime protocol, such as `SupportsModel`."""
    produces: ClassVar[type]
    """What its answers are: a class or a runtime protocol, such as `TabularSolution`."""

    @property
    def tags(self) -> Tags:
        """What it promises."""

    def solve(self, problem: Problem, x: Array, warm_start: Any | None, rng: np.random.Generator) -> LowerLevelSolution:
        """The follower's answer at x, from the previous answer or from scratch (None)."""

    def restore(
        self, problem: Problem, x: Array, arrays: Mapping[str, npt.NDArray[Any]], figures: Mapping[str, Any]
    ) -> LowerLevelSolution:
        """The solution at x that has these `arrays()` and `figures()`, its handles rebuilt from the problem and x.

        `figures` also has what the framework saved: `outcome(figures)` gives status, residual and cost. The arrays come
        from a file that may be forged: check type, shape and range of each before it is used, with
        `bilevelrl.validation.saved_array` and its like. The framework compares the result with what was read.

        Raises:
            InputError: where they do not make a solution of this problem.
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
    """What the follower's answer must be: a class or a runtime protocol; `LowerLevelSolution` for any.

    An estimator from samples may also have `occupancy_forms`, the classes of occupancy that it can produce; the lower
    level must take one of them in its `pullback`.
    """

    @property
    def tags(self) -> Tags:
        """What it promises."""

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
    """Moves x; the problem's feasible set projects afterwards."""

    name: ClassVar[str]

    def init(self, x: Array) -> OptimizerState:
        """The state before the first step."""

    def update(self, x: Array, hyper: HyperGradient, state: OptimizerState) -> tuple[Array, OptimizerState]:
        """The next x, before projection, and the next state."""
