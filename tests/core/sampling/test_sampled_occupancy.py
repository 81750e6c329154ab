"""Sampled signed occupancies against linear solves on a tiny MDP; every statistical test is shown to have teeth.

A test draws independent replicates of an estimate and compares their mean with the exact value, in each coordinate and
along the direction in which a wrong factor shows most, by Student's t. `LEVEL` is the probability that a correct
estimator fails one such test; a planted error of 1 % in a term must fail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.stats

import bilevelrl as bl
from bilevelrl.sampling import occupancies as sampled_occupancy
from slowness import slow_unless

# About ten statistical tests: together they fail for fewer than one of 10⁶ choices of seeds.
LEVEL = 1e-7
DISCOUNT = 0.8
STATES, ACTIONS = 3, 2
# Sticky and nearly certain, so that what the first action decides lasts: errors in late terms show, chance does not.
KERNEL = np.array(
    [
        [[0.03, 0.95, 0.02], [0.03, 0.02, 0.95]],
        [[0.02, 0.96, 0.02], [0.90, 0.05, 0.05]],
        [[0.90, 0.05, 0.05], [0.02, 0.02, 0.96]],
    ]
)
POLICY = np.array([[0.6, 0.4], [0.95, 0.05], [0.1, 0.9]])
WEIGHTS = np.array([[1.0, -0.8], [0.3, -0.6], [-0.5, 0.4]])


@functools.cache
def follower() -> bl.SoftMDP:
    return bl.SoftMDP(KERNEL, np.zeros((STATES, ACTIONS)), DISCOUNT, 1.0, np.array([0.5, 0.2, 0.3]))


def occupancies(mdp: bl.SoftMDP, policy: bl.Array) -> tuple[bl.Array, bl.Array]:
    """`d_(s,a)` (S, A, S, A) and `d_s` (S, S, A), by one linear solve a state."""
    states, actions = policy.shape
    from_state = np.stack([bl.mdp.discounted_occupancy(mdp, policy, start) for start in np.eye(states)])
    here = np.eye(states * actions).reshape(states, actions, states, actions)
    kernel = np.stack([[dense_row(mdp, s, a) for a in range(actions)] for s in range(states)])
    return here + mdp.discount * np.einsum("sat,tub->saub", kernel, from_state), from_state


def dense_row(mdp: bl.SoftMDP, state: int, action: int) -> bl.Array:
    row = np.zeros(mdp.states)
    successors, probabilities = mdp.transitions.row(state, action)
    row[successors] = probabilities
    return row


def differences(truncation: int | None = None) -> bl.Array:
    """`d_(s,a) − d_s` (S, A, S, A), cut after T steps where T is given: `d^T = d − γ^T P^T d`."""
    from_pair, from_state = occupancies(follower(), POLICY)
    if truncation is not None:
        later = np.linalg.matrix_power(np.einsum("sa,sat->st", POLICY, KERNEL), truncation - 1)
        factor = DISCOUNT**truncation
        from_pair = from_pair - factor * np.einsum("sat,tu,ubc->sabc", KERNEL, later, from_state)
        chain = np.linalg.matrix_power(np.einsum("sa,sat->st", POLICY, KERNEL), truncation)
        from_state = from_state - factor * np.einsum("tu,ubc->tbc", chain, from_state)
    return from_pair - from_state[:, None]


def exact(truncation: int | None = None) -> bl.Array:
    """`Σ_sa w_sa (d_(s,a) − d_s)`."""
    return np.einsum("sa,satb->tb", WEIGHTS, differences(truncation))


def largest_t(samples: bl.Array, expected: bl.Array, along: bl.Array) -> float:
    """The largest |t| of `samples` (R, S, A) against their expectation, in each coordinate and along one direction.

    The direction `C⁻¹ along`, C the samples' covariance, is where a mean off by a multiple of `along` shows most. C is
    independent of the mean of normal samples, so that |t| there keeps its distribution but for S·A degrees of freedom.
    """
    off = (samples - expected).reshape(len(samples), -1)
    covariance = np.cov(off, rowvar=False)
    direction = np.linalg.pinv(covariance, rcond=1e-8, hermitian=True) @ along.reshape(-1)
    off = np.column_stack([off, off @ (direction / np.linalg.norm(direction))])
    deviation = off.std(axis=0, ddof=1)
    # Coordinates that do not vary must agree to rounding.
    fixed = deviation < 1e-12
    assert np.abs(off.mean(axis=0)[fixed]).max(initial=0.0) < 1e-10
    return float(np.abs(off.mean(axis=0)[~fixed] / deviation[~fixed]).max() * np.sqrt(len(off)))


def threshold(replicates: int) -> float:
    """|t| that a correct estimator exceeds in any of S·A + 1 directions with probability at most `LEVEL`."""
    size = STATES * ACTIONS
    return float(scipy.stats.t.isf(LEVEL / 2 / (size + 1), replicates - 1 - size))


# --- with restarts --------------------------------------------------------------------------------------------------

REPLICATES, PER_PAIR = 400, 600


@functools.cache
def restarted_samples(
    truncation: int | None, common: bool = True, told: float = DISCOUNT, way: str = "rollouts"
) -> bl.Array:
    """(R, S, A) replicates, each of `PER_PAIR` pairs of continuations from every (s, a).

    Args:
        truncation: T, or None for geometric lengths.
        common: whether a pair's continuations share their random numbers.
        told: the discount that the simulator tells, an error where it is not `DISCOUNT`.
        way: "rollouts", or "visits" for a simulator that adds them up itself.
    """
    world: Any = (
        OtherDiscount(told) if way == "rollouts" else bl.sampling.TabularSimulator(follower().replace(discount=told))
    )
    states, actions = (np.repeat(index.reshape(-1), PER_PAIR) for index in np.indices((STATES, ACTIONS)))
    weights = np.repeat(WEIGHTS.reshape(-1), PER_PAIR) / PER_PAIR
    tables = []
    for replicate in range(REPLICATES):
        rng = bl.randomness.stream(0, f"restarted {truncation} {common}", replicate)
        occupancy, _ = bl.sampling.restarted_occupancy(
            world, POLICY, states, actions, weights, rng, truncation=truncation, common_random_numbers=common
        )
        tables.append(occupancy.weights)
    return np.array(tables)


class OtherDiscount:
    """A simulator that can be restarted, and no more; it may tell another discount than its own."""

    def __init__(self, discount: float) -> None:
        inner = bl.sampling.TabularSimulator(follower())
        self.spec = attrs.evolve(inner.spec, discount=discount)
        self.rollout_from = inner.rollout_from


WAYS = ["rollouts", "visits"]


@pytest.mark.parametrize("common", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("truncation", [None, 1, 3, 12])
@pytest.mark.parametrize("way", WAYS)
def test_restarted_occupancy_has_the_exact_mean(way, truncation, common):
    """Unbiased with a geometric length; with T steps, the exact T-step occupancy."""
    samples = restarted_samples(truncation, common, way=way)
    assert largest_t(samples, exact(truncation), exact()) < threshold(REPLICATES)


RESTART_FAULTS: dict[str, Callable[..., bl.Array]] = {
    "weights times 1.01": lambda *case, **way: 1.01 * restarted_samples(*case, **way),
    "weights times 0.99": lambda *case, **way: 0.99 * restarted_samples(*case, **way),
    "γ^{t+1} for γ^t": lambda *case, **way: DISCOUNT * restarted_samples(*case, **way),
    "the discount 1 % too large": lambda *case, **way: restarted_samples(*case, told=1.01 * DISCOUNT, **way),
    "the discount 1 % too small": lambda *case, **way: restarted_samples(*case, told=0.99 * DISCOUNT, **way),
}


QUICK_FAULTS = {"weights times 1.01", "the discount 1 % too large"}


@pytest.mark.parametrize("fault", slow_unless(QUICK_FAULTS.__contains__, RESTART_FAULTS))
@pytest.mark.parametrize("truncation", [pytest.param(None, marks=pytest.mark.slow), 12])
@pytest.mark.parametrize("way", WAYS)
def test_a_planted_fault_of_restarted_occupancy_is_detected(way, truncation, fault):
    samples = RESTART_FAULTS[fault](truncation, way=way)
    assert largest_t(samples, exact(truncation), exact()) > threshold(REPLICATES)


@pytest.mark.parametrize("way", WAYS)
def test_forgetting_to_truncate_and_truncating_too_early_are_detected(way):
    samples = restarted_samples(3, way=way)
    assert largest_t(samples, exact(4), exact()) > threshold(REPLICATES)
    assert largest_t(samples, exact(2), exact()) > threshold(REPLICATES)
    assert largest_t(samples, exact(), exact()) > threshold(REPLICATES)


@pytest.mark.parametrize("way", slow_unless("visits".__eq__, WAYS))
def test_common_random_numbers_lower_the_variance(way):
    """The same mean (above), and at most nine tenths of the total variance on this MDP, where 0.7 is typical."""
    for truncation in (None, 12):
        common, separate = (
            restarted_samples(truncation, share, way=way).var(axis=0, ddof=1).sum() for share in (True, False)
        )
        assert common / separate < 0.9, f"variance ratio {common / separate:.2f}"


def parted_ways() -> tuple[bl.SoftMDP, bl.Array]:
    """From state 0, action 0 leads to state 1 for ever, action 1 to state 2; the policy takes action 1."""
    array = np.zeros((3, 2, 3))
    array[0, 0, 1] = array[0, 1, 2] = 1.0
    array[1, :, 1] = array[2, :, 2] = 1.0
    return bl.SoftMDP(array, np.zeros((3, 2)), 0.9, 1.0), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])


def test_truncation_bias_falls_as_the_discount_to_the_truncation_and_its_bound_is_tight():
    """Without chance the estimate is its own expectation. Where the two continuations part for ever, the bias in the
    1-norm is `2‖w‖₁ γ^T/(1−γ)` exactly."""
    mdp, policy = parted_ways()
    from_pair, from_state = occupancies(mdp, policy)
    limit, weights = from_pair[0, 0] - from_state[0], np.array([0.75, 1.25])
    truncations, biases = np.array([1, 2, 5, 16, 63, 64, 65, 90]), []
    for truncation in truncations:
        starts = np.zeros(2, dtype=int)
        occupancy, drawn = bl.sampling.restarted_occupancy(
            bl.sampling.TabularSimulator(mdp),
            policy,
            starts,
            starts,
            weights,
            bl.randomness.stream(0, "t"),
            truncation=int(truncation),
        )
        assert drawn == 2 * 2 * truncation
        biases.append(np.abs(occupancy.weights - weights.sum() * limit).sum())
    assert biases == pytest.approx(2 * weights.sum() * 0.9**truncations / 0.1, rel=1e-9)
    slope = np.polyfit(truncations, np.log(biases), 1)[0]
    assert slope == pytest.approx(np.log(0.9), rel=1e-9)


def test_truncation_bias_is_within_its_bound_on_a_mixing_chain():
    for truncation in (1, 2, 3, 5, 8, 13):
        bias = np.abs(exact(truncation) - exact()).sum()
        assert bias < 2 * np.abs(WEIGHTS).sum() * DISCOUNT**truncation / (1 - DISCOUNT)


def test_a_geometric_length_costs_what_is_drawn_in_segments():
    """A length rounded up to segments of L has the mean L/(1−γ^L) and deviates by less: 5.4 deviations (7e-8)."""
    states, actions = (np.repeat(index.reshape(-1), 4000) for index in np.indices((STATES, ACTIONS)))
    world, weights = OtherDiscount(DISCOUNT), np.ones(states.size)
    _, drawn = bl.sampling.restarted_occupancy(
        world, POLICY, states, actions, weights, bl.randomness.stream(0, "cost"), truncation=None
    )
    segment = np.ceil(0.5 / (1 - DISCOUNT))
    mean = segment / (1 - DISCOUNT**segment)
    assert abs(drawn / 2 - states.size * mean) < 5.4 * mean * np.sqrt(states.size)
    assert 1 / (1 - DISCOUNT) < mean < 1.4 / (1 - DISCOUNT)


def test_the_segments_of_a_continuation_do_not_show():
    """A cycle of five states, walked for 140 steps, is in the right state at every step."""
    array = np.zeros((5, 1, 5))
    array[np.arange(5), 0, (np.arange(5) + 1) % 5] = 1.0
    mdp, policy = bl.SoftMDP(array, np.zeros((5, 1)), 0.95, 1.0), np.ones((5, 1))
    visited = []

    class Recorder:
        spec = bl.sampling.TabularSimulator(mdp).spec

        def rollout_from(self, *args: Any) -> bl.sampling.Trajectories:
            paths = bl.sampling.TabularSimulator(mdp).rollout_from(*args)
            visited.append(paths.observations[0, :-1])
            return paths

    start = np.array([3])
    bl.sampling.restarted_occupancy(
        Recorder(), policy, start, start * 0, np.ones(1), bl.randomness.stream(0, "t"), truncation=140
    )
    walk = np.concatenate(visited)
    assert np.array_equal(walk, (3 + np.tile(np.arange(140), 2)) % 5)


def test_equal_states_and_a_policy_that_must_act_so_cancel_exactly():
    """Where π(a|s) = 1 the two continuations are one under common random numbers."""
    policy = np.array([[1.0, 0.0], [0.4, 0.6], [0.5, 0.5]])
    starts, weights = np.zeros(50, dtype=int), np.arange(50.0)
    for truncation in (None, 7):
        occupancy, _ = bl.sampling.restarted_occupancy(
            bl.sampling.TabularSimulator(follower()),
            policy,
            starts,
            starts,
            weights,
            bl.randomness.stream(0, "t"),
            truncation=truncation,
        )
        assert not occupancy.weights.any()


def test_a_discount_of_zero_leaves_the_first_step():
    mdp = bl.SoftMDP(KERNEL, np.zeros((STATES, ACTIONS)), 0.0, 1.0)
    policy, one = np.array([[0.0, 1.0]] * 3), np.ones(1, dtype=int)
    for truncation in (None, 4):
        occupancy, _ = bl.sampling.restarted_occupancy(
            bl.sampling.TabularSimulator(mdp),
            policy,
            one,
            one * 0,
            np.ones(1),
            bl.randomness.stream(0, "t"),
            truncation=truncation,
        )
        assert occupancy.weights.tolist() == [[0, 0], [1, -1], [0, 0]]


def test_no_pairs_give_the_zero_table():
    none = np.zeros(0, dtype=int)
    for truncation in (None, 3):
        occupancy, drawn = bl.sampling.restarted_occupancy(
            bl.sampling.TabularSimulator(follower()),
            POLICY,
            none,
            none,
            np.zeros(0),
            bl.randomness.stream(0, "t"),
            truncation=truncation,
        )
        assert drawn == 0
        assert not occupancy.weights.any()


# --- without restarts -----------------------------------------------------------------------------------------------

BATCHES, TRAJECTORIES, HORIZON, REMAINDER = 1000, 1400, 5, 8


def first_visit_samples(discount: float = DISCOUNT, batches: int = BATCHES) -> tuple[bl.Array, bl.Array]:
    """Two (R, S, A): estimates, and `Σ w_ih (d^T_(s,a) − d^T_s)` at the visits that occurred.

    The weights depend on the trajectory's own future, as a loss does; given trajectory i, the estimate's remainders
    come from others, so the mean of the difference is zero. Of 1400 trajectories of five steps, others meet every pair:
    the rarest is met by a tenth of them, and the chance that none of 1399 does is below 1e-60.
    """
    world, estimates, conditional = bl.sampling.TabularSimulator(follower()), [], []
    shift = differences(REMAINDER)
    for replicate in range(batches):
        rng = bl.randomness.stream(0, "first visits", replicate)
        paths = world.rollout(POLICY, TRAJECTORIES, HORIZON + REMAINDER, rng)
        loss = (paths.observations[:, : HORIZON + 2] == 0).sum(axis=1)
        states, actions = paths.observations[:, :HORIZON], paths.actions[:, :HORIZON]
        weights = WEIGHTS[states, actions] * (1 + loss[:, None]) / (TRAJECTORIES * HORIZON)
        occupancy = bl.sampling.first_visit_occupancy(
            paths, weights, POLICY.shape, rng, discount=discount, truncation=REMAINDER
        )
        visits = np.bincount((states * ACTIONS + actions).ravel(), weights.ravel(), minlength=STATES * ACTIONS)
        estimates.append(occupancy.weights)
        conditional.append(np.einsum("sa,satb->tb", visits.reshape(STATES, ACTIONS), shift))
    return np.array(estimates), np.array(conditional)


@pytest.fixture(scope="module")
def sound() -> tuple[bl.Array, bl.Array]:
    return first_visit_samples()


def assess(estimates: bl.Array, conditional: bl.Array) -> float:
    """The largest |t| of the differences as a multiple of what is allowed."""
    along = conditional.mean(axis=0)
    return largest_t(estimates - conditional, np.zeros_like(along), along) / threshold(len(estimates))


def test_first_visit_occupancy_has_the_exact_mean(sound):
    assert assess(*sound) < 1


def ones_own_visit(keys: Any, visitors: Any, wanted: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """The fault that matters: the remainder of the very trajectory whose loss is weighed."""
    met = keys[visitors] == wanted[:, None]
    return visitors, met.argmax(axis=1)


def last_visit(keys: Any, visitors: Any, wanted: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Not a stopping time: from the last visit within the horizon on."""
    chosen, _ = another(keys, visitors, wanted, rng)
    met = keys[chosen] == wanted[:, None]
    return chosen, keys.shape[1] - 1 - met[:, ::-1].argmax(axis=1)


another = sampled_occupancy._another_first_visit


@pytest.mark.parametrize("replacement", [ones_own_visit, last_visit])
def test_a_planted_choice_of_the_wrong_remainder_is_detected(monkeypatch, replacement):
    monkeypatch.setattr(sampled_occupancy, "_another_first_visit", replacement)
    assert assess(*first_visit_samples(batches=100)) > 1


@pytest.mark.parametrize("factor", [1.01, 0.99, DISCOUNT])
def test_a_planted_factor_of_the_weights_is_detected(sound, factor):
    """The last is γ^{t+1} for γ^t."""
    estimates, conditional = sound
    assert assess(factor * estimates, conditional) > 1


@pytest.mark.slow
def test_a_planted_error_of_the_discount_is_detected():
    assert assess(*first_visit_samples(discount=1.01 * DISCOUNT)) > 1


def test_visits_that_no_other_trajectory_makes_are_left_out():
    """Two trajectories that never meet: nothing can be said of either."""
    paths = bl.sampling.Trajectories(np.array([[0, 0, 0], [1, 1, 1]]), np.zeros((2, 2), dtype=int), np.zeros((2, 2)))
    occupancy = bl.sampling.first_visit_occupancy(
        paths, np.ones((2, 1)), POLICY.shape, bl.randomness.stream(0, "t"), discount=DISCOUNT, truncation=1
    )
    assert not occupancy.weights.any()


def test_another_first_visit_is_another_s_and_its_first_and_uniform_among_them():
    keys = np.array([[0, 1, 1, 2], [1, 0, 1, 1], [2, 2, 1, 0], [0, 0, 0, 0]])
    queries = 30_000
    chosen, step = another(
        keys, np.zeros(queries, dtype=int), np.ones(queries, dtype=int), bl.randomness.stream(0, "t")
    )
    assert set(zip(chosen.tolist(), step.tolist(), strict=True)) == {(1, 0), (2, 2)}
    # 5.4 deviations of a fair coin: 7e-8.
    assert abs((chosen == 1).sum() - queries / 2) < 5.4 * np.sqrt(queries / 4)
    alone, _ = another(keys[[0, 3]], np.array([0, 0]), np.array([2, 0]), bl.randomness.stream(0, "t"))
    assert alone.tolist() == [-1, 1]


def test_visits_of_weight_zero_cost_and_change_nothing():
    world, rng = bl.sampling.TabularSimulator(follower()), bl.randomness.stream(0, "t")
    paths = world.rollout(POLICY, 20, 9, rng)
    occupancy = bl.sampling.first_visit_occupancy(
        paths, np.zeros((20, 4)), POLICY.shape, rng, discount=DISCOUNT, truncation=5
    )
    assert not occupancy.weights.any()


def test_mistakes_are_told_in_one_sentence():
    world, rng, one = bl.sampling.TabularSimulator(follower()), bl.randomness.stream(0, "t"), np.ones(1, dtype=int)
    paths = world.rollout(POLICY, 4, 6, rng)
    with pytest.raises(bl.InputError, match=r"^the trajectories' length is 6; expected at least 4 \+ 3$"):
        bl.sampling.first_visit_occupancy(paths, np.ones((4, 4)), POLICY.shape, rng, discount=DISCOUNT, truncation=3)
    with pytest.raises(bl.InputError, match=r"^truncation is 0; expected an integer of at least 1$"):
        bl.sampling.first_visit_occupancy(paths, np.ones((4, 4)), POLICY.shape, rng, discount=DISCOUNT, truncation=0)
    with pytest.raises(bl.InputError, match=r"^truncation is 0; expected an integer of at least 1$"):
        bl.sampling.restarted_occupancy(world, POLICY, one, one, np.ones(1), rng, truncation=0)
