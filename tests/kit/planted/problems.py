"""Small bilevel problems: two correct ones, and ones with a single fault each.

One follower, whose rewards, transitions and initial distribution all depend on x, with a state that absorbs; one
leader who judges policies, one who judges trajectories.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

import bilevelrl as bl
from kit.planted.solvers import written

STATES, ACTIONS, DIMENSION = 4, 3, 5
DISCOUNT, TEMPERATURE = 0.8, 0.5
SHAPE = (STATES, ACTIONS)


def _numbers(seed: int, *shape: int) -> bl.Array:
    return np.random.default_rng(seed).normal(size=shape)


def _base_kernel() -> bl.Array:
    kernel = np.exp(_numbers(1, STATES, ACTIONS, STATES))
    kernel[-1] = np.eye(STATES)[-1]  # the last state absorbs
    return kernel / kernel.sum(axis=2, keepdims=True)


BASE_REWARDS = _numbers(2, *SHAPE)
BASE_KERNEL = _base_kernel()
REFERENCE = np.random.default_rng(3).dirichlet(np.full(ACTIONS, 3.0), STATES)
# x_0, x_1, x_2 enter the rewards, x_2 and x_3 the transitions, x_4 the initial distribution.
REWARD_FEATURES = _numbers(4, *SHAPE, DIMENSION) * [1, 1, 1, 0, 0]
KERNEL_FEATURES = _numbers(5, *SHAPE, STATES, DIMENSION) * [0, 0, 1, 1, 0]
INITIAL_FEATURES = _numbers(6, STATES, DIMENSION) * [0, 0, 0, 0, 1]
POLICY_TARGET = np.random.default_rng(7).dirichlet(np.ones(ACTIONS), STATES)
POLICY_WEIGHTS = np.exp(_numbers(8, *SHAPE))
COSTS = _numbers(9, *SHAPE)
COST_SLOPE = np.array([0.3, -0.2, 0.1, 0.25, -0.15])


@attrs.frozen(eq=False)
class Follower:
    """`r = r⁰ + tanh(φx)`, `P ∝ P⁰ exp(ψx)`, `ρ ∝ exp(χx)`."""

    dimension: int = DIMENSION
    occupancy_forms = (bl.occupancy.DenseOccupancy,)

    def rewards(self, x: bl.Array) -> bl.Array:
        return BASE_REWARDS + np.tanh(REWARD_FEATURES @ x)

    def kernel(self, x: bl.Array) -> bl.Array:
        logits = KERNEL_FEATURES @ x
        weights = BASE_KERNEL * np.exp(logits - logits.max(axis=2, keepdims=True))
        return weights / weights.sum(axis=2, keepdims=True)

    def initial(self, x: bl.Array) -> bl.Array:
        weights = np.exp(INITIAL_FEATURES @ x)
        return weights / weights.sum()

    def model(self, x: bl.Array) -> bl.SoftMDP:
        return bl.SoftMDP(self.kernel(x), self.rewards(x), DISCOUNT, TEMPERATURE, self.initial(x), REFERENCE)

    def simulator(self, x: bl.Array) -> Any:
        return bl.sampling.TabularSimulator(self.model(x))

    def pullback(self, x: bl.Array, occupancy: bl.occupancy.Occupancy) -> bl.Array:
        measure = occupancy.dense(*SHAPE)
        gradient = self.rewards_pullback(x, measure.weights)
        if measure.continuation is not None:
            gradient = gradient + self.kernel_pullback(x, measure.weights, measure.continuation)
        if measure.initial is not None:
            gradient = gradient + self.initial_pullback(x, measure.initial)
        return gradient

    def rewards_pullback(self, x: bl.Array, weights: bl.Array) -> bl.Array:
        slope = 1.0 - np.tanh(REWARD_FEATURES @ x) ** 2
        return np.einsum("sa,san->n", weights * slope, REWARD_FEATURES)

    def kernel_pullback(self, x: bl.Array, weights: bl.Array, continuation: bl.Array) -> bl.Array:
        kernel = self.kernel(x)
        advantage = kernel * (continuation - (kernel @ continuation)[:, :, None])
        return np.einsum("sa,sat,satn->n", weights, advantage, KERNEL_FEATURES)

    def initial_pullback(self, x: bl.Array, weights: bl.Array) -> bl.Array:
        initial = self.initial(x)
        return INITIAL_FEATURES.T @ (initial * (weights - initial @ weights))


@attrs.frozen(eq=False)
class FixedKernelFollower(Follower):
    """The same follower with P⁰ and a uniform ρ: sampled occupancies have no part for either."""

    def kernel(self, x):
        return BASE_KERNEL

    def kernel_pullback(self, x, weights, continuation):
        return np.zeros_like(x)

    def initial(self, x):
        return np.full(STATES, 1.0 / STATES)

    def initial_pullback(self, x, weights):
        return np.zeros_like(x)


@attrs.frozen(eq=False)
class PolicyLeader:
    """`f = ½‖x‖² + ½ Σ_sa w_sa (π_sa − π̂_sa)² + x_0 Σ_s π_s0`."""

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        error = policy - POLICY_TARGET
        value = 0.5 * x @ x + 0.5 * (POLICY_WEIGHTS * error**2).sum() + x[0] * policy[:, 0].sum()
        return float(value), self.by_x(x, policy), self.by_policy(x, policy)

    def by_x(self, x: bl.Array, policy: bl.Array) -> bl.Array:
        gradient = x.copy()
        gradient[0] += policy[:, 0].sum()
        return gradient

    def by_policy(self, x: bl.Array, policy: bl.Array) -> bl.Array:
        gradient = POLICY_WEIGHTS * (policy - POLICY_TARGET)
        gradient[:, 0] += x[0]
        return gradient


@attrs.frozen(eq=False)
class TrajectoryLeader:
    """`l = (1 + κ·x) C + ½‖x‖²`, C the sum of costs along the two trajectories of a group."""

    horizon: int = 4
    trajectories: int = 2

    def loss_and_gradient(
        self, x: bl.Array, trajectories: bl.sampling.Trajectories, rng: np.random.Generator
    ) -> tuple[bl.Array, bl.Array]:
        paid = COSTS[trajectories.observations[:, :-1], trajectories.actions].sum(axis=1)
        costs = paid.reshape(-1, self.trajectories).sum(axis=1)
        losses = (1.0 + COST_SLOPE @ x) * costs + 0.5 * x @ x
        return losses, self.averaged(costs) * COST_SLOPE + x

    def averaged(self, costs: bl.Array) -> float:
        return float(costs.mean())


START = np.array([0.4, -0.3, 0.2, 0.5, -0.6])


def mean_value(x: bl.Array, solution: Any) -> dict[str, float]:
    return {"mean of the policy's first column": float(solution.policy[:, 0].mean())}


def judged_by_policy(lower: Any = None, objective: Any = None, **fields: Any) -> bl.BilevelProblem:
    """A problem of a leader who judges policies."""
    given = {"start": START, "feasible_set": bl.problems.Ball(2.0), "measures": mean_value, "name": "planted"} | fields
    return bl.BilevelProblem(lower or Follower(), objective or PolicyLeader(), **given)


def judged_by_trajectories(lower: Any = None, objective: Any = None, **fields: Any) -> bl.BilevelProblem:
    """A problem of a leader who judges trajectories."""
    return judged_by_policy(lower or FixedKernelFollower(), objective or TrajectoryLeader(), **fields)


# Followers.


class PullbackMissesAParameter(Follower):
    def rewards_pullback(self, x, weights):
        gradient = super().rewards_pullback(x, weights)
        gradient[1] = 0.0
        return gradient


class PullbackSignOfTheTransitions(Follower):
    def kernel_pullback(self, x, weights, continuation):
        return -super().kernel_pullback(x, weights, continuation)


class PullbackMissesTheTransitions(Follower):
    def kernel_pullback(self, x, weights, continuation):
        return np.zeros_like(x)


class PullbackMissesTheNormalisation(Follower):
    """Differentiates `exp(ψx)` and forgets its denominator."""

    def kernel_pullback(self, x, weights, continuation):
        return np.einsum("sa,sat,satn->n", weights, self.kernel(x) * continuation, KERNEL_FEATURES)


class PullbackMissesTheInitialDistribution(Follower):
    def initial_pullback(self, x, weights):
        return np.zeros_like(x)


class PullbackAtZero(Follower):
    def pullback(self, x, occupancy):
        return super().pullback(np.zeros_like(x), occupancy)


class PullbackClipped(Follower):
    def rewards_pullback(self, x, weights):
        return super().rewards_pullback(x, np.clip(weights, -0.3, 0.3))


class PullbackWithAPenalty(Follower):
    """Adds the gradient of ½‖x‖², which is not a matter of the occupancy."""

    def pullback(self, x, occupancy):
        return super().pullback(x, occupancy) + x


class PullbackInMemoryOrder(Follower):
    def rewards_pullback(self, x, weights):
        return super().rewards_pullback(x, weights.ravel(order="K").reshape(SHAPE))


class PullbackMutatesTheOccupancy(Follower):
    def rewards_pullback(self, x, weights):
        gradient = super().rewards_pullback(x, weights)
        written(weights, weights * 0.5)
        return gradient


class ModelMutatesX(Follower):
    def model(self, x):
        model = super().model(x)
        written(x, np.clip(x, -0.25, 0.25))
        return model


@attrs.frozen(eq=False)
class ModelRemembers(Follower):
    calls: list[int] = attrs.field(factory=list)

    def rewards(self, x):
        self.calls.append(1)
        return super().rewards(x) + 1e-3 * len(self.calls)


class ModelDraws(Follower):
    def rewards(self, x):
        return super().rewards(x) + 1e-3 * np.random.standard_normal(SHAPE)  # noqa: NPY002


class KernelRowsAboveOne(Follower):
    def model(self, x):
        model = super().model(x)
        return model.replace(transitions=bl.mdp.DenseTransitions.trusted(1.001 * self.kernel(x)))


class KernelWithANegativeEntry(Follower):
    def model(self, x):
        kernel = self.kernel(x)
        kernel[0, 0, 0] -= 1.0
        kernel[0, 0, 1] += 1.0
        return super().model(x).replace(transitions=bl.mdp.DenseTransitions.trusted(kernel))


class RewardsNotFinite(Follower):
    """`log x` where x is negative."""

    def model(self, x):
        rewards = self.rewards(x)
        with np.errstate(all="ignore"):
            rewards[0, 0] += np.log(x[1])
        return super().model(x).replace(rewards=rewards)


class InitialDoesNotSumToOne(Follower):
    def model(self, x):
        return super().model(x).replace(initial=1.01 * self.initial(x))


# Simulators.


class SimulatorSlips(FixedKernelFollower):
    """The simulated world slips; the written one does not."""

    def simulator(self, x):
        slipping = BASE_KERNEL.copy()
        slipping[:-1] = 0.7 * slipping[:-1] + 0.3 / STATES
        return bl.sampling.TabularSimulator(attrs.evolve(self.model(x), transitions=slipping))


class SimulatorStartsInStateZero(FixedKernelFollower):
    def simulator(self, x):
        return bl.sampling.TabularSimulator(self.model(x).replace(initial=np.eye(STATES)[0]))


class SimulatorOfAnotherX(FixedKernelFollower):
    def simulator(self, x):
        return bl.sampling.TabularSimulator(self.model(np.zeros_like(x)))


class SimulatorOfAnotherDiscount(FixedKernelFollower):
    def simulator(self, x):
        return bl.sampling.TabularSimulator(attrs.evolve(self.model(x), discount=0.95))


class SimulatorOfAnotherTemperature(FixedKernelFollower):
    def simulator(self, x):
        return bl.sampling.TabularSimulator(attrs.evolve(self.model(x), temperature=1.0))


class SimulatorForgetsTheReference(FixedKernelFollower):
    def simulator(self, x):
        return bl.sampling.TabularSimulator(attrs.evolve(self.model(x), reference=None))


class _Changed:
    """A simulator that changes something of what another one answers."""

    def __init__(self, mdp: bl.SoftMDP) -> None:
        self.mdp = mdp
        self.within = bl.sampling.TabularSimulator(mdp)
        self.spec = self.within.spec

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng

    def stepped(self, step: bl.sampling.Step, actions: bl.Array) -> bl.sampling.Step:
        return step

    def rolled(self, paths: bl.sampling.Trajectories) -> bl.sampling.Trajectories:
        return paths

    def reset(self, count, rng):
        return self.within.reset(count, self.generator(rng))

    def step(self, actions, rng):
        return self.stepped(self.within.step(actions, self.generator(rng)), actions)

    def rollout(self, policy, count, horizon, rng):
        return self.rolled(self.within.rollout(policy, count, horizon, self.generator(rng)))

    def rollout_from(self, observations, actions, policy, horizon, rng):
        return self.rolled(self.within.rollout_from(observations, actions, policy, horizon, self.generator(rng)))


class _PaysForTheNextState(_Changed):
    def stepped(self, step, actions):
        return attrs.evolve(step, rewards=self.mdp.rewards[step.observations, actions])

    def rolled(self, paths):
        return attrs.evolve(paths, rewards=self.mdp.rewards[paths.observations[:, 1:], paths.actions])


class _EndsWhereStatesAbsorb(_Changed):
    def stepped(self, step, actions):
        return attrs.evolve(step, terminated=self.mdp.transitions.absorbing[step.observations])


class _SeedsItself(_Changed):
    def generator(self, rng):
        return np.random.default_rng()


class _KeepsItsGenerator(_Changed):
    def generator(self, rng):
        self.kept = getattr(self, "kept", rng)
        return self.kept


class _VisitsTooLarge(bl.sampling.TabularSimulator):
    """Its sums of visits are too large."""

    def signed_visits(self, *arguments, **options):
        table, drawn = super().signed_visits(*arguments, **options)
        return 1.3 * table, drawn


class _VisitsWithoutTheRest(bl.sampling.TabularSimulator):
    """Where it should draw a random length it takes two steps."""

    def signed_visits(self, *arguments, truncation, common_random_numbers):
        return super().signed_visits(
            *arguments, truncation=truncation or 2, common_random_numbers=common_random_numbers
        )


class _VisitsByItsOwnGenerator(bl.sampling.TabularSimulator):
    def signed_visits(self, observations, actions, weights, policy, rng, **options):
        return super().signed_visits(observations, actions, weights, policy, np.random.default_rng(), **options)


class SimulatorOverstatesVisits(FixedKernelFollower):
    def simulator(self, x):
        return _VisitsTooLarge(self.model(x))


class SimulatorCutsRandomLengths(FixedKernelFollower):
    def simulator(self, x):
        return _VisitsWithoutTheRest(self.model(x))


class SimulatorVisitsByItself(FixedKernelFollower):
    def simulator(self, x):
        return _VisitsByItsOwnGenerator(self.model(x))


class SimulatorPaysForTheNextState(FixedKernelFollower):
    def simulator(self, x):
        return _PaysForTheNextState(self.model(x))


class SimulatorEndsWhereStatesAbsorb(FixedKernelFollower):
    def simulator(self, x):
        return _EndsWhereStatesAbsorb(self.model(x))


class SimulatorSeedsItself(FixedKernelFollower):
    def simulator(self, x):
        return _SeedsItself(self.model(x))


@attrs.frozen(eq=False)
class SimulatorKeepsItsGenerator(FixedKernelFollower):
    """One simulator for all calls at one x, which draws on from the first call's generator."""

    kept: dict[bytes, Any] = attrs.field(factory=dict)

    def simulator(self, x):
        return self.kept.setdefault(x.tobytes(), _KeepsItsGenerator(self.model(x)))


# Leaders.


class PolicyGradientTwice(PolicyLeader):
    def by_policy(self, x, policy):
        return 2.0 * super().by_policy(x, policy)


class PolicyGradientWithoutTheCross(PolicyLeader):
    """Forgets the term that has both x and π."""

    def by_policy(self, x, policy):
        return POLICY_WEIGHTS * (policy - POLICY_TARGET)


class XGradientMissing(PolicyLeader):
    def by_x(self, x, policy):
        return np.zeros_like(x)


class XGradientWithoutTheCross(PolicyLeader):
    def by_x(self, x, policy):
        return x.copy()


class LeaderMutatesThePolicy(PolicyLeader):
    def by_policy(self, x, policy):
        gradient = super().by_policy(x, policy)
        written(policy, np.clip(policy, 0.1, 0.9))
        return gradient


@attrs.frozen(eq=False)
class LeaderRemembers(PolicyLeader):
    """Moves its target towards the policies that it sees."""

    target: bl.Array = attrs.field(factory=POLICY_TARGET.copy)

    def value_and_gradients(self, x, policy):
        value, by_x, by_policy = super().value_and_gradients(x, policy)
        shift = self.target - POLICY_TARGET
        self.target[...] = 0.9 * self.target + 0.1 * policy
        return value + float((shift * policy).sum()), by_x, by_policy + shift


class LossGradientNotAveraged(TrajectoryLeader):
    def averaged(self, costs):
        return float(costs.sum())


class LossGradientOfTheFirstGroup(TrajectoryLeader):
    def averaged(self, costs):
        return float(costs[0])


class LossGradientOfAnotherSign(TrajectoryLeader):
    def averaged(self, costs):
        return -float(costs.mean())


# Feasible sets, starts and measures.


@attrs.frozen
class HalfWay:
    """Goes only half of the way back into the ball."""

    def project(self, x: bl.Array) -> bl.Array:
        return 0.5 * (x + bl.problems.Ball(1.0).project(x))


@attrs.frozen
class OntoTheSphere:
    """Pushes what is inside of the ball out to its surface."""

    def project(self, x: bl.Array) -> bl.Array:
        length = float(np.linalg.norm(x))
        return x / length if length else x


@attrs.frozen
class SimplexByDivision:
    """Lands on the simplex, and is idempotent, but not at the nearest point."""

    def project(self, x: bl.Array) -> bl.Array:
        positive = np.maximum(x, 0.0)
        total = positive.sum()
        return positive / total if total > 0 else np.full(x.size, 1.0 / x.size)


@attrs.frozen
class ProjectsInPlace:
    def project(self, x: bl.Array) -> bl.Array:
        written(x, np.clip(x, -0.25, 0.25))
        return x


def far_start() -> bl.BilevelProblem:
    return judged_by_policy(start=np.full(DIMENSION, 10.0))


def start_from_entropy() -> bl.BilevelProblem:
    return judged_by_policy(start=lambda rng: 0.1 * np.random.default_rng().normal(size=DIMENSION))


def start_of_another_length() -> bl.BilevelProblem:
    return judged_by_policy(start=lambda rng: np.zeros(DIMENSION + 1))


def measures_nan() -> bl.BilevelProblem:
    return judged_by_policy(measures=lambda x, solution: {"ratio": float("nan")})


def measures_infinity() -> bl.BilevelProblem:
    return judged_by_policy(measures=lambda x, solution: {"length": 1.0, "ratio": float("inf")})


def measures_an_array() -> bl.BilevelProblem:
    return judged_by_policy(measures=lambda x, solution: {"policy": solution.policy[:, 0]})
