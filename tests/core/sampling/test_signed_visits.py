"""`TabularSimulator.signed_visits` against trajectories that are recorded: the same streams, the same sums."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.stats

import bilevelrl as bl
from bilevelrl.sampling import tabular_simulator

STATES, ACTIONS, COUNT, LONGEST = 6, 3, 400, 80
SEED = (3, "visits")


@functools.cache
def world(discount: float = 0.5) -> bl.SoftMDP:
    """Sticky, so that two continuations may meet soon, late or never."""
    rng = np.random.default_rng(1)
    kernel = 0.5 * rng.dirichlet(np.full(STATES, 0.3), (STATES, ACTIONS)) + 0.5 * np.eye(STATES)[:, None, :]
    return bl.SoftMDP(kernel, np.zeros((STATES, ACTIONS)), discount, 1.0)


def policy() -> bl.Array:
    return np.random.default_rng(2).dirichlet(np.ones(ACTIONS), STATES)


def pairs(count: int = COUNT) -> tuple[bl.validation.Indices, bl.validation.Indices, bl.Array]:
    """States, actions, and weights that are whole numbers: with γ = 1/2 every sum is exact, in whatever order."""
    rng = np.random.default_rng(3)
    return rng.integers(STATES, size=count), rng.integers(ACTIONS, size=count), rng.integers(-4, 5, count).astype(float)


def both(discount: float, together: bool) -> tuple[bl.sampling.Trajectories, bl.sampling.Trajectories]:
    """The trajectories of all pairs from (s, a), and from s, with the streams that `signed_visits` gives them."""
    simulator, (states, actions, _) = bl.sampling.TabularSimulator(world(discount)), pairs()
    if together:  # the pair's index names the stream of both
        given = simulator.rollout_from(states, actions, policy(), LONGEST, bl.randomness.stream(*SEED))
        return given, simulator.rollout_from(states, None, policy(), LONGEST, bl.randomness.stream(*SEED))
    states, actions = np.repeat(states, 2), np.repeat(actions, 2)  # continuations 2j and 2j + 1
    given = simulator.rollout_from(states, actions, policy(), LONGEST, bl.randomness.stream(*SEED))
    free = simulator.rollout_from(states, None, policy(), LONGEST, bl.randomness.stream(*SEED))
    return given.part(slice(0, None, 2)), free.part(slice(1, None, 2))


def random_lengths(word: np.uint64, count: int, discount: float) -> bl.validation.Indices:
    """The random lengths of so many continuations, under one key."""
    from bilevelrl.sampling.kernels import _geometric, _word

    rate = float(np.log(discount))
    return np.array([_geometric(np.uint64(_word(word, index)), rate) for index in range(count)])


def lengths(
    discount: float, truncation: int | None, together: bool
) -> tuple[bl.validation.Indices, bl.validation.Indices]:
    """Of the continuations from (s, a), and from s."""
    if truncation is not None:
        return np.full(COUNT, truncation), np.full(COUNT, truncation)
    word = tabular_simulator._key(bl.randomness.stream(*SEED))[4]
    drawn = random_lengths(word, COUNT if together else 2 * COUNT, discount)
    assert drawn.max() <= LONGEST
    return (drawn, drawn) if together else (drawn[::2], drawn[1::2])


CASES = [(truncation, together) for truncation in (None, 1, 2, 7, 40) for together in (True, False)]


@pytest.mark.parametrize(("truncation", "together"), CASES)
def test_the_sums_are_those_of_the_recorded_trajectories_exactly(truncation, together):
    expected, weights = np.zeros((STATES, ACTIONS)), pairs()[2]
    for sign, paths, length in zip((1, -1), both(0.5, together), lengths(0.5, truncation, together), strict=True):
        steps = np.arange(LONGEST)
        shares = np.where(steps < length[:, None], 1.0 if truncation is None else 0.5**steps, 0.0)
        expected += sign * paths.visits(weights[:, None] * shares, expected.shape)
    table, _ = bl.sampling.TabularSimulator(world()).signed_visits(
        *pairs(), policy(), bl.randomness.stream(*SEED), truncation=truncation, common_random_numbers=together
    )
    assert np.array_equal(table, expected)


def steps_apart(given: bl.sampling.Trajectories, free: bl.sampling.Trajectories, pair: int) -> int:
    """Steps until two continuations with one stream are one: in the same state, or with the same first action."""
    if given.actions[pair, 0] == free.actions[pair, 0]:
        return 0
    together = np.flatnonzero(given.observations[pair, 1:] == free.observations[pair, 1:])
    return int(together[0]) + 1 if together.size else LONGEST


@pytest.mark.parametrize(("truncation", "together"), CASES)
def test_every_transition_that_was_drawn_is_counted_and_none_after_two_have_met(truncation, together):
    given, free = both(0.8, together)
    length, other = lengths(0.8, truncation, together)
    expected = int(length.sum() + other.sum())
    if together:
        expected = sum(2 * min(int(length[pair]), steps_apart(given, free, pair)) for pair in range(COUNT))
    _, drawn = bl.sampling.TabularSimulator(world(0.8)).signed_visits(
        *pairs(), policy(), bl.randomness.stream(*SEED), truncation=truncation, common_random_numbers=together
    )
    assert drawn == expected


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("truncation", [None, 9])
def test_the_sums_do_not_depend_on_the_threads(truncation, together):
    """Bit for bit, with weights whose sums depend on their order: parts and their order are the same for all."""
    states, actions, _ = pairs(100_000)
    weights = np.random.default_rng(4).normal(size=states.size)
    answers = [
        bl.sampling.TabularSimulator(world(0.9), threads=threads).signed_visits(
            states,
            actions,
            weights,
            policy(),
            bl.randomness.stream(*SEED),
            truncation=truncation,
            common_random_numbers=together,
        )
        for threads in (1, 2, 5)
    ]
    # Several parts, or the question means nothing.
    assert 2 * states.size * (truncation or 10) > 4 * tabular_simulator.STEPS_WORTH_A_THREAD
    for table, drawn in answers[1:]:
        assert np.array_equal(table, answers[0][0])
        assert drawn == answers[0][1]


def test_large_tables_make_few_parts(monkeypatch):
    """A part has a table of its own: the tables of all parts together have a limit, and then the answer is the same."""
    asked = pairs(20_000)
    options = {"truncation": 20, "common_random_numbers": False}
    many = bl.sampling.TabularSimulator(world()).signed_visits(*asked, policy(), bl.randomness.stream(*SEED), **options)
    monkeypatch.setattr(tabular_simulator, "LARGEST_TABLES", STATES * ACTIONS)
    one = bl.sampling.TabularSimulator(world()).signed_visits(*asked, policy(), bl.randomness.stream(*SEED), **options)
    # Whole numbers times powers of 1/2 down to 2^-19: exact sums.
    assert np.array_equal(one[0], many[0])
    assert one[1] == many[1]


@pytest.mark.parametrize("discount", [0.1, 0.9, 0.999])
def test_random_lengths_are_geometric(discount):
    """`P(length > t) = γ^t` at a few t; a correct sampler fails one in 10⁷ (5.3 standard errors)."""
    count = 50_000
    drawn = random_lengths(np.uint64(7), count, discount)
    assert drawn.min() == 1
    for t in {0, 1, 2, round(0.5 / (1 - discount)), round(1 / (1 - discount)), round(3 / (1 - discount))}:
        share = discount**t
        assert abs((drawn > t).mean() - share) <= 5.3 * np.sqrt(share * (1 - share) / count)


def test_random_lengths_do_not_depend_on_the_path():
    """The first actions of long and short continuations are equally distributed: Pearson's χ² at 10⁻⁷."""
    states = np.zeros(50_000, dtype=int)
    chosen = (
        bl.sampling.TabularSimulator(world())
        .rollout_from(states, None, policy(), 1, bl.randomness.stream(*SEED))
        .actions[:, 0]
    )
    long = random_lengths(tabular_simulator._key(bl.randomness.stream(*SEED))[4], states.size, 0.5) > 1
    table = np.array([np.bincount(chosen[long == which], minlength=ACTIONS) for which in (False, True)])
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-7


@pytest.mark.parametrize("together", [True, False])
def test_a_discount_of_zero_leaves_the_first_step(together):
    mdp, acting = world().replace(discount=0.0), np.tile([0.0, 1.0, 0.0], (STATES, 1))
    one = np.ones(1, dtype=int)
    for truncation in (None, 4):
        table, _ = bl.sampling.TabularSimulator(mdp).signed_visits(
            one,
            one * 0,
            np.ones(1),
            acting,
            bl.randomness.stream(*SEED),
            truncation=truncation,
            common_random_numbers=together,
        )
        assert table[1].tolist() == [1, -1, 0]
        assert not np.delete(table, 1, axis=0).any()


def test_no_pairs_draw_nothing():
    none = np.zeros(0, dtype=int)
    for together in (True, False):
        table, drawn = bl.sampling.TabularSimulator(world()).signed_visits(
            none,
            none,
            np.zeros(0),
            policy(),
            bl.randomness.stream(*SEED),
            truncation=None,
            common_random_numbers=together,
        )
        assert drawn == 0
        assert not table.any()


def test_the_first_pairs_do_not_depend_on_how_many_others_there_are():
    states, actions, weights = pairs()
    silent = np.where(np.arange(COUNT) < 5, weights, 0.0)
    options = {"truncation": None, "common_random_numbers": True}
    few, _ = bl.sampling.TabularSimulator(world()).signed_visits(
        states[:5], actions[:5], weights[:5], policy(), bl.randomness.stream(*SEED), **options
    )
    many, _ = bl.sampling.TabularSimulator(world()).signed_visits(
        states, actions, silent, policy(), bl.randomness.stream(*SEED), **options
    )
    assert np.array_equal(few, many)


def test_a_simulator_says_that_it_can():
    assert isinstance(bl.sampling.TabularSimulator(world()), bl.sampling.SupportsVisits)


MISTAKES = {
    "observations[1] is 6; expected an index from 0 to 5": {"observations": np.array([0, 6])},
    "actions[0] is 3; expected an index from 0 to 2": {"actions": np.array([3, 0])},
    "the shape of actions is (1,); expected (2,), one each": {"actions": np.array([0])},
    "the shape of weights is (3,); expected (2,)": {"weights": np.ones(3)},
    "the shape of policy is (6, 2); expected (6, 3)": {"policy": policy()[:, :2]},
    "truncation is 0; expected an integer of at least 1": {"truncation": 0},
    "truncation is 2.5; expected an integer of at least 1": {"truncation": 2.5},
}


def test_a_loss_that_is_not_finite_shows_in_the_sums():
    """The estimator says so in its status: it is the leader's number, not a mistake of whoever asks."""
    visits, _ = bl.sampling.TabularSimulator(world()).signed_visits(
        np.array([0, 1]),
        np.array([0, 1]),
        np.array([0.0, np.nan]),
        policy(),
        bl.randomness.stream(*SEED),
        truncation=3,
        common_random_numbers=False,
    )
    assert np.isnan(visits).any()


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(sentence):
    asked = {
        "observations": np.array([0, 1]),
        "actions": np.array([0, 1]),
        "weights": np.ones(2),
        "policy": policy(),
        "truncation": None,
        "common_random_numbers": True,
    } | MISTAKES[sentence]
    with pytest.raises(bl.InputError) as caught:
        bl.sampling.TabularSimulator(world()).signed_visits(rng=bl.randomness.stream(*SEED), **asked)
    assert str(caught.value) == sentence
