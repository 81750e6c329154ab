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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.occupancy import Occupancy
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import is_flag, is_real

if TYPE_CHECKING:
    pass


@attrs.frozen(kw_only=True)
class Tags:
    """What a solver or an estimator promises; `bilevelrl.testing` checks it, and picks its laws by it.

    A component has them as `tags`, an attribute of the class, or a property where they depend on its options. What the
    component needs (a transition model, or a simulator) is not repeated here: `requires` says it.

    Args:
        exact: deterministic, and as good as its tolerance allows: a solver that goes on until its accuracy is
            guaranteed, an estimator that equals `∇φ` at an exact answer of the follower.
        tracking: deterministic, and not yet exact after one call: warm-started by its own answer again and again at a
            fixed x, it converges to the exact one.
        stochastic: draws random numbers. A component without tags is taken to draw them. The estimate of a stochastic
            estimator that is not biased has `∇φ` as its expectation.
        biased: the answer, or its expectation, is not the exact one. An estimator that can say by how much has a
            method `bias_bound(discount) -> float`: an upper bound as a share of `2‖c‖₁ max‖∇q‖/(1−γ)`, the largest
            size that an implicit part can have. Without it the kit does not ask how large the bias is.
        tolerance: what "as good as" means. Of an exact solver, the error `‖V − V*‖∞` that `Status.CONVERGED`
            guarantees, in units of the reward; of an exact estimator, a relative error of the gradient on top of
            rounding; of a biased deterministic one, by how much two forms of one question (other storage, other labels)
            may move its answer, as a share of the largest terms it may be made of; of a stochastic solver, ε in
            `‖π − π*‖∞ ≤ ε (1 + span V*/τ)` on the kit's small problems with its default budget.

    Raises:
        InputError: where the promises contradict each other.
    """

    exact: bool = attrs.field(default=False, validator=is_flag())
    tracking: bool = attrs.field(default=False, validator=is_flag())
    stochastic: bool = attrs.field(default=False, validator=is_flag())
    biased: bool = attrs.field(default=False, validator=is_flag())
    tolerance: float = attrs.field(default=0.0, validator=is_real(at_least=0.0))

    def __attrs_post_init__(self) -> None:
        for other in ("tracking", "stochastic", "biased"):
            if self.exact and getattr(self, other):
                raise InputError("tags", f"exact and {other}", "one of the two, since each denies the other")
        if not (self.exact or self.tracking or self.stochastic or self.biased):
            expected = "exact=True, which is what a deterministic unbiased component is, or else tracking or biased"
            raise InputError("tags", "none of exact, tracking, stochastic, biased", expected)


def draws_random_numbers(component: object) -> bool:
    """Whether a component may draw; one that declares no tags is taken to."""
    tags = getattr(component, "tags", None)
    return tags is None or bool(tags.stochastic)


class Status(enum.Enum):
    """How a component or a run ended. Each member's value says what to do about it."""

    CONVERGED = "met its tolerance"
    FELL_BACK = (
        "met its tolerance, but by a slower method than the first, which stagnated; ask for that one to save time"
    )
    BUDGET_SPENT = "did the work it was asked to do; allow more iterations for a more accurate answer"
    STAGNATED = (
        "stopped improving above its tolerance, which float64 cannot meet at this discount, or not with so inaccurate "
        "an answer of the follower; loosen the tolerance, or solve the follower further"
    )
    DIVERGED = "moved away from the answer; use a smaller step size"
    NON_FINITE = "met a value that is not finite; check the problem's rewards at the last good x, or step less far"
    INTERRUPTED = "was interrupted; the last complete iteration is kept"

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


@attrs.frozen(slots=False)
class Cost:
    """What an answer cost, in units that compare algorithms; costs add.

    Args:
        backups: soft Bellman backups: passes over all of P that end in `T v`.
        linear_solves: systems solved with `I − γP^π` or its transpose by a factorisation.
        products: products with `P^π` or its transpose outside of these; where systems are solved by iteration, all that
            the iteration takes, the preconditioner's work included in units of products.
        samples: transitions drawn from a simulator.
        seconds: wall-clock time.
    """

    backups: int = 0
    linear_solves: int = 0
    products: int = 0
    samples: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return self.plus(other)

    def plus(self, *others: Cost) -> Cost:
        """The sum with any number of other costs, in one step."""
        backups, linear_solves, products = self.backups, self.linear_solves, self.products
        samples, seconds = self.samples, self.seconds
        for other in others:
            backups += other.backups
            linear_solves += other.linear_solves
            products += other.products
            samples += other.samples
            seconds += other.seconds
        return Cost(backups, linear_solves, products, samples, seconds)


@runtime_checkable
class LowerLevelSolution(Protocol):
    """What every follower's answer has, tabular or not."""

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
    """Answers x with the follower's policy. Implementations are frozen attrs classes; fields are configuration.

    Its `tags`, a `Tags`, say what it promises: whether it is exact, draws random numbers, is biased.
    """

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: `SupportsModel` or `SupportsSampling`."""

    def solve(self, problem: Problem, x: Array, warm_start: Any | None, rng: np.random.Generator) -> LowerLevelSolution:
        """The follower's answer at x, from the previous answer or from scratch (None)."""


@runtime_checkable
class HyperGradientEstimator(Protocol):
    """Differentiates the leader's objective through the follower's answer.

    Its `tags`, a `Tags`, say what it promises: whether it is exact, draws random numbers, is biased.
    """

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: `SupportsModel` or `SupportsSampling`."""
    requires_objective: ClassVar[type]
    """What `problem.objective` must satisfy: `PolicyObjective`, `TrajectoryObjective`, `StepwiseObjective`."""

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
