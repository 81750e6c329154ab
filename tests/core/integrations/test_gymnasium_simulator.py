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
    names = ("observations", "actions", "rewards", "environment_rewards")
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
    assert np.array_equal(paths.rewards, rewards[paths.observations[:, :-1], paths.actions])
    arrived = (paths.observations[:, 1:] == 15) & (paths.observations[:, :-1] != 15)
    assert arrived.any()
    assert np.array_equal(paths.environment_rewards, arrived.astype(float))


def test_the_terminal_state_absorbs():
    acting = simulator("FrozenLake")
    paths = acting.rollout(uniform(acting.spec), 100, 40, bl.randomness.stream(1, "simulator"))
    terminal = np.isin(paths.observations, (5, 7, 11, 12, 15))
    assert terminal.any()
    assert np.array_equal(paths.observations[:, 1:][terminal[:, :-1]], paths.observations[:, :-1][terminal[:, :-1]])


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


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_continuous_observations_are_told_in_one_sentence():
    with pytest.raises(bl.InputError) as caught:
        bl.integrations.GymnasiumWorld(lambda: gymnasium.make("CartPole-v1"), 0.9, 0.5)
    message = str(caught.value)
    assert message.startswith("observation_space of ")
    assert "is Box(" in message
    assert "expected Discrete(n) starting at 0" in message
    assert "function approximation" in message
    assert "\n" not in message


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
