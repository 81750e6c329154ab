"""`GymnasiumWorld` plays environments through `reset` and `step` alone, and samples what their tables say."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.stats

import bilevelrl as bl

# A correct sampler fails one of the chi-square tests below (six) in fewer than one of 10⁶ choices of seeds.
LEVEL = 1e-6 / 10
NAMES: dict[str, dict[str, Any]] = {"FrozenLake": {}, "Taxi": {}, "CliffWalking": {"is_slippery": True}}


class StepOnly:
    """An environment's `reset`, `step` and spaces; whoever looks further is told off."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.reset, self.step = env.reset, env.step

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the world looked at {name!r}")

    def __str__(self) -> str:
        return "<StepOnly>"


def installed(name: str) -> str:
    """The environment's newest version that this Gymnasium has."""
    return max(known for known in gymnasium.registry if known.rsplit("-v", 1)[0] == name)


def make(name: str) -> Any:
    return gymnasium.make(installed(name), max_episode_steps=-1, disable_env_checker=True, **NAMES[name])


def world(name: str, **options: Any) -> bl.integrations.GymnasiumWorld:
    return bl.integrations.GymnasiumWorld(lambda: StepOnly(make(name)), 0.9, 0.5, **options)


def simulator(name: str, **options: Any) -> Any:
    lake = world(name, **options)
    return lake(np.random.default_rng(3).normal(size=(lake.spec.states, lake.spec.actions)))


def uniform(spec: bl.sampling.FollowerSpec) -> bl.Array:
    return np.full((spec.states, spec.actions), 1.0 / spec.actions)


def same(left: bl.sampling.Trajectories, right: bl.sampling.Trajectories) -> bool:
    names = ("observations", "actions", "rewards", "environment_rewards", "terminated")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_trajectories_do_not_depend_on_the_number_of_environments(name):
    paths = []
    for environments in (1, 8):
        acting = simulator(name, environments=environments)
        paths.append(acting.rollout(uniform(acting.spec), 20, 15, bl.randomness.stream(1, "simulator")))
    assert same(*paths)
    assert len({row.tobytes() for row in paths[0].actions}) == 20


def test_the_first_trajectories_do_not_depend_on_how_many_others_there_are():
    acting = simulator("FrozenLake")
    few, many = (
        acting.rollout(uniform(acting.spec), count, 9, bl.randomness.stream(1, "simulator")) for count in (5, 50)
    )
    assert same(few, many.part(slice(5)))


def test_trajectories_do_not_depend_on_what_was_sampled_before():
    acting, fresh = simulator("FrozenLake"), simulator("FrozenLake")
    acting.rollout(uniform(acting.spec), 7, 9, bl.randomness.stream(2, "simulator"))
    paths = [one.rollout(uniform(one.spec), 12, 9, bl.randomness.stream(1, "simulator")) for one in (acting, fresh)]
    assert same(*paths)


def test_rewards_are_the_table_s_and_the_environment_s_are_kept_beside_them():
    lake = world("FrozenLake")
    rewards = np.random.default_rng(3).normal(size=(16, 4))
    paths = lake(rewards).rollout(uniform(lake.spec), 300, 30, bl.randomness.stream(1, "simulator"))
    paid = np.where(paths.alive(), rewards[paths.observations[:, :-1], paths.actions], 0.0)
    assert np.array_equal(paths.rewards, paid)
    assert not paths.alive().all()
    arrived = (paths.observations[:, 1:] == 15) & (paths.observations[:, :-1] != 15)
    assert arrived.any()
    assert np.array_equal(paths.environment_rewards, arrived.astype(float))


def test_what_follows_a_termination_is_padding():
    acting = simulator("FrozenLake")
    paths = acting.rollout(uniform(acting.spec), 100, 40, bl.randomness.stream(1, "simulator"))
    terminal = np.isin(paths.observations, (5, 7, 11, 12, 15))
    assert terminal.any()
    assert np.array_equal(paths.observations[:, 1:][terminal[:, :-1]], paths.observations[:, :-1][terminal[:, :-1]])
    assert np.array_equal(paths.terminated, terminal[:, 1:])
    assert paths.samples == (~terminal[:, :-1]).sum()


def test_stepping_ends_in_the_terminal_state_and_stays_there():
    acting, rng = simulator("FrozenLake"), bl.randomness.stream(1, "simulator")
    assert acting.reset(30, rng).tolist() == [0] * 30
    ended, where = np.zeros(30, dtype=bool), np.zeros(30, dtype=int)
    for _ in range(60):
        step = acting.step(rng.integers(4, size=30), rng)
        assert np.array_equal(step.terminated, np.isin(step.observations, (5, 7, 11, 12, 15)))
        assert np.array_equal(step.observations[ended], where[ended])
        ended, where = step.terminated, step.observations
    assert ended.any()


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_is_that_of_the_published_table(name):
    """(s_1, s_H) against the table's chain, exactly; and `TabularSimulator` of the table passes the same test."""
    mdp = bl.integrations.from_gymnasium(make(name), discount=0.9, temperature=0.5)
    count, horizon = (1500, 4) if name == "Taxi" else (4000, 6)
    acting = uniform(simulator(name).spec)
    chain = mdp.transitions.under(acting)
    chain = chain.toarray() if hasattr(chain, "toarray") else np.asarray(chain)
    expected = mdp.initial @ np.linalg.matrix_power(chain, horizon)
    # Taxi's table has 500 states: pool them in groups, or no cell is expected often enough.
    groups = np.arange(mdp.states) % 20 if mdp.states > 50 else np.arange(mdp.states)
    for sampler in (simulator(name), bl.sampling.TabularSimulator(mdp)):
        last = sampler.rollout(acting, count, horizon, bl.randomness.stream(21, name)).observations[:, -1]
        assert expected[last].min() > 0
        counts, wanted = np.bincount(groups[last]), count * np.bincount(groups, weights=expected)
        counts = np.append(counts, np.zeros(wanted.size - counts.size))
        kept = wanted >= 8
        statistic = ((counts - wanted)[kept] ** 2 / wanted[kept]).sum()
        if not kept.all():
            statistic += (counts[~kept].sum() - wanted[~kept].sum()) ** 2 / max(wanted[~kept].sum(), 1e-9)
        freedom = kept.sum() - 1 + (not kept.all())
        assert scipy.stats.chi2.sf(statistic, freedom) > LEVEL


def test_environments_beyond_the_pool_are_made_at_need_only():
    made = []

    def count_and_make() -> Any:
        made.append(1)
        return StepOnly(make("FrozenLake"))

    lake = bl.integrations.GymnasiumWorld(count_and_make, 0.9, 0.5, environments=3)
    assert len(made) == 1
    acting = lake(np.zeros((16, 4)))
    acting.rollout(uniform(lake.spec), 2, 2, bl.randomness.stream(1, "simulator"))
    assert len(made) == 2
    acting.rollout(uniform(lake.spec), 50, 2, bl.randomness.stream(1, "simulator"))
    assert len(made) == 3


def test_a_world_makes_a_sampled_mdp():
    rewards = bl.parametric.TabularReward(np.zeros((16, 4)))
    lower = bl.parametric.SampledMDP(world("FrozenLake"), rewards)
    acting = lower.simulator(np.arange(64.0))
    assert isinstance(acting, bl.sampling.Simulator)
    assert not isinstance(acting, bl.sampling.SupportsRestart)
    paths = acting.rollout(uniform(acting.spec), 3, 2, bl.randomness.stream(1, "simulator"))
    assert np.array_equal(paths.rewards, paths.observations[:, :-1] * 4 + paths.actions)


# --- observations and actions of any shape --------------------------------------------------------------------------


class Leaning:
    """Pushes the cart towards where the pole leans, with noise."""

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        return -np.logaddexp(0.0, np.where(actions == 1, -1.0, 1.0) * 20.0 * observations[:, 2])

    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        chances = np.exp(self.log_probabilities(observations, np.ones(len(observations))))
        return (rng.random(len(observations)) < chances).astype(np.int64)


def angle_reward(observations: Any, actions: Any) -> Any:
    return -np.abs(observations[:, 2]) + 0.1 * actions


def pole(**options: Any) -> bl.integrations.GymnasiumWorld:
    return bl.integrations.GymnasiumWorld(
        lambda: gymnasium.make("CartPole-v1", max_episode_steps=-1, disable_env_checker=True), 0.9, 0.5, **options
    )


def test_box_observations_are_played_and_paid_by_a_function_of_observations():
    simulator = pole()(angle_reward)
    paths = simulator.rollout(Leaning(), 12, 60, bl.randomness.stream(1, "simulator"))
    assert isinstance(simulator, bl.sampling.Simulator)
    assert (paths.observations.shape, paths.observations.dtype) == ((12, 61, 4), np.float32)
    ended = np.abs(paths.observations[:, 1:, 2]) > 0.2095
    assert np.array_equal(paths.terminated, np.logical_or.accumulate(ended, axis=1))
    assert paths.terminated.any()
    seen, taken = paths.observations[:, :-1].reshape(-1, 4), paths.actions.reshape(-1)
    assert np.array_equal(paths.rewards, paths.lived(angle_reward(seen, taken).reshape(12, 60)))
    assert np.array_equal(paths.environment_rewards, paths.alive().astype(float))
    again = pole()(angle_reward).rollout(Leaning(), 12, 60, bl.randomness.stream(1, "simulator"))
    assert same(paths, again)


class Gaussian:
    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        return rng.normal(size=(len(observations), 1)).astype(np.float32)

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        return scipy.stats.norm.logpdf(actions[:, 0])


def test_continuous_actions_reach_the_environment():
    world = bl.integrations.GymnasiumWorld(lambda: gymnasium.make("Pendulum-v1", max_episode_steps=-1), 0.9, 0.5)
    paths = world(lambda seen, taken: seen[:, 0] * taken[:, 0]).rollout(Gaussian(), 3, 5, bl.randomness.stream(1, "p"))
    assert (paths.actions.shape, paths.observations.shape) == ((3, 5, 1), (3, 6, 3))
    assert np.allclose(paths.rewards, paths.observations[:, :-1, 0] * paths.actions[:, :, 0])
    assert not paths.terminated.any()


def restore(env: Any, state: Any) -> None:
    env.unwrapped.state = np.array(state)


def test_an_environment_with_capture_and_restore_restarts_where_it_was():
    """The pole's physics has no chance in it: the same actions from a captured state lead to the same states."""
    simulator = pole(capture=lambda env: np.array(env.unwrapped.state), restore=restore)(angle_reward)
    assert isinstance(simulator, bl.sampling.SupportsRestart)
    paths = simulator.rollout(Leaning(), 5, 12, bl.randomness.stream(1, "simulator"))
    visit = paths.restart_states[:, 4]
    once = simulator.rollout_from(visit, paths.actions[:, 4], Leaning(), 1, bl.randomness.stream(2, "simulator"))
    assert np.array_equal(once.observations[:, 0], paths.observations[:, 4])
    assert np.array_equal(once.observations[:, 1], paths.observations[:, 5])
    assert np.array_equal(once.rewards[:, 0], paths.rewards[:, 4])
    further = simulator.rollout_from(
        once.restart_states[:, 1], paths.actions[:, 5], Leaning(), 3, bl.randomness.stream(3, "simulator")
    )
    assert np.array_equal(further.observations[:, 1], paths.observations[:, 6])
    with pytest.raises(bl.InputError, match=r"^states is .*; expected states of the trajectories of this simulator$"):
        simulator.rollout_from(paths.observations[:, 4], None, Leaning(), 1, bl.randomness.stream(2, "simulator"))


def test_two_batches_agree_on_the_pole_s_hypergradient():
    """From captured states, with one pullback of weighted samples a block; of four blocks, hence the wide margin."""
    rewards = bl.parametric.FeatureReward(
        lambda seen, taken: np.stack([seen[:, 2] ** 2, seen[:, 2] * (2.0 * taken - 1.0)], axis=1), 2
    )
    world = pole(capture=lambda env: np.array(env.unwrapped.state), restore=restore)
    problem = bl.BilevelProblem(
        bl.parametric.SampledMDP(world, rewards), bl.objectives.TrajectoryReturnObjective(rewards, 4)
    )
    options = {"groups": 40, "truncation": 6, "restarts": True, "baseline": True, "common_random_numbers": True}
    estimates = [
        bl.sampling.trajectory_gradient(
            problem, np.array([-1.0, 0.5]), Leaning(), np.random.default_rng(seed), blocks=4, label="it", **options
        )
        for seed in (1, 2)
    ]
    assert all(isinstance(one.occupancy, bl.occupancy.SampledOccupancy) for one in estimates)
    difference = estimates[0].gradient - estimates[1].gradient
    assert (np.abs(difference) < 8 * np.hypot(*(one.standard_error for one in estimates))).all()
    assert estimates[0].implicit.any()


def test_one_of_capture_and_restore_alone_is_refused():
    with pytest.raises(bl.InputError, match="given one of capture and restore; expected both, or neither"):
        pole(restore=restore)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_a_table_of_continuous_observations_is_refused():
    with pytest.raises(bl.InputError) as caught:
        pole()(np.zeros((4, 2)))
    message = str(caught.value)
    assert message.startswith("the follower's observation_space is Box(")
    assert "expected Discrete(n) starting at 0" in message
    assert "function approximation" in message
    assert "\n" not in message


class Spaces:
    """An environment of which only the spaces are asked."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action


TWO = gymnasium.spaces.Discrete(2)
REFUSED = {
    r"observation_space of Spaces is Tuple\(.*expected a space of arrays.*gymnasium\.wrappers\.FlattenObservation": (
        gymnasium.spaces.Tuple([TWO, TWO]),
        TWO,
    ),
    r"observation_space of Spaces is Dict\(.*gymnasium\.wrappers\.FlattenObservation": (
        gymnasium.spaces.Dict({"a": TWO}),
        TWO,
    ),
    r"action_space of Spaces is Tuple\(.*gymnasium\.wrappers\.TransformAction": (TWO, gymnasium.spaces.Tuple([TWO])),
    r"observation_space of Spaces is Discrete\(2, start=1\); expected Discrete\(n\) starting at 0": (
        gymnasium.spaces.Discrete(2, start=1),
        TWO,
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_spaces_that_are_no_arrays_are_refused_with_the_wrapper_that_helps(sentence):
    with pytest.raises(bl.InputError, match=sentence):
        bl.integrations.GymnasiumWorld(lambda: Spaces(*REFUSED[sentence]), 0.9, 0.5)


class Doctored(StepOnly):
    """FrozenLake with a fault in what `step` returns."""

    def __init__(self, **fault: Any) -> None:
        super().__init__(make("FrozenLake"))
        self._inner, self._fault = self.step, fault
        self.step = self._faulty

    def _faulty(self, action: int) -> Any:
        observation, reward, terminated, truncated, info = self._inner(action)
        reward, truncated = self._fault.get("reward", reward), self._fault.get("truncated", truncated)
        return observation, reward, terminated, truncated, info


FAULTS = {
    "the reward of <StepOnly> is nan; expected a finite number": {"reward": float("nan")},
    "the reward of <StepOnly> is inf; expected a finite number": {"reward": float("inf")},
    "an episode of <StepOnly> is cut off by a time limit; expected gymnasium.make(…, max_episode_steps=-1)": {
        "truncated": True
    },
}


@pytest.mark.parametrize("sentence", FAULTS)
@pytest.mark.parametrize("way", ["rollout", "step"])
def test_a_fault_of_the_environment_is_told_in_one_sentence(sentence, way):
    acting = bl.integrations.GymnasiumWorld(lambda: Doctored(**FAULTS[sentence]), 0.9, 0.5)(np.zeros((16, 4)))
    rng = bl.randomness.stream(1, "simulator")
    acting.reset(2, rng)
    with pytest.raises(bl.InputError) as caught:
        _ = acting.rollout(uniform(acting.spec), 2, 3, rng) if way == "rollout" else acting.step(np.zeros(2, int), rng)
    assert str(caught.value) == sentence


MISTAKES = {
    "count is 0; expected an integer of at least 1": lambda s, rng: s.rollout(uniform(s.spec), 0, 3, rng),
    "horizon is 0; expected an integer of at least 1": lambda s, rng: s.rollout(uniform(s.spec), 3, 0, rng),
    "the shape of policy is (16, 3); expected (16, 4)": lambda s, rng: s.rollout(np.ones((16, 3)) / 3, 3, 3, rng),
    "the shape of actions is (3,); expected (2,), one each": lambda s, rng: s.step(np.zeros(3, dtype=int), rng),
    "actions[1] is 4; expected an index from 0 to 3": lambda s, rng: s.step(np.array([0, 4]), rng),
    "environments is 0; expected an integer of at least 1": lambda s, rng: world("FrozenLake", environments=0),
    "the shape of rewards is (4, 16); expected (16, 4)": lambda s, rng: world("FrozenLake")(np.zeros((4, 16))),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(sentence):
    acting, rng = simulator("FrozenLake"), bl.randomness.stream(1, "simulator")
    acting.reset(2, rng)
    with pytest.raises(bl.InputError) as caught:
        MISTAKES[sentence](acting, rng)
    assert str(caught.value) == sentence
