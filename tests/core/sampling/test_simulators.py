"""`TabularSimulator`: the draws follow P, and belong to their trajectory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.sampling.alias_tables import alias_entries, sampling_table

# A correct sampler fails one of the chi-square tests below (about twenty) in fewer than one of 10⁶ choices of seeds.
LEVEL = 1e-6 / 30
STATES, ACTIONS = 7, 3
LARGEST_UNIFORM = 1.0 - 2.0**-53


def kernel() -> bl.Array:
    """Rows of one, two and many successors, in odd proportions; state 6 absorbs, and state 5 is never entered."""
    rng = np.random.default_rng(5)
    array = rng.dirichlet(np.full(STATES, 0.6), size=(STATES, ACTIONS))
    array[:, :, 5] = 0.0
    array[0, 0] = np.eye(STATES)[3]
    array[1, 1] = np.eye(STATES)[[0, 4]].mean(axis=0)
    array[2, 2] = 0.999 * np.eye(STATES)[0] + 0.001 * np.eye(STATES)[1]
    array[6] = np.eye(STATES)[6]
    return array / array.sum(axis=2, keepdims=True)


def policy() -> bl.Array:
    table = np.random.default_rng(6).dirichlet(np.ones(ACTIONS), STATES)
    table[1] = [0.5, 0.0, 0.5]
    table[2] = [0.0, 0.0, 1.0]
    return table


def follower(*, sparse: bool = False, initial: Any = None) -> bl.SoftMDP:
    array = kernel()
    stored: Any = scipy.sparse.csr_array(array.reshape(-1, STATES)) if sparse else array
    start = np.array([0.3, 0.2, 0.2, 0.1, 0.2, 0.0, 0.0]) if initial is None else initial
    return bl.SoftMDP(stored, np.random.default_rng(7).normal(size=(STATES, ACTIONS)), 0.9, 1.0, start)


def assert_frequencies(counts: bl.Array, probabilities: bl.Array) -> None:
    """Pearson's chi-square for one multinomial; cells expected fewer than ten times are pooled; zeros are zeros."""
    counts, probabilities = np.ravel(counts).astype(float), np.ravel(probabilities)
    assert counts[probabilities == 0].sum() == 0
    expected = counts.sum() * probabilities / probabilities.sum()
    small = expected < 10
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    counts, expected = counts[expected >= 10], expected[expected >= 10]
    if expected.size < 2:
        return
    statistic = ((counts - expected) ** 2 / expected).sum()
    p = scipy.stats.chi2.sf(statistic, expected.size - 1)
    assert p > LEVEL, f"χ² = {statistic:.1f} with {expected.size - 1} degrees of freedom, p = {p:.1e}"


def transition_counts(trajectories: bl.sampling.Trajectories) -> bl.Array:
    before, after = trajectories.observations[:, :-1], trajectories.observations[:, 1:]
    flat = (before * ACTIONS + trajectories.actions) * STATES + after
    return np.bincount(flat.reshape(-1), minlength=STATES * ACTIONS * STATES).reshape(STATES, ACTIONS, STATES)


def state_distributions(mdp: bl.SoftMDP, acting: bl.Array, horizon: int) -> list[bl.Array]:
    """Pr(s_h) for h = 0 … H, by the forward equation."""
    distributions = [np.asarray(mdp.initial)]
    for _ in range(horizon):
        distributions.append(np.einsum("s,sa,sat->t", distributions[-1], acting, kernel()))
    return distributions


def same(left: bl.sampling.Trajectories, right: bl.sampling.Trajectories) -> bool:
    pairs = zip(
        (left.observations, left.actions, left.rewards), (right.observations, right.actions, right.rewards), strict=True
    )
    return all(np.array_equal(a, b) for a, b in pairs)


# --- the distribution -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_rollout() -> bl.sampling.Trajectories:
    return bl.sampling.TabularSimulator(follower()).rollout(
        policy(), 1_000_000, 4, bl.randomness.stream(11, "simulator")
    )


def test_successors_follow_the_kernel(long_rollout):
    """Conditional on the visits to (s, a), the successors are independent draws from the row."""
    counts = transition_counts(long_rollout)
    assert counts[[0, 1, 2, 3, 4]].sum() > 2_000_000
    for s in range(STATES):
        for a in range(ACTIONS):
            assert_frequencies(counts[s, a], kernel()[s, a])


def test_actions_follow_the_policy(long_rollout):
    counts = transition_counts(long_rollout).sum(axis=2)
    for s in range(STATES):
        assert_frequencies(counts[s], policy()[s])


def test_a_planted_error_of_five_percent_is_detected(long_rollout):
    """The test has teeth: a row off by 5 % of one entry fails it."""
    counts = transition_counts(long_rollout)
    evident = counts.sum(axis=2) * (kernel().max(axis=2) < 0.9)
    s, a = np.unravel_index(evident.argmax(), evident.shape)
    wrong = kernel()[s, a].copy()
    wrong[wrong.argmax()] *= 1.05
    with pytest.raises(AssertionError, match="χ²"):
        assert_frequencies(counts[s, a], wrong)


@pytest.mark.parametrize("way", ["rollout", "reset and step", "rollout_from"])
def test_each_way_to_sample_has_the_state_distribution_of_the_forward_equation(way):
    mdp, count, horizon = follower(), 100_000, 3
    simulator, rng = bl.sampling.TabularSimulator(mdp), bl.randomness.stream(12, way)
    distributions = state_distributions(mdp, policy(), horizon)
    if way == "rollout":
        observations = simulator.rollout(policy(), count, horizon, rng).observations
    elif way == "rollout_from":
        starts = rng.choice(STATES, size=count, p=mdp.initial)
        observations = simulator.rollout_from(starts, None, policy(), horizon, rng).observations
    else:
        visited = [simulator.reset(count, rng)]
        for _ in range(horizon):
            chosen = (np.cumsum(policy(), axis=1)[visited[-1], :-1] <= rng.random((count, 1))).sum(axis=1)
            visited.append(simulator.step(chosen, rng).observations)
        observations = np.stack(visited, axis=1)
    for h in range(horizon + 1):
        assert_frequencies(np.bincount(observations[:, h], minlength=STATES), distributions[h])


def test_trajectories_are_independent_of_each_other_and_over_time():
    """Neighbouring trajectories, and neighbouring draws of one: the 4 × 4 tables of fair draws are uniform."""
    fair = bl.SoftMDP(np.full((4, 4, 4), 0.25), np.zeros((4, 4)), 0.9, 1.0)
    paths = bl.sampling.TabularSimulator(fair).rollout(
        np.full((4, 4), 0.25), 100_000, 4, bl.randomness.stream(13, "simulator")
    )
    states, actions = paths.observations, paths.actions
    pairs = {
        "neighbours' states": (states[:-1:2, 2], states[1::2, 2]),
        "neighbours' actions": (actions[:-1:2, 0], actions[1::2, 0]),
        "action and successor": (actions[:, 0], states[:, 1]),
        "successor and next action": (states[:, 1], actions[:, 1]),
        "successors": (states[:, 1], states[:, 2]),
        "start and first action": (states[:, 0], actions[:, 0]),
    }
    for first, second in pairs.values():
        assert_frequencies(np.bincount(first * 4 + second, minlength=16), np.full(16, 1 / 16))


def test_rewards_are_the_table_s():
    mdp = follower()
    paths = bl.sampling.TabularSimulator(mdp).rollout(policy(), 50, 6, bl.randomness.stream(1, "simulator"))
    assert np.array_equal(paths.rewards, mdp.rewards[paths.observations[:, :-1], paths.actions])
    assert paths.environment_rewards is None
    simulator = bl.sampling.TabularSimulator(mdp)
    before = simulator.reset(50, bl.randomness.stream(1, "simulator"))
    chosen = np.arange(50) % ACTIONS
    assert np.array_equal(
        simulator.step(chosen, bl.randomness.stream(2, "simulator")).rewards, mdp.rewards[before, chosen]
    )


def test_an_absorbing_state_is_kept_and_ends_no_episode():
    """It pays on, and its entropy counts: what an optimal policy is worth there is not zero."""
    mdp = follower()
    simulator, rng = bl.sampling.TabularSimulator(mdp), bl.randomness.stream(3, "simulator")
    here = simulator.reset(500, rng)
    for _ in range(60):
        chosen = rng.integers(ACTIONS, size=500)
        step = simulator.step(chosen, rng)
        assert (step.observations[here == 6] == 6).all()
        assert np.array_equal(step.rewards, mdp.rewards[here, chosen])
        assert not step.terminated.any()
        here = step.observations
    assert (here == 6).any()


def test_a_state_that_only_some_actions_keep_is_not_terminal():
    array = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]])
    assert bl.mdp.DenseTransitions(array).absorbing.tolist() == [False, True]


# --- reproducibility ------------------------------------------------------------------------------------------------


def test_dense_and_sparse_storage_give_the_same_trajectories_bit_for_bit():
    for seed in range(5):
        paths = [
            bl.sampling.TabularSimulator(follower(sparse=sparse)).rollout(
                policy(), 300, 20, bl.randomness.stream(seed, "simulator")
            )
            for sparse in (False, True)
        ]
        assert same(*paths)


def test_dense_and_sparse_storage_step_alike():
    steps = []
    for sparse in (False, True):
        simulator, rng = bl.sampling.TabularSimulator(follower(sparse=sparse)), bl.randomness.stream(8, "simulator")
        simulator.reset(200, rng)
        steps.append(simulator.step(np.arange(200) % ACTIONS, rng).observations)
    assert np.array_equal(*steps)


@pytest.mark.parametrize("start", ["drawn", "given"])
def test_the_first_trajectories_do_not_depend_on_how_many_others_there_are(start):
    simulator = bl.sampling.TabularSimulator(follower())

    def sample(count: int) -> bl.sampling.Trajectories:
        rng = bl.randomness.stream(4, "simulator")
        if start == "drawn":
            return simulator.rollout(policy(), count, 12, rng)
        return simulator.rollout_from(np.arange(count) % 5, np.arange(count) % ACTIONS, policy(), 12, rng)

    assert same(sample(5), sample(50).part(slice(5)))


def test_the_first_steps_do_not_depend_on_the_horizon():
    simulator = bl.sampling.TabularSimulator(follower())
    short, long = (
        simulator.rollout(policy(), 40, horizon, bl.randomness.stream(4, "simulator")) for horizon in (3, 17)
    )
    assert same(short, long.first_steps(3))


def test_the_trajectories_do_not_depend_on_the_threads():
    mdp = follower()
    paths = [
        bl.sampling.TabularSimulator(mdp, threads=threads).rollout(
            policy(), 3001, 101, bl.randomness.stream(4, "simulator")
        )
        for threads in (1, 2, 5)
    ]
    assert same(paths[0], paths[1])
    assert same(paths[0], paths[2])


def test_the_generator_moves_on_and_repeats():
    simulator, rng = bl.sampling.TabularSimulator(follower()), bl.randomness.stream(4, "simulator")
    first, second = (simulator.rollout(policy(), 30, 5, rng) for _ in range(2))
    again = simulator.rollout(policy(), 30, 5, bl.randomness.stream(4, "simulator"))
    assert same(first, again)
    assert not same(first, second)


def test_a_drawn_first_action_uses_its_number_whether_or_not_it_is_given():
    """Common random numbers: giving the very action that would be drawn changes nothing."""
    simulator, starts = bl.sampling.TabularSimulator(follower()), np.arange(60) % 5
    free = simulator.rollout_from(starts, None, policy(), 8, bl.randomness.stream(5, "simulator"))
    given = simulator.rollout_from(starts, free.actions[:, 0], policy(), 8, bl.randomness.stream(5, "simulator"))
    assert same(free, given)


class Softmax:
    """A policy of state indices that is no table."""

    def log_probabilities(self, observations: Any, actions: Any) -> Any:
        logits = np.sin(np.arange(STATES)[:, None] + 2.0 * np.arange(ACTIONS))
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[observations, actions]

    def sample(self, observations: Any, rng: np.random.Generator) -> Any:
        raise AssertionError("a table is drawn from its probabilities")


def test_a_policy_is_as_good_as_the_array_of_its_probabilities():
    simulator = bl.sampling.TabularSimulator(follower())
    states, actions = np.indices((STATES, ACTIONS))
    table = np.exp(Softmax().log_probabilities(states, actions))
    for acting in (Softmax(), bl.sampling.TabularPolicy(table)):
        paths = [simulator.rollout(one, 50, 9, bl.randomness.stream(5, "simulator")) for one in (acting, table)]
        assert np.array_equal(paths[0].observations, paths[1].observations)
        assert np.array_equal(paths[0].actions, paths[1].actions)


def test_given_starts_and_actions_are_taken():
    starts, actions = np.array([4, 5, 0]), np.array([2, 0, 1])
    paths = bl.sampling.TabularSimulator(follower()).rollout_from(
        starts, actions, policy(), 2, bl.randomness.stream(5, "simulator")
    )
    assert np.array_equal(paths.observations[:, 0], starts)
    assert np.array_equal(paths.actions[:, 0], actions)


def test_numba_is_loaded_by_the_first_rollout_not_by_the_import():
    script = "import sys, bilevelrl; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- alias tables ---------------------------------------------------------------------------------------------------

weights = st.floats(1e-300, 1.0) | st.just(0.0) | st.just(1.0) | st.floats(0.01, 1.0)


@given(st.lists(st.lists(weights, min_size=1, max_size=12).filter(lambda row: sum(row) > 0), min_size=1, max_size=4))
def test_an_alias_table_holds_the_probabilities(rows):
    """Summing `threshold/n` over an entry's own label, the rest over the other, gives the row back; zeros exactly."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    labels = np.concatenate([np.arange(len(row)) for row in rows])
    entries = alias_entries(starts, labels, np.concatenate(rows))
    for row, low, high in zip(rows, starts[:-1], starts[1:], strict=True):
        part, held = entries[low:high], np.zeros(len(row))
        assert (part["threshold"] >= 0).all()
        assert (part["threshold"] <= 1).all()
        np.add.at(held, part["labels"] & 0xFFFFFFFF, part["threshold"] / len(row))
        np.add.at(held, part["labels"] >> 32, (1 - part["threshold"]) / len(row))
        # n subtractions of numbers of at most n, divided by n: n rounding errors at most.
        assert held == pytest.approx(np.array(row) / np.sum(row), rel=0, abs=len(row) * 4e-16)
        assert (held[np.array(row) == 0] == 0).all()


EXTREMES = [0.0, 5e-324, 2.0**-53, 0.25, 1 / 3, 0.5, np.nextafter(0.5, 0), 2 / 3, 0.75, LARGEST_UNIFORM]


def test_entries_of_probability_zero_are_never_drawn_even_at_the_ends():
    """With every corner of [0, 1), at each slot's both ends."""
    table, array = sampling_table(bl.mdp.DenseTransitions(kernel())), kernel().reshape(-1, STATES)
    slots = np.arange(STATES)[:, None] / np.arange(1, STATES + 1)
    uniforms = np.unique(np.clip([*EXTREMES, *slots.ravel(), *np.nextafter(slots, 0).ravel()], 0, LARGEST_UNIFORM))
    rows = np.repeat(np.arange(STATES * ACTIONS), uniforms.size)
    drawn = table.draw(rows, np.tile(uniforms, STATES * ACTIONS))
    assert (array[rows, drawn] > 0).all()


def test_an_action_of_probability_zero_is_never_drawn():
    """Also where the rounded probabilities sum to less than one, with zeros in the last places."""
    acting = np.tile([0.7, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0], (2, 1))
    mdp = bl.SoftMDP(np.full((2, 7, 2), 0.5), np.zeros((2, 7)), 0.9, 1.0)
    paths = bl.sampling.TabularSimulator(mdp).rollout(acting, 1000, 100, bl.randomness.stream(6, "simulator"))
    assert np.bincount(paths.actions.ravel(), minlength=7)[4:].sum() == 0


class EndOfTheInterval(np.random.Generator):
    """Draws the largest number below one, in every way that it is asked."""

    def __init__(self) -> None:
        super().__init__(np.random.Philox(0))

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return np.full(size, LARGEST_UNIFORM)

    def integers(self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64, **kwargs: Any) -> Any:
        return np.full(size, (low if high is None else high) - 1, dtype=dtype)


def test_the_last_start_is_the_last_of_positive_probability():
    """The running sum of 0.7, 0.1, 0.1, 0.1 ends below one; starts of probability zero stand behind it."""
    initial = np.array([0.7, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0])
    assert np.cumsum(initial)[-1] < 1
    simulator = bl.sampling.TabularSimulator(follower(initial=initial))
    assert simulator.reset(3, EndOfTheInterval()).tolist() == [3, 3, 3]
    assert simulator.rollout(policy(), 3, 1, EndOfTheInterval()).observations[:, 0].tolist() == [3, 3, 3]


def test_a_row_with_one_successor_always_leads_there():
    table = sampling_table(bl.mdp.DenseTransitions(kernel()))
    assert (table.draw(np.zeros(len(EXTREMES), dtype=int), np.array(EXTREMES)) == 3).all()


def test_an_unreachable_state_is_never_visited():
    paths = bl.sampling.TabularSimulator(follower()).rollout(policy(), 2000, 50, bl.randomness.stream(7, "simulator"))
    assert not (paths.observations == 5).any()


def test_one_state_and_one_action_suffice():
    mdp = bl.SoftMDP(np.ones((1, 1, 1)), np.full((1, 1), 2.0), 0.5, 1.0)
    paths = bl.sampling.TabularSimulator(mdp).rollout(np.ones((1, 1)), 3, 4, bl.randomness.stream(0, "simulator"))
    assert paths.rewards.tolist() == [[2.0] * 4] * 3
    assert (paths.count, paths.horizon, paths.samples) == (3, 4, 12)


# --- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES = {
    "count is 0; expected an integer of at least 1": lambda s, rng: s.rollout(policy(), 0, 5, rng),
    "count is 2.5; expected an integer of at least 1": lambda s, rng: s.reset(2.5, rng),
    "count is -1; expected an integer of at least 1": lambda s, rng: s.reset(-1, rng),
    "horizon is 0; expected an integer of at least 1": lambda s, rng: s.rollout(policy(), 5, 0, rng),
    "horizon is '3'; expected an integer of at least 1": lambda s, rng: s.rollout(policy(), 5, "3", rng),
    "the shape of policy is (7, 2); expected (7, 3)": lambda s, rng: s.rollout(policy()[:, :2], 5, 5, rng),
    "the shape of actions is (3,); expected (4,), one each": lambda s, rng: s.step(np.zeros(3, int), rng),
    "actions is an array of float64; expected integers": lambda s, rng: s.step(np.zeros(4), rng),
    "actions[1] is 3; expected an index from 0 to 2": lambda s, rng: s.step(np.array([0, 3, 0, 0]), rng),
    "actions[2] is -1; expected an index from 0 to 2": lambda s, rng: s.step(np.array([0, 0, -1, 0]), rng),
    "states[1] is 7; expected an index from 0 to 6": lambda s, rng: s.rollout_from(
        np.array([0, 7]), None, policy(), 2, rng
    ),
    "the shape of actions is (1,); expected (2,), one each": lambda s, rng: s.rollout_from(
        np.array([0, 1]), np.array([0]), policy(), 2, rng
    ),
    "threads is 0; expected an integer of at least 1": lambda s, rng: bl.sampling.TabularSimulator(
        follower(), threads=0
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(sentence):
    simulator, rng = bl.sampling.TabularSimulator(follower()), bl.randomness.stream(0, "simulator")
    simulator.reset(4, rng)
    with pytest.raises(bl.InputError) as caught:
        MISTAKES[sentence](simulator, rng)
    assert str(caught.value) == sentence


def test_a_policy_that_is_not_finite_is_a_mistake():
    wrong = policy()
    wrong[3, 1] = np.nan
    with pytest.raises(bl.InputError, match=r"policy\[3, 1\] is nan"):
        bl.sampling.TabularSimulator(follower()).rollout(wrong, 2, 2, bl.randomness.stream(0, "simulator"))


def test_a_trusted_kernel_with_an_empty_row_is_a_mistake():
    """`trusted` skips the checks; the sampler must not read another row in its place."""
    array = kernel()
    array[4, 1] = 0.0
    with pytest.raises(bl.InputError, match=r"transitions\[4, 1, :\] is without a positive entry"):
        _ = sampling_table(bl.mdp.DenseTransitions.trusted(array))
