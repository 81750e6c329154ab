"""Followers whose observations are no indices: gradients against exact answers, and tables in disguise."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl

# A correct estimate fails one comparison at this many standard errors in fewer than one of 10⁶ choices of seeds.
DEVIATIONS = 5.5
DISCOUNT, TEMPERATURE = 0.5, 0.5

# --- a point mass in the plane ---------------------------------------------------------------------------------------

PUSHES = np.array([[0.4, 0.1], [-0.3, 0.3], [0.0, -0.5]])
STARTS = np.array([[0.0, 0.0], [0.3, -0.2]])
LIMIT = 0.75
X = np.array([0.7, -0.4, 1.1, 0.3])


@attrs.frozen
class Plane:
    """`Gymnasium`'s idea of a space, in three members."""

    shape: tuple[int, ...] = (2,)
    dtype: Any = np.float64

    def contains(self, value: Any) -> bool:
        return np.shape(value) == self.shape


class LinearSoftmax:
    """`π(a|o) ∝ exp(o·θ_a + b_a)` over three actions."""

    weights = np.array([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]])
    biases = np.array([0.1, 0.0, -0.2])

    def _log(self, observations: Any) -> Any:
        logits = observations @ self.weights + self.biases
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        return np.take_along_axis(self._log(observations), np.asarray(actions)[:, None], axis=1)[:, 0]

    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        below = np.exp(self._log(observations)).cumsum(axis=1)[:, :-1] <= rng.random((len(observations), 1))
        return below.sum(axis=1)


def features(observations: Any, actions: Any) -> Any:
    """φ(o, a) (N, 4)."""
    pushed = PUSHES[actions]
    return np.stack(
        [observations[:, 0], observations[:, 1] ** 2, (observations * pushed).sum(axis=1), pushed[:, 1]], axis=1
    )


def moved(observation: Any, action: int) -> tuple[Any, bool]:
    """Where the mass is after a push; a push that would carry it over the limit ends the episode, on the spot."""
    after = 0.9 * observation + PUSHES[action]
    over = abs(after[0]) > LIMIT
    return (observation, True) if over else (after, False)


class PointMass:
    """The whole simulator: `reset`, `step`, `rollout`, `rollout_from`. What follows an end is paid in full.

    Args:
        rewards: a function of observations and actions.
    """

    spec = bl.sampling.FollowerSpec(Plane(), bl.sampling.Discrete(3), DISCOUNT, TEMPERATURE)

    def __init__(self, rewards: Any) -> None:
        self._rewards = rewards

    def reset(self, count: int, rng: np.random.Generator) -> Any:
        self._put(STARTS[rng.integers(2, size=count)])
        return self._here.copy()

    def _put(self, observations: Any) -> None:
        self._here, self._ended = np.array(observations), np.zeros(len(observations), dtype=bool)

    def step(self, actions: Any, rng: np.random.Generator) -> bl.sampling.Step:
        rewards = self._rewards(self._here, actions)
        for index, action in enumerate(actions):
            if not self._ended[index]:
                self._here[index], self._ended[index] = moved(self._here[index], action)
        return bl.sampling.Step(self._here.copy(), rewards, self._ended.copy(), np.ones(len(actions)))

    def rollout(self, policy: Any, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return bl.sampling.rollout_by_steps(self, policy, count, horizon, rng)

    def rollout_from(self, states: Any, actions: Any, policy: Any, horizon: int, rng: Any) -> bl.sampling.Trajectories:
        inner = self

        class Started:
            def reset(self, count: int, rng: np.random.Generator) -> Any:
                inner._put(states)
                return np.array(states)

            def step(self, chosen: Any, rng: np.random.Generator) -> Any:
                return inner.step(chosen, rng)

        class First:
            begun = actions is None

            def sample(self, observations: Any, rng: np.random.Generator) -> Any:
                drawn, begun, self.begun = policy.sample(observations, rng), self.begun, True
                return drawn if begun else actions

            def log_probabilities(self, observations: Any, chosen: Any) -> Any:
                return policy.log_probabilities(observations, chosen)

        return bl.sampling.rollout_by_steps(Started(), First(), len(states), horizon, rng)


REWARDS = bl.parametric.FeatureReward(features, 4)
HORIZON, TRUNCATION = 3, 4


def mass_problem(objective: Any = None, world: Any = PointMass) -> bl.BilevelProblem:
    lower = bl.parametric.SampledMDP(world, REWARDS)
    if objective is None:
        objective = bl.objectives.TrajectoryReturnObjective(REWARDS, HORIZON, 0.9)
    return bl.BilevelProblem(lower, objective, name="point mass")


@functools.cache
def action_gradient(place: tuple[float, float], action: int, steps: int) -> Any:
    """`∇Q` (4,) of so many steps, by going through all that can happen."""
    observation = np.array(place)
    gradient = features(observation[None], np.array([action]))[0]
    after, ended = moved(observation, action)
    if ended or steps == 1:
        return gradient
    chances = np.exp(LinearSoftmax()._log(after))
    further = sum(chance * action_gradient(tuple(after), b, steps - 1) for b, chance in enumerate(chances))
    return gradient + DISCOUNT * further


def exact_parts(truncation: int) -> tuple[Any, Any]:
    """`E[∂l/∂x]` and `τ⁻¹ E[l Σ_h (∇Q − ∇V)(o_h, a_h)]` of T steps, by going through all trajectories."""
    direct, implicit = np.zeros(4), np.zeros(4)
    for start, choices in itertools.product(STARTS, itertools.product(range(3), repeat=HORIZON)):
        chance, loss, slope, score, here = 1.0 / len(STARTS), 0.0, np.zeros(4), np.zeros(4), start
        ended = False
        for h, action in enumerate(choices):
            probabilities = np.exp(LinearSoftmax()._log(here))
            chance *= probabilities[action]
            if ended:
                continue
            step = features(here[None], np.array([action]))[0]
            loss -= 0.9**h * step @ X
            slope -= 0.9**h * step
            by_action = np.array([action_gradient(tuple(here), b, truncation) for b in range(3)])
            score += by_action[action] - probabilities @ by_action
            here, ended = moved(here, action)
        direct += chance * slope
        implicit += chance * loss * score / TEMPERATURE
    return direct, implicit


def estimate(problem: bl.BilevelProblem, policy: Any, x: Any, **options: Any) -> bl.HyperGradient:
    chosen = {"groups": 256, "truncation": TRUNCATION, "restarts": True, "baseline": True, "blocks": 16}
    return bl.sampling.trajectory_gradient(
        problem, x, policy, bl.randomness.stream(0, "it"), label="it", common_random_numbers=False, **chosen | options
    )


@pytest.mark.parametrize("reward_to_go", [False, True])
def test_the_point_mass_s_gradient_is_that_of_all_its_trajectories(reward_to_go):
    direct, implicit = exact_parts(TRUNCATION)
    hyper = estimate(mass_problem(), LinearSoftmax(), X, groups=6000, blocks=60, reward_to_go=reward_to_go)
    error = hyper.gradient - (direct + implicit)
    assert (np.abs(error) < DEVIATIONS * hyper.standard_error).all()
    # The test has teeth: an implicit part of the other sign, or none, fails it.
    assert (np.abs(implicit) > 2 * DEVIATIONS * hyper.standard_error).any()
    occupancy = hyper.occupancy
    assert isinstance(occupancy, bl.occupancy.SampledOccupancy)
    pulled = mass_problem().lower.pullback(X, occupancy)
    assert pulled == pytest.approx(hyper.implicit, rel=1e-9, abs=1e-12)


def test_geometric_lengths_have_the_limit_as_their_mean():
    """γ is a half: what lies beyond six steps is about as much as the sixth one adds."""
    (direct, shorter), (_, implicit) = exact_parts(5), exact_parts(6)
    hyper = estimate(mass_problem(), LinearSoftmax(), X, groups=4000, blocks=60, truncation=None)
    rest = np.abs(implicit - shorter)
    assert (np.abs(hyper.gradient - direct - implicit) < DEVIATIONS * hyper.standard_error + rest).all()


class NeverEnds(PointMass):
    """The end of an episode is kept secret: what follows it then counts."""

    def step(self, actions: Any, rng: np.random.Generator) -> bl.sampling.Step:
        step = super().step(actions, rng)
        return attrs.evolve(step, terminated=np.zeros_like(step.terminated))


def test_what_follows_a_termination_counts_nowhere():
    """Its rewards are not zero here, so that whoever counts them is found out."""
    hyper = estimate(mass_problem(world=NeverEnds), LinearSoftmax(), X, groups=6000, blocks=60)
    direct, implicit = exact_parts(TRUNCATION)
    assert (np.abs(hyper.gradient - direct - implicit) > 2 * DEVIATIONS * hyper.standard_error).any()
    paths = PointMass(bl.parametric.RewardAt(REWARDS, X)).rollout(
        LinearSoftmax(), 400, 5, bl.randomness.stream(1, "it")
    )
    ends = paths.terminated & paths.alive()
    assert (ends.sum(axis=1) <= 1).all()
    assert ends.any()
    first = np.where(paths.terminated.any(axis=1), paths.terminated.argmax(axis=1) + 1, 5)
    assert paths.samples == first.sum()
    returns = bl.objectives.TrajectoryReturnObjective(REWARDS, 5).loss_and_gradient(X, paths, None)[0]
    own = [-paths.rewards[i, : first[i]].sum() for i in range(400)]
    assert returns == pytest.approx(np.array(own))


def test_preferences_on_the_point_mass_have_the_gradient_of_their_loss():
    labeller = bl.objectives.RewardLabeller(lambda seen, taken: seen[:, 0] - taken, noisy=False)
    objective = bl.objectives.PreferenceObjective(REWARDS, labeller, 4, 0.9)
    paths = PointMass(bl.parametric.RewardAt(REWARDS, X)).rollout(LinearSoftmax(), 60, 4, bl.randomness.stream(1, "it"))
    losses, gradient = objective.loss_and_gradient(X, paths, bl.randomness.stream(2, "it"))
    assert losses.shape == (30,)

    def mean(x: Any) -> float:
        return float(objective.loss_and_gradient(x, paths, bl.randomness.stream(2, "it"))[0].mean())

    slopes = [(mean(X + step) - mean(X - step)) / 2e-6 for step in 1e-6 * np.eye(4)]
    # Central differences of a loss of order one: rounding of 1e-16/1e-6.
    assert gradient == pytest.approx(np.array(slopes), abs=1e-8)
    pair = [paths.part(slice(first, None, 2)) for first in (0, 1)]
    pairs = bl.objectives.PreferenceDataset(*pair, labeller(*pair, bl.randomness.stream(2, "it")))
    value, fixed, _ = bl.objectives.PreferenceDatasetObjective(REWARDS, pairs, 0.9).value_and_gradients(X, np.ones(1))
    assert value == pytest.approx(losses.mean())
    assert fixed == pytest.approx(gradient)
    with pytest.raises(
        bl.InputError, match="is of episodes that terminate; expected trajectories without terminations"
    ):
        pairs.arrays()


def test_what_follows_an_end_is_in_no_return_of_a_table():
    paths = bl.sampling.Trajectories(
        np.array([[0, 1, 1, 1], [1, 0, 1, 1]]),
        np.array([[0, 1, 1], [1, 0, 1]]),
        np.zeros((2, 3)),
        terminated=np.array([[False, True, True], [False, False, False]]),
    )
    rewards = bl.parametric.TabularReward(np.zeros((2, 2)))
    x, none = np.array([1.0, 2.0, 3.0, 4.0]), np.random.default_rng(0)
    objective = bl.objectives.TrajectoryReturnObjective(rewards, 3, 0.5)
    losses, gradient = objective.loss_and_gradient(x, paths, none)
    assert losses.tolist() == [-(1.0 + 0.5 * 4.0), -(4.0 + 0.5 * 1.0 + 0.25 * 4.0)]
    assert gradient.tolist() == [-0.75, 0.0, 0.0, -0.875]
    fixed = bl.objectives.TrajectoryReturnObjective(x.reshape(2, 2), 3, 0.5)
    assert fixed.loss_and_gradient(x, paths, none)[0].tolist() == losses.tolist()
    preference = bl.objectives.PreferenceObjective(rewards, lambda first, second, rng: np.zeros(1), 3, 0.5)
    loss, slope = preference.loss_and_gradient(x, paths, none)
    margin = losses[1] - losses[0]
    assert loss == pytest.approx([np.logaddexp(0.0, margin)])
    difference = np.array([1.0 - 0.5, 0.0, 0.0, 0.5 - 1.25])
    assert slope == pytest.approx(difference / (1.0 + np.exp(-margin)))


# --- continuous actions ----------------------------------------------------------------------------------------------


class Bandit:
    """One observation, one step that counts (γ = 0), real actions."""

    spec = bl.sampling.FollowerSpec(Plane((1,)), Plane(()), 0.0, TEMPERATURE)

    def __init__(self, rewards: Any) -> None:
        self._rewards = rewards

    def reset(self, count: int, rng: np.random.Generator) -> Any:
        return np.zeros((count, 1))

    def step(self, actions: Any, rng: np.random.Generator) -> bl.sampling.Step:
        here = np.zeros((len(actions), 1))
        return bl.sampling.Step(here, self._rewards(here, actions), np.zeros(len(actions), dtype=bool))

    def rollout(self, policy: Any, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return bl.sampling.rollout_by_steps(self, policy, count, horizon, rng)

    def rollout_from(self, states: Any, actions: Any, policy: Any, horizon: int, rng: Any) -> bl.sampling.Trajectories:
        paths = self.rollout(policy, len(states), horizon, rng)
        if actions is None:
            return paths
        return attrs.evolve(paths, actions=np.concatenate([actions[:, None], paths.actions[:, 1:]], axis=1))


@attrs.frozen
class Normal:
    mean: float
    deviation: float

    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        return self.mean + self.deviation * rng.standard_normal(len(observations))

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        return -(((actions - self.mean) / self.deviation) ** 2) / 2 - np.log(self.deviation * np.sqrt(2 * np.pi))


def test_real_actions_give_the_covariance_of_loss_and_features():
    """`r = x₁a + x₂a²`, `l = −r`: the implicit part is `−Cov(r, (a, a²))/τ`, of a normal's moments."""
    rewards = bl.parametric.FeatureReward(lambda seen, taken: np.stack([taken, taken**2], axis=1), 2)
    problem = bl.BilevelProblem(
        bl.parametric.SampledMDP(Bandit, rewards), bl.objectives.TrajectoryReturnObjective(rewards, 1)
    )
    x, m, s = np.array([0.5, -0.3]), 0.4, 0.7
    cross = 2 * m * s**2
    covariance = np.array([[s**2, cross], [cross, 4 * m**2 * s**2 + 2 * s**4]])
    exact = -np.array([m, m**2 + s**2]) - covariance @ x / TEMPERATURE
    for truncation in (1, None):
        hyper = estimate(problem, Normal(m, s), x, groups=20_000, blocks=50, truncation=truncation)
        assert (np.abs(hyper.gradient - exact) < DEVIATIONS * hyper.standard_error).all()


# --- tables in disguise ----------------------------------------------------------------------------------------------


class Recorded:
    """A tabular simulator that only records: it offers restarts, and adds up nothing."""

    def __init__(self, mdp: bl.SoftMDP) -> None:
        self._inner = bl.sampling.TabularSimulator(mdp)
        self.spec = self._inner.spec
        self.reset, self.step = self._inner.reset, self._inner.step
        self.rollout, self.rollout_from = self._inner.rollout, self._inner.rollout_from


class Disguised:
    """A tabular world that shows one-hot vectors, and takes them to restart from."""

    def __init__(self, mdp: bl.SoftMDP, rewards: Any) -> None:
        self._inner, self._rewards = bl.sampling.TabularSimulator(mdp), rewards
        self._eye = np.eye(mdp.states)
        self.spec = attrs.evolve(self._inner.spec, observation_space=Plane((mdp.states,)))

    def reset(self, count: int, rng: np.random.Generator) -> Any:
        raise AssertionError("trajectories are drawn by rollout")

    step = reset

    def _shown(self, paths: bl.sampling.Trajectories) -> bl.sampling.Trajectories:
        seen = self._eye[paths.observations]
        flat = seen[:, :-1].reshape(-1, self._eye.shape[0]), paths.actions.reshape(-1)
        return attrs.evolve(paths, observations=seen, rewards=self._rewards(*flat).reshape(paths.actions.shape))

    def rollout(self, policy: Any, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return self._shown(self._inner.rollout(policy.table, count, horizon, rng))

    def rollout_from(self, states: Any, actions: Any, policy: Any, horizon: int, rng: Any) -> bl.sampling.Trajectories:
        return self._shown(self._inner.rollout_from(states.argmax(axis=1), actions, policy.table, horizon, rng))


@attrs.frozen(eq=False)
class OfVectors:
    """A table as a policy of one-hot vectors."""

    table: bl.Array

    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        return bl.sampling.TabularPolicy(self.table).sample(observations.argmax(axis=1), rng)

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        return np.log(self.table[observations.argmax(axis=1), actions])


@attrs.frozen(eq=False)
class TableOfVectors:
    """A `ParametricArray` as an `ObservationReward` of one-hot vectors."""

    table: Any

    @property
    def dimension(self) -> int:
        return int(self.table.dimension)

    def reward(self, x: Any, observations: Any, actions: Any) -> Any:
        return self.table(x)[observations.argmax(axis=1), actions]

    def pullback(self, x: Any, observations: Any, actions: Any, weights: Any) -> Any:
        sums = np.zeros(self.table(x).shape)
        np.add.at(sums, (observations.argmax(axis=1), actions), weights)
        return self.table.pullback(x, sums)


class Case:
    """A random MDP with linear rewards, as a table and in disguise."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.states, self.actions, n = int(rng.integers(3, 7)), int(rng.integers(2, 4)), 3
        kernel = rng.dirichlet(np.ones(self.states), size=(self.states, self.actions))
        kernel[0] = np.eye(self.states)[0]  # an absorbing state, which pays on
        self.rewards = bl.parametric.LinearReward(
            rng.normal(size=(self.states, self.actions)), rng.normal(size=(self.states, self.actions, n))
        )
        discount, temperature = float(rng.uniform(0.3, 0.85)), float(rng.uniform(0.5, 1.5))
        initial = rng.dirichlet(np.ones(self.states))
        self.lower = bl.ParametricMDP(kernel, self.rewards, discount, temperature, initial)
        self.x = 0.5 * rng.normal(size=n)
        self.judge = bl.SoftMDP(kernel, rng.normal(size=(self.states, self.actions)), 0.9, 1.0, initial)

    def tabular(self, objective: Any) -> bl.BilevelProblem:
        mdp = self.lower.model(self.x)
        lower = bl.parametric.SampledMDP(lambda rewards: Recorded(mdp.replace(rewards=rewards)), self.rewards)
        return bl.BilevelProblem(lower, objective)

    def disguised(self, objective: Any) -> bl.BilevelProblem:
        mdp = self.lower.model(self.x)
        lower = bl.parametric.SampledMDP(lambda rewards: Disguised(mdp, rewards), TableOfVectors(self.rewards))
        return bl.BilevelProblem(lower, objective)

    def policy(self) -> bl.Array:
        solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-12)
        exact = bl.BilevelProblem(self.lower, bl.objectives.QuadraticObjective())
        return solver.solve(exact, self.x, None, np.random.default_rng(0)).policy


@pytest.mark.parametrize("truncation", [6, None])
@pytest.mark.parametrize("seed", range(4))
def test_a_table_in_disguise_gives_the_table_s_gradient_from_the_same_random_numbers(seed, truncation):
    case = Case(seed)
    disguise = TableOfVectors(case.rewards)
    objectives = {
        "return": [bl.objectives.TrajectoryReturnObjective(rewards, 5, 0.9) for rewards in (case.rewards, disguise)],
        "preference": [
            bl.objectives.PreferenceObjective(rewards, bl.objectives.RewardLabeller(hidden), 5, 0.9)
            for rewards, hidden in (
                (case.rewards, case.judge.rewards),
                (disguise, lambda seen, taken: case.judge.rewards[seen.argmax(axis=1), taken]),
            )
        ],
    }
    policy = case.policy()
    for open_objective, hidden_objective in objectives.values():
        options = {"groups": 64, "truncation": truncation}
        by_table = estimate(case.tabular(open_objective), policy, case.x, **options)
        by_vectors = estimate(case.disguised(hidden_objective), OfVectors(policy), case.x, **options)
        assert by_vectors.objective == pytest.approx(by_table.objective, rel=1e-12)
        for part in ("direct", "implicit", "standard_error"):
            # Sums of the same terms in another order.
            assert getattr(by_vectors, part) == pytest.approx(getattr(by_table, part), rel=1e-9, abs=1e-11)
        assert by_vectors.cost.samples == by_table.cost.samples


@attrs.frozen(eq=False)
class Judge:
    """The leader's own reward, which does not depend on x, as an `ObservationReward` of one-hot vectors."""

    table: bl.Array
    dimension: int

    def reward(self, x: Any, observations: Any, actions: Any) -> Any:
        return self.table[observations.argmax(axis=1), actions]

    def pullback(self, x: Any, observations: Any, actions: Any, weights: Any) -> Any:
        return np.zeros(self.dimension)


@pytest.mark.parametrize("seed", range(10, 15))
def test_a_table_in_disguise_has_the_exact_hypergradient_as_its_mean(seed):
    case, horizon = Case(seed), 4
    exact = bl.BilevelProblem(case.lower, bl.objectives.FiniteHorizonReturnObjective(case.judge, horizon))
    value, gradient = bl.value_and_gradient(exact, case.x)
    leader = bl.objectives.TrajectoryReturnObjective(Judge(case.judge.rewards, case.x.size), horizon, 0.9)
    options = {"groups": 4000, "blocks": 40, "truncation": None}
    hyper = estimate(case.disguised(leader), OfVectors(case.policy()), case.x, **options)
    assert (np.abs(hyper.gradient - gradient) < DEVIATIONS * hyper.standard_error).all()
    assert np.isfinite(value)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_estimators_run_on_observations_and_say_what_they_cannot_do():
    case = Case(1)
    leader = bl.objectives.TrajectoryReturnObjective(TableOfVectors(case.rewards), 5, 0.9)
    problem, policy = case.disguised(leader), OfVectors(case.policy())
    solution = attrs.make_class("Answer", ["policy"])(policy)
    for name in ("sobirl", "stoc-sobirl", "hpgd"):
        estimator = bl.hypergradient_estimator(name)
        hyper = estimator.estimate(problem, case.x, solution, None, bl.randomness.stream(0, "it"))
        assert np.isfinite(hyper.gradient).all()
    without = bl.hypergradient_estimator("sobirl", restarts=False)
    with pytest.raises(bl.IncompatibleError, match=r"'sobirl' with restarts=False needs a reward that is a table"):
        without.estimate(problem, case.x, solution, None, bl.randomness.stream(0, "it"))
    with pytest.raises(bl.InputError, match=r"the follower's observation_space is Plane.*; expected Discrete\(n\)"):
        bl.lower_level_solver("soft-q-learning").solve(problem, case.x, None, bl.randomness.stream(0, "it"))


def test_a_table_as_occupancy_is_refused_where_rewards_are_of_observations():
    lower = mass_problem().lower
    assert lower.occupancy_forms == (bl.occupancy.SampledOccupancy,)
    with pytest.raises(bl.InputError, match="occupancy is a DenseOccupancy; expected a SampledOccupancy"):
        lower.pullback(X, bl.occupancy.DenseOccupancy(np.zeros((3, 3))))
    nothing = bl.occupancy.SampledOccupancy(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0))
    assert lower.pullback(X, nothing).tolist() == [0.0] * 4
    with pytest.raises(bl.InputError, match=r"occupancy\.observations is an array of float64 of shape \(0, 2\)"):
        nothing.dense(3, 3)


def test_forms_of_occupancy_that_do_not_meet_are_refused_in_one_sentence():
    dense, sampled = bl.occupancy.DenseOccupancy, bl.occupancy.SampledOccupancy
    bl.occupancy.check_occupancy_forms("estimator 'a'", (dense, sampled), "p", (sampled,))
    bl.occupancy.check_occupancy_forms("estimator 'a'", (), "p", (sampled,))
    with pytest.raises(bl.IncompatibleError) as caught:
        bl.occupancy.check_occupancy_forms("estimator 'a'", (dense,), "p", (sampled,))
    assert str(caught.value).startswith(
        "estimator 'a' produces its occupancy as a table (S, A); the lower level of problem 'p' takes weighted samples"
    )


def test_spaces_and_policies_that_are_none_are_refused():
    with pytest.raises(bl.InputError, match=r"^FollowerSpec\.observation_space is 3; expected a space of arrays"):
        bl.sampling.FollowerSpec(3, bl.sampling.Discrete(2), 0.9, 1.0)
    with pytest.raises(bl.InputError, match=r"^policy is a str; expected an array \(S, A\) or a Policy"):
        bl.sampling.as_policy("softmax")
    space = bl.sampling.Discrete(3)
    assert [space.contains(value) for value in (0, 2, np.int64(1), 3, -1, 1.0, True)] == [True] * 3 + [False] * 4
    assert isinstance(space, bl.sampling.Space)
    assert isinstance(LinearSoftmax(), bl.Policy)
    table = np.array([[0.25, 0.75], [1.0, 0.0]])
    acting = bl.sampling.as_policy(table)
    assert acting.log_probabilities(np.array([0, 1, 1]), np.array([1, 0, 1])).tolist() == [np.log(0.75), 0.0, -np.inf]
    drawn = acting.sample(np.repeat([0, 1], 5000), bl.randomness.stream(0, "it"))
    assert not drawn[5000:].any()
    assert abs(drawn[:5000].mean() - 0.75) < DEVIATIONS * np.sqrt(0.25 * 0.75 / 5000)
