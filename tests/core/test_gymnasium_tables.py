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
    mdp = bl.from_gymnasium(env)
    assert (mdp.states, mdp.actions) == SIZES[name]
    starts = {int(env.reset(seed=seed)[0]) for seed in range(200)}
    assert starts <= set(np.flatnonzero(mdp.initial))


@pytest.mark.parametrize("name", SIZES)
def test_terminal_states_absorb_with_reward_zero(name: str) -> None:
    """Every state that the table ever ends an episode in stays put and pays nothing, whatever the table says of it."""
    env = gymnasium.make(name)
    mdp = bl.from_gymnasium(env)
    table = env.unwrapped.P
    ends = {t for s in table for a in table[s] for _, t, _, ended in table[s][a] if ended}
    assert ends
    for state in ends:
        for action in range(mdp.actions):
            successors, probabilities = mdp.transitions.row(state, action)
            assert list(successors) == [state]
            assert probabilities.sum() == 1.0
        assert not mdp.rewards[state].any()
    assert set(np.flatnonzero(bl.absorbing_states(mdp))) == ends


@pytest.mark.parametrize("name", SIZES)
def test_rows_are_the_tables_and_rewards_their_expectation(name: str) -> None:
    env = gymnasium.make(name)
    mdp, table = bl.from_gymnasium(env), env.unwrapped.P
    live = np.flatnonzero(~bl.absorbing_states(mdp))
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
    mdp, counts = bl.from_gymnasium(env), np.zeros(16)
    env.reset(seed=0)
    for _ in range(3000):
        env.unwrapped.s = 6
        counts[env.unwrapped.step(1)[0]] += 1
    successors, probabilities = mdp.transitions.row(6, 1)
    assert set(np.flatnonzero(counts)) == set(successors)
    # Five standard deviations of a binomial share.
    np.testing.assert_allclose(counts[successors] / 3000, probabilities, atol=5 * np.sqrt(2 / 9 / 3000))


def test_large_tables_stay_sparse() -> None:
    assert isinstance(bl.from_gymnasium(gymnasium.make(TAXI)).transitions, bl.SparseTransitions)
    assert isinstance(bl.from_gymnasium(gymnasium.make("FrozenLake-v1")).transitions, bl.DenseTransitions)


def environment(table: Any) -> SimpleNamespace:
    return SimpleNamespace(P=table, initial_state_distrib=np.array([1.0, 0.0]))


def test_state_entered_with_and_without_termination_is_told() -> None:
    stay = [(1.0, 1, 0.0, True)]
    table = {0: {0: stay, 1: [(1.0, 1, 0.0, False)]}, 1: {0: stay, 1: stay}}
    with pytest.raises(bl.InputError, match="state 1 of the transition table is reached both with and without"):
        bl.from_gymnasium(environment(table))


@pytest.mark.parametrize("table", [{0: {0: [(1.0, 0)]}, 1: {0: []}}, {0: 3, 1: 4}, [[[("a", 0, 0.0, False)]], [[]]]])
def test_malformed_table_is_told_in_one_sentence(table: Any) -> None:
    with pytest.raises(bl.InputError, match=r"is malformed .*; expected table\[state\]\[action\]"):
        bl.from_gymnasium(environment(table))


def test_table_whose_probabilities_do_not_sum_to_one_is_told() -> None:
    table = {0: {0: [(0.9, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, False)]}}
    with pytest.raises(bl.InputError, match=r"sum of transitions\[0, 0, :\] is 0\.9"):
        bl.from_gymnasium(environment(table))
