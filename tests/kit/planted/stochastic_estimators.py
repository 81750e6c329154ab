"""Stochastic hyper-gradient estimators: an unbiased one, a truncated one, and ones with a single fault each.

Blocks are estimated one by one, each from trajectories of its own, so that their spread is the standard error of their
mean. A block is cut into small steps so that a fault is one step done wrong.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen(eq=False)
class Block:
    """One block's direct and implicit part, mean loss, signed occupancy and number of transitions."""

    direct: bl.Array
    implicit: bl.Array
    objective: float
    weights: bl.Array
    samples: int


@attrs.frozen
class BatchEstimator:
    """`E[∂l/∂x] + τ⁻¹ E[l Σ_ih (∇Q − ∇V)]`, two continuations from every visit.

    Args:
        blocks: independent blocks.
        groups: of I trajectories, in a block, at least 2.
        truncation: T, steps of a continuation, discounted; None for a geometric random length, not discounted.
    """

    name: ClassVar[str] = "planted-batch"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    requires_objective: ClassVar[type] = bl.objectives.TrajectoryObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution

    blocks: int = 8
    groups: int = 16
    truncation: int | None = None

    @property
    def tags(self) -> bl.Tags:
        exactness = "unbiased" if self.truncation is None else "biased"
        return bl.Tags(exactness, deterministic=False, bias_bound=self.bias)

    def bias(self, discount: float) -> float:
        return 0.0 if self.truncation is None else discount**self.truncation

    def estimate(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        generator, policy = self.generator(rng), self.policy(problem, x, solution)
        blocks = [self.block(problem, x, policy, generator) for _ in range(self.blocks)]
        direct = np.mean([block.direct for block in blocks], axis=0)
        implicit = np.mean([block.implicit for block in blocks], axis=0)
        objective = float(np.mean([block.objective for block in blocks]))
        finite = math.isfinite(objective) and np.isfinite(direct + implicit).all()
        return bl.HyperGradient(
            direct,
            implicit,
            objective,
            bl.occupancy.DenseOccupancy(np.mean([block.weights for block in blocks], axis=0)),
            bl.Cost(samples=sum(block.samples for block in blocks)),
            bl.Status.BUDGET_SPENT if finite else self.not_finite,
            standard_error=self.standard_error(np.array([block.direct + block.implicit for block in blocks])),
        )

    not_finite: ClassVar[bl.Status] = bl.Status.NON_FINITE

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng

    def policy(self, problem: bl.BilevelProblem, x: bl.Array, solution: Any) -> bl.Array:
        return solution.policy

    def standard_error(self, estimates: bl.Array) -> bl.Array:
        return estimates.std(axis=0, ddof=1) / math.sqrt(self.blocks)

    def block(self, problem: bl.BilevelProblem, x: bl.Array, policy: bl.Array, rng: np.random.Generator) -> Block:
        simulator, objective = problem.lower.simulator(x), problem.objective
        count = self.groups * objective.trajectories
        batch = simulator.rollout(policy, count, objective.horizon, rng)
        with np.errstate(all="ignore"):
            losses, direct = objective.loss_and_gradient(x, batch, rng)
            scaled = self.advantages(losses) / (self.temperature(simulator.spec) * self.groups)
        weights = self.visit_weights(scaled, objective).reshape(-1)
        states, taken = batch.observations[:, :-1].reshape(-1), batch.actions.reshape(-1)
        by_action, some = self.continue_from(simulator, policy, states, taken, weights, rng)
        by_state, more = self.continue_from(simulator, policy, states, self.first_actions(taken), weights, rng)
        table = by_action - by_state
        implicit = self.implicit(problem.lower.pullback(x, bl.occupancy.DenseOccupancy(table)))
        return Block(
            self.direct(direct), implicit, float(losses.mean()), table, self.counted(batch.samples, some + more)
        )

    def advantages(self, losses: bl.Array) -> bl.Array:
        """Each loss minus the mean of the others, which knows nothing of its trajectories."""
        others = (losses.sum() - losses) / (losses.size - 1)
        return losses - others

    def temperature(self, spec: bl.sampling.FollowerSpec) -> float:
        return spec.temperature

    def visit_weights(self, scaled: bl.Array, objective: Any) -> bl.Array:
        """(G·I, H): each visit of each of a group's trajectories weighs as its group does."""
        return np.repeat(scaled, objective.trajectories)[:, None] * np.ones(objective.horizon)

    def first_actions(self, taken: bl.Array) -> bl.Array | None:
        """Of the continuations from the state: drawn."""
        return None

    def continue_from(
        self,
        simulator: Any,
        policy: bl.Array,
        states: bl.Array,
        actions: bl.Array | None,
        weights: bl.Array,
        rng: np.random.Generator,
    ) -> tuple[bl.Array, int]:
        """`Σ_j w_j d̂_j` (S, A), one continuation for each j, and the transitions drawn."""
        discount = simulator.spec.discount
        if self.truncation is None:
            lengths = rng.geometric(1.0 - discount, states.size)
        else:
            lengths = np.full(states.size, self.truncation)
        paths = simulator.rollout_from(states, actions, policy, int(lengths.max()), rng)
        steps = np.arange(paths.horizon)
        kept = (steps < lengths[:, None]) * self.discounting(discount, steps)
        return paths.visits(weights[:, None] * kept, policy.shape), paths.samples

    def discounting(self, discount: float, steps: bl.Array) -> bl.Array | float:
        return 1.0 if self.truncation is None else discount**steps

    def direct(self, direct: bl.Array) -> bl.Array:
        return direct

    def implicit(self, implicit: bl.Array) -> bl.Array:
        return implicit

    def counted(self, of_the_batch: int, of_the_continuations: int) -> int:
        return of_the_batch + of_the_continuations


# The expectation.


class ImplicitOnePercentTooLarge(BatchEstimator):
    def implicit(self, implicit):
        return 1.01 * implicit


class ImplicitAFifthTooLarge(BatchEstimator):
    def implicit(self, implicit):
        return 1.2 * implicit


class ImplicitSignFlipped(BatchEstimator):
    def implicit(self, implicit):
        return -implicit


class DirectOnePercentTooLarge(BatchEstimator):
    def direct(self, direct):
        return 1.01 * direct


class DirectMissing(BatchEstimator):
    def direct(self, direct):
        return np.zeros_like(direct)


@attrs.frozen
class BaselineKnowsTheLoss(BatchEstimator):
    """Subtracts the mean of all losses: the factor (n−1)/n, a half where n = 2."""

    blocks: int = 64
    groups: int = 2

    def advantages(self, losses):
        return losses - losses.mean()


class DiscountedAndGeometric(BatchEstimator):
    def discounting(self, discount, steps):
        return discount**steps


class GeometricLengthOneShort(BatchEstimator):
    """Counts the failures before the first success, and so forgets the step at which a continuation begins."""

    def continue_from(self, simulator, policy, states, actions, weights, rng):
        lengths = rng.geometric(1.0 - simulator.spec.discount, states.size) - 1
        paths = simulator.rollout_from(states, actions, policy, max(1, int(lengths.max())), rng)
        kept = np.arange(paths.horizon) < lengths[:, None]
        return paths.visits(weights[:, None] * kept, policy.shape), paths.samples


class TemperatureForgotten(BatchEstimator):
    def temperature(self, spec):
        return 1.0


class FirstVisitOnly(BatchEstimator):
    """The first step's score, and none of the later ones."""

    def visit_weights(self, scaled, objective):
        weights = super().visit_weights(scaled, objective)
        weights[:, 1:] = 0.0
        return weights


class VisitsDiscounted(BatchEstimator):
    """Weighs the score of step h by 0.9^h, as if the loss came later."""

    def visit_weights(self, scaled, objective):
        return super().visit_weights(scaled, objective) * 0.9 ** np.arange(objective.horizon)


class FirstTrajectoryOnly(BatchEstimator):
    """Of a group's trajectories only the first has a score."""

    def visit_weights(self, scaled, objective):
        weights = super().visit_weights(scaled, objective)
        first = np.arange(len(weights)) % objective.trajectories == 0
        return weights * first[:, None]


class TakenActionFromTheState(BatchEstimator):
    """Both continuations begin with the action taken: the implicit part is nothing but noise about zero."""

    def first_actions(self, taken):
        return taken


class UniformPolicy(BatchEstimator):
    """Draws from the uniform policy, not from the follower's."""

    def policy(self, problem, x, solution):
        return np.full_like(solution.policy, 1.0 / solution.policy.shape[1])


@attrs.frozen
class TruncatedButUnbiased(BatchEstimator):
    truncation: int | None = 3

    @property
    def tags(self) -> bl.Tags:
        return bl.Tags("unbiased", deterministic=False)


@attrs.frozen
class BiasBoundUnderstated(BatchEstimator):
    truncation: int | None = 1

    def bias(self, discount):
        return discount**self.truncation / 10


@attrs.frozen
class BiasBoundOfAnotherLength(BatchEstimator):
    """The bound of continuations of 100 steps, for ones of a single step."""

    truncation: int | None = 1

    def bias(self, discount):
        return discount**100


# What it says of its answer.


class StandardErrorHalved(BatchEstimator):
    def standard_error(self, estimates):
        return super().standard_error(estimates) / 2


class StandardErrorOfTheMeanTwice(BatchEstimator):
    """Divides by the number of blocks, not by its root."""

    def standard_error(self, estimates):
        return super().standard_error(estimates) / math.sqrt(self.blocks)


class StandardErrorZero(BatchEstimator):
    def standard_error(self, estimates):
        return np.zeros(estimates.shape[1])


class StandardErrorOfOneCoordinate(BatchEstimator):
    def standard_error(self, estimates):
        error = super().standard_error(estimates)
        error[1:] = 0.0
        return error


class StandardErrorOfTheImplicitSmallest(BatchEstimator):
    """Reports the smallest coordinate's standard error for all."""

    def standard_error(self, estimates):
        error = super().standard_error(estimates)
        return np.full_like(error, error.min())


class SamplesUnderReported(BatchEstimator):
    def counted(self, of_the_batch, of_the_continuations):
        return of_the_batch


class NotFiniteConverged(BatchEstimator):
    not_finite: ClassVar[bl.Status] = bl.Status.CONVERGED


class SinglePrecision(BatchEstimator):
    def direct(self, direct):
        return direct.astype(np.float32)

    def implicit(self, implicit):
        return implicit.astype(np.float32)


# Where its randomness comes from, and what it asks for.


class IgnoresTheGenerator(BatchEstimator):
    def generator(self, rng):
        return np.random.default_rng(0)


class SeedsItself(BatchEstimator):
    def generator(self, rng):
        return np.random.default_rng()


@attrs.frozen
class GeneratorInTheObject(BatchEstimator):
    """Keeps the first call's generator, and draws on from it."""

    memory: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def generator(self, rng):
        return self.memory.setdefault("generator", rng)


class PeeksAtTheModel(BatchEstimator):
    def policy(self, problem, x, solution):
        model, values = problem.lower.model(x), np.zeros(solution.policy.shape[0])
        for _ in range(2000):
            values = bl.mdp.soft_bellman(model, values)
        return bl.mdp.soft_backup(model, values).policy
