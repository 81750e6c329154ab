"""`from_gymnasium` reads the published tables as the environments themselves behave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import bilevelrl as bl

TAXI = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
CLIFF = max(name for name in gymnasium.registry if name.startswith("CliffWalking-v"))
SIZES = {
    "FrozenLake-v1": (16, 4),
    "FrozenLake8x8-v1": (64, 4),
    TAXI: (500, 6),
    CLIFF: (48, 4),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_initial_distribution_are_the_environments(name: str) -> None:
    env = gymnasium.make(name)
    mdp = bl.integrations.from_gymnasium(env)
    assert (mdp.states, mdp.actions) == SIZES[name]
    starts = {int(env.reset(seed=seed)[0]) for seed in range(200)}
    assert starts <= set(np.flatnonzero(mdp.initial))


@pytest.mark.parametrize("name", SIZES)
def test_terminal_states_absorb_with_reward_zero(name: str) -> None:
    """Every state that the table ever ends an episode in stays put and pays nothing, whatever the table says of it."""
    env = gymnasium.make(name)
    mdp = bl.integrations.from_gymnasium(env)
    table = env.unwrapped.P
    ends = {t for s in table for a in table[s] for _, t, _, ended in table[s][a] if ended}
    assert ends
    for state in ends:
        for action in range(mdp.actions):
            successors, probabilities = mdp.transitions.row(state, action)
            assert list(successors) == [state]
            assert probabilities.sum() == 1.0
        assert not mdp.rewards[state].any()
    assert set(np.flatnonzero(bl.integrations.absorbing_states(mdp))) == ends


@pytest.mark.parametrize("name", SIZES)
def test_rows_are_the_tables_and_rewards_their_expectation(name: str) -> None:
    env = gymnasium.make(name)
    mdp, table = bl.integrations.from_gymnasium(env), env.unwrapped.P
    live = np.flatnonzero(~bl.integrations.absorbing_states(mdp))
    for state in live[:: max(1, live.size // 40)]:
        for action in range(mdp.actions):
            expected: dict[int, float] = {}
            for probability, successor, _, _ in table[state][action]:
                expected[successor] = expected.get(successor, 0.0) + probability
            successors, probabilities = mdp.transitions.row(int(state), action)
            assert {int(s): p for s, p in zip(successors, probabilities, strict=True)} == pytest.approx(expected)
            gain = sum(p * r for p, _, r, _ in table[state][action])
            assert mdp.rewards[state, action] == pytest.approx(gain)


def test_slippery_lake_steps_as_the_table_says() -> None:
    """An independent witness: 3000 real steps from one state; each of three outcomes has probability 1/3."""
    env = gymnasium.make("FrozenLake-v1")
    mdp, counts = bl.integrations.from_gymnasium(env), np.zeros(16)
    env.reset(seed=0)
    for _ in range(3000):
        env.unwrapped.s = 6
        counts[env.unwrapped.step(1)[0]] += 1
    successors, probabilities = mdp.transitions.row(6, 1)
    assert set(np.flatnonzero(counts)) == set(successors)
    # Five standard deviations of a binomial share.
    np.testing.assert_allclose(counts[successors] / 3000, probabilities, atol=5 * np.sqrt(2 / 9 / 3000))


def test_large_tables_stay_sparse() -> None:
    assert isinstance(bl.integrations.from_gymnasium(gymnasium.make(TAXI)).transitions, bl.mdp.SparseTransitions)
    assert isinstance(
        bl.integrations.from_gymnasium(gymnasium.make("FrozenLake-v1")).transitions, bl.mdp.DenseTransitions
    )


def environment(table: Any) -> SimpleNamespace:
    return SimpleNamespace(P=table, initial_state_distrib=np.array([1.0, 0.0]))


def test_state_entered_with_and_without_termination_is_told() -> None:
    stay = [(1.0, 1, 0.0, True)]
    table = {0: {0: stay, 1: [(1.0, 1, 0.0, False)]}, 1: {0: stay, 1: stay}}
    with pytest.raises(bl.InputError, match="state 1 of the transition table is reached both with and without"):
        bl.integrations.from_gymnasium(environment(table))


STAY = [(1.0, 0, 0.0, False)]


def two_states(outcomes: Any) -> dict[int, dict[int, Any]]:
    return {0: {0: outcomes}, 1: {0: STAY}}


MALFORMED = {
    "no states": {},
    "no actions": {0: {}, 1: {}},
    "no outcomes": {0: {0: []}, 1: {0: []}},
    "pairs": two_states([(1.0, 0)]),
    "five columns": two_states([(1.0, 0, 0.0, False, None)]),
    "numbers for states": {0: 3, 1: 4},
    "a word for a probability": two_states([("a", 0, 0.0, False)]),
    "a word": "table",
    "names for states": {"a": {0: STAY}, "b": {0: STAY}},
    "a fraction of a state": two_states([(1.0, 0.5, 0.0, False)]),
    "a state beyond the last": two_states([(1.0, 2, 0.0, False)]),
    "an end beyond the last state": two_states([(1.0, 2, 0.0, True)]),
    "a state before the first": two_states([(1.0, -1, 0.0, True)]),
    "fewer actions in a later state": {0: {0: STAY, 1: STAY}, 1: {0: STAY}},
    "more actions in a later state": {0: {0: STAY}, 1: {0: STAY, 1: STAY}},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_table_is_told_in_one_sentence(what: str) -> None:
    """More actions in a later state, too: taken for a table of fewer, it would be another problem in silence."""
    with pytest.raises(bl.InputError, match=r"is malformed .*; expected table\[state\]\[action\]") as caught:
        bl.integrations.from_gymnasium(environment(MALFORMED[what]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        ([(1.0, 0, np.nan, False)], r"rewards\[0, 0\] is nan; expected a finite number"),
        ([(-1.0, 0, 0.0, False), (2.0, 1, 0.0, False)], r"transitions\[0, 0, 0\] is -1.0; expected a probability"),
        ([], r"the sum of transitions\[0, 0, :\] is 0.0; expected 1"),
    ],
    ids=["NaN reward", "negative probability", "a state without outcomes"],
)
def test_numbers_of_the_table_are_checked_like_any_others(outcomes: Any, sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        bl.integrations.from_gymnasium(environment(two_states(outcomes)))


@pytest.mark.parametrize("env", [None, 3, SimpleNamespace(P=3)], ids=repr)
def test_what_publishes_no_table_is_told(env: Any) -> None:
    with pytest.raises(bl.InputError, match=r"the transition table of .* is missing; expected an environment with"):
        bl.integrations.from_gymnasium(env)


def test_initial_distribution_of_another_length_is_told() -> None:
    env = SimpleNamespace(P=two_states(STAY), initial_state_distrib=[1.0])
    with pytest.raises(bl.InputError, match=r"initial_state_distrib is \(1,\); expected \(2,\)"):
        bl.integrations.from_gymnasium(env)


def test_environment_without_a_published_distribution_starts_where_it_resets_to() -> None:
    env = SimpleNamespace(P=two_states(STAY), reset=lambda seed: (1, {}))
    assert bl.integrations.from_gymnasium(env).initial.tolist() == [0.0, 1.0]


def test_reset_outside_of_the_table_is_told() -> None:
    env = SimpleNamespace(P=two_states(STAY), reset=lambda seed: (5, {}))
    with pytest.raises(bl.InputError, match="the state that SimpleNamespace resets to is 5; expected below 2"):
        bl.integrations.from_gymnasium(env)


def test_outcomes_that_lead_to_the_same_state_are_summed() -> None:
    """Bumping into a wall from two sides: the probabilities add, the rewards average."""
    mdp = bl.integrations.from_gymnasium(environment(two_states([(0.25, 0, 4.0, False), (0.75, 0, 8.0, False)])))
    assert [part.tolist() for part in mdp.transitions.row(0, 0)] == [[0], [1.0]]
    assert mdp.rewards[0, 0] == 7.0


@pytest.mark.parametrize("name", [TAXI, CLIFF])
def test_deterministic_environment_steps_as_the_table_says(name: str) -> None:
    """An independent witness: a walk of 2000 real steps, which also keeps to states that can be reached."""
    env = gymnasium.make(name)
    mdp = bl.integrations.from_gymnasium(env)
    absorbing, rng = bl.integrations.absorbing_states(mdp), np.random.default_rng(0)
    state = int(env.reset(seed=0)[0])
    for _ in range(2000):
        action = int(rng.integers(mdp.actions))
        successor, reward, terminated, _, _ = env.unwrapped.step(action)
        successors, probabilities = mdp.transitions.row(state, action)
        assert (successors.tolist(), probabilities.tolist()) == ([successor], [1.0])
        assert mdp.rewards[state, action] == reward
        assert absorbing[successor] == terminated
        state = int(env.reset()[0] if terminated else successor)


@pytest.mark.parametrize("name", SIZES)
def test_initial_distribution_is_the_published_one(name: str) -> None:
    env = gymnasium.make(name)
    np.testing.assert_array_equal(bl.integrations.from_gymnasium(env).initial, env.unwrapped.initial_state_distrib)


def test_table_whose_probabilities_do_not_sum_to_one_is_told() -> None:
    table = {0: {0: [(0.9, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, False)]}}
    with pytest.raises(bl.InputError, match=r"sum of transitions\[0, 0, :\] is 0\.9"):
        bl.integrations.from_gymnasium(environment(table))


def test_name_in_place_of_an_environment_is_told() -> None:
    with pytest.raises(
        bl.InputError, match=r"env is 'FrozenLake-v1'; expected an environment, such as gymnasium\.make"
    ):
        bl.integrations.from_gymnasium("FrozenLake-v1")
