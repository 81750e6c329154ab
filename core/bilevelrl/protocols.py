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

from bilevelrl.bellman import Linearization
from bilevelrl.mdp import SoftMDP
from bilevelrl.occupancy import Occupancy
from bilevelrl.simulators import Simulator, Trajectories
from bilevelrl.validation import Array

if TYPE_CHECKING:
    from bilevelrl.bilevel_problem import BilevelProblem


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
class TabularSolution:
    """The follower's answer in tables: `V`, and the policy and action values of one backup from it.

    Args:
        model: the `SoftMDP` that was solved; a handle, never saved, rebuilt from x.
        policy: `π(V)` (S, A).
        values: `V` (S,).
        action_values: `q(V)` (S, A).
        residual: `‖T V − V‖∞`; bounds the error by `‖V − V*‖∞ ≤ residual/(1−γ)`.
        iterations: sweeps or Newton steps.
        status: how the solver ended.
        cost: what it cost.
        linearization: solves with `I − γP^π` and its transpose; may hold a factorisation that the solver paid for.
            A handle, never saved; built on demand where the solver gives none.
    """

    model: SoftMDP
    policy: Array
    values: Array
    action_values: Array
    residual: float
    iterations: int
    status: Status
    cost: Cost
    linearization: Linearization = attrs.field(
        default=attrs.Factory(
            lambda self: Linearization(self.model.transitions, self.model.discount, self.policy),
            takes_self=True,
        )
    )

    @property
    def error_bound(self) -> float:
        """`‖V − V*‖∞ ≤ ‖T V − V‖∞/(1−γ)`, in the units of the reward."""
        return self.residual / (1.0 - self.model.discount)


@attrs.frozen(eq=False, slots=False)
class SampledSolution:
    """The follower's answer learnt from samples, in tables.

    Args:
        simulator: the simulator at x that it was learnt from; a handle, never saved, rebuilt from x.
        policy: (S, A).
        action_values: (S, A), the estimate of Q that the policy is the softmax of.
        residual: the mean absolute temporal difference over the last samples; zero only for an exact answer in a
            deterministic world.
        status: how the solver ended.
        cost: the samples it drew, among others.
        carry: arrays that the next call warm-starts from, by name.
    """

    simulator: Simulator
    policy: Array
    action_values: Array
    residual: float
    status: Status
    cost: Cost
    carry: Mapping[str, Array] = attrs.field(factory=dict)


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
class SupportsModel(Protocol):
    """A lower level whose MDP can be written down at any x."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def model(self, x: Array) -> SoftMDP:
        """`M_τ(x)`."""

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄ + J_Pᵀ P̄ + J_ρᵀ ρ̄` at x: one vector-Jacobian product, never a Jacobian."""


@runtime_checkable
class SupportsSampling(Protocol):
    """A lower level that can be simulated at any x; its transition probabilities may be unknown."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def simulator(self, x: Array) -> Simulator:
        """A simulator of the follower's MDP at x."""

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄` at x."""


@runtime_checkable
class PolicyObjective(Protocol):
    """An upper-level objective `f(x, π)` of x and a tabular policy."""

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `∂f/∂x` (n,) and `∂f/∂π` (S, A), the latter with the entries of π taken as independent."""


@runtime_checkable
class TrajectoryObjective(Protocol):
    """An upper-level objective that is the expected loss of trajectories of the follower."""

    @property
    def horizon(self) -> int:
        """H, steps in a trajectory."""

    @property
    def trajectories(self) -> int:
        """I, trajectories that one loss takes."""

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`l` for each group of I consecutive trajectories (G,), and `∂l/∂x` averaged over the groups (n,).

        `rng` is for objectives that draw, such as a labeller that errs.
        """


@runtime_checkable
class StepwiseObjective(TrajectoryObjective, Protocol):
    """A loss of one trajectory (I = 1) that adds up over its steps: an action has no part in what came before it."""

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """What each step adds to `l`, discounted to the trajectory's start (G, H), and `∂l/∂x` averaged (n,)."""


@runtime_checkable
class LowerLevelSolver(Protocol):
    """Answers x with the follower's policy. Implementations are frozen attrs classes; fields are configuration.

    Its `tags`, a `Tags`, say what it promises: whether it is exact, draws random numbers, is biased.
    """

    name: ClassVar[str]
    requires: ClassVar[type]
    """What `problem.lower` must satisfy: `SupportsModel` or `SupportsSampling`."""

    def solve(
        self, problem: BilevelProblem, x: Array, warm_start: Any | None, rng: np.random.Generator
    ) -> LowerLevelSolution:
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
        problem: BilevelProblem,
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
