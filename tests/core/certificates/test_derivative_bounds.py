"""What certificates are made of: bounds of derivatives, of policies that are near, of gradients that move with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from strategies import OBJECTIVES, drawn_kernel, drawn_objective, drawn_policy, drawn_problems, seeds

# Bounds and what they bound round by a few ulps each; sums here have less than a hundred terms.
ULPS = 1 + 1e-12
PROBLEMS = (
    *("contract-design", "four-rooms", "frozenlake-shaping", "inverse-rl"),
    *("stackelberg-game", "synthetic-quadratic"),
)


def tilted(policy: bl.Array, oscillation: bl.Array, rng: np.random.Generator) -> bl.Array:
    """A policy within the oscillation of another, often at the edge of what that allows."""
    steps = rng.integers(0, 2, size=policy.shape) if rng.random() < 0.5 else rng.random(policy.shape)
    weights = policy * np.exp(oscillation[:, None] * (steps - 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@st.composite
def nearby_pairs(
    draw: st.DrawFn, shape: tuple[int, int] | None = None
) -> tuple[bl.certificates.NearbyPolicies, bl.Array, Any]:
    """Nearby policies, one of them, and a generator for more."""
    rng = np.random.default_rng(draw(seeds))
    states, actions = (draw(st.integers(1, 5)), draw(st.integers(1, 5))) if shape is None else shape
    policy = drawn_policy(rng, states, actions)
    oscillation = 10.0 ** rng.uniform(-12, 2, size=states)
    return bl.certificates.NearbyPolicies(policy, oscillation), tilted(policy, oscillation, rng), rng


@given(pair=nearby_pairs())
def test_a_policy_within_the_oscillation_is_within_every_bound(pair: Any) -> None:
    nearby, other, rng = pair
    table = rng.normal(size=other.shape) * 10.0 ** rng.uniform(-3, 3)
    moved = np.abs(other - nearby.policy)
    assert (moved <= nearby.entries * ULPS).all()
    assert (moved.sum(axis=1) <= nearby.totals * ULPS).all()
    # The mean of a table loses an ulp of its largest entry to rounding.
    rounding = 1e-14 * np.abs(table).max(axis=1)
    assert (np.abs(((other - nearby.policy) * table).sum(axis=1)) <= nearby.mean_change(table) + rounding).all()
    # Of probabilities that underflowed, the ratio has no digits.
    shown = (other > 1e-300) & (nearby.policy > 1e-300)
    ratio = np.divide(nearby.policy, other, out=np.ones_like(other), where=shown)
    assert (np.abs(ratio - 1.0) <= nearby.ratios[:, None] * (1 + 1e-9)).all()


def test_the_bounds_of_nearby_policies_are_reached() -> None:
    """Of two actions with odds e^(−ω/2) to 1, those of 1 to e^(−ω/2) are ω away: nothing is further."""
    likely = 1 / (1 + np.exp(-0.5))
    nearby = bl.certificates.NearbyPolicies(np.array([[1 - likely, likely]]), np.array([1.0]))
    assert nearby.entries[0, 0] == pytest.approx(likely - (1 - likely))
    assert nearby.totals == pytest.approx(2 * np.tanh(0.25))
    assert nearby.totals == pytest.approx(2 * nearby.entries[0, 0])


def test_the_rest_of_a_probability_near_one_keeps_its_digits() -> None:
    """`1 − π` of doubles would be zero, and the bound with it an ulp of one instead of 1e-40."""
    nearby = bl.certificates.NearbyPolicies(np.array([[1e-40, 1.0, 2e-40]]), np.zeros(1))
    assert nearby.others == pytest.approx(np.array([[1.0, 3e-40, 1.0]]))


def norms_and_slopes(lower: Any, x: bl.Array, values: bl.Array, radius: float, rng: Any) -> Any:
    """Each table's bounds, and `‖∇_x‖₂` of its entries by pullbacks of unit cotangents, at some u within the radius."""
    model, norms = lower.model(x), bl.certificates.derivative_norms(lower, x, values, radius)
    near = values + radius * rng.choice([-1.0, 1.0], size=model.states)
    entries = [
        (int(s), int(a))
        for s, a in zip(rng.integers(model.states, size=5), rng.integers(model.actions, size=5), strict=True)
    ]
    for s, a in entries:
        unit, state = np.zeros((model.states, model.actions)), np.zeros(model.states)
        unit[s, a] = state[s] = 1.0
        nothing, none = np.zeros_like(values), np.zeros_like(unit)
        rewards = lower.pullback(x, bl.occupancy.DenseOccupancy(unit, nothing))
        through_kernel = lower.pullback(x, bl.occupancy.DenseOccupancy(unit, near)) - rewards
        initial = lower.pullback(x, bl.occupancy.DenseOccupancy(none, nothing, state))
        yield "rewards", norms.rewards, (s, a), rewards
        yield "transitions", norms.transitions, (s, a), through_kernel
        yield "initial", norms.initial, s, initial


def check_norms(lower: Any, x: bl.Array, rng: Any) -> None:
    states = lower.model(x).states
    values, radius = rng.normal(size=states), 10.0 ** rng.uniform(-3, 1) * rng.integers(2)
    for name, norms, entry, slope in norms_and_slopes(lower, x, values, radius, rng):
        # Through the kernel it is a difference of two pullbacks, each of which rounds.
        rounding = 1e-13 * (norms.sizes[entry] + 1.0)
        assert np.linalg.norm(slope) <= norms.norms[entry] * ULPS + rounding, (name, entry)
        assert norms.norms[entry] <= norms.sizes[entry] * ULPS, (name, entry)


@given(drawn=drawn_problems(), seed=seeds)
def test_no_derivative_of_a_drawn_follower_is_larger_than_its_bound(drawn: Any, seed: int) -> None:
    """`LinearReward`, `CallableReward`, `SoftmaxTransitions`, `SoftmaxInitial`, `Slice`; dense and sparse."""
    check_norms(drawn.lower, drawn.x, np.random.default_rng(seed))


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_derivative_of_the_catalogue_is_larger_than_its_bound(name: str) -> None:
    problem, rng = bl.problem(name), np.random.default_rng(0)
    for _ in range(3):
        check_norms(problem.lower, rng.normal(size=problem.dimension), rng)


def parts_without_features(rng: np.random.Generator, sparse: bool) -> dict[str, Any]:
    """Followers of the parts that drawn problems do not have."""
    kernel, other = drawn_kernel(rng, "narrow", 3, 2, 0), drawn_kernel(rng, "smooth", 3, 2, 0)
    base, rewards = rng.normal(size=(3, 2)), rng.normal(size=(2, 3, 2))
    stored = scipy.sparse.csr_array(kernel.reshape(-1, 3)) if sparse else kernel
    features = rng.normal(size=(3, 2, 4))
    features = scipy.sparse.csr_array(features.reshape(-1, 4)) if sparse else features
    leader = bl.parametric.SoftmaxPolicy(3, 2, features)
    return {
        "tabular": bl.ParametricMDP(stored, bl.parametric.TabularReward(base), 0.9, 1.0),
        "state": bl.ParametricMDP(stored, bl.parametric.StateReward(base, [2, 0]), 0.9, 1.0),
        "softmax": bl.ParametricMDP(bl.parametric.SoftmaxTransitions(stored), base, 0.9, 1.0),
        "initial": bl.ParametricMDP(stored, base, 0.9, 1.0, bl.parametric.SoftmaxInitial(np.array([0.2, 0.0, 0.8]))),
        "mixture": bl.ParametricMDP(
            bl.parametric.MixtureTransitions(leader, [kernel, other]),
            bl.parametric.MixtureReward(leader, rewards),
            0.9,
            1.0,
        ),
        "leader without features": bl.ParametricMDP(
            kernel, bl.parametric.MixtureReward(bl.parametric.SoftmaxPolicy(3, 2), rewards), 0.9, 1.0
        ),
    }


@pytest.mark.parametrize("sparse", [False, True])
@given(seed=seeds)
def test_no_derivative_of_the_other_parts_is_larger_than_its_bound(sparse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for lower in parts_without_features(rng, sparse).values():
        check_norms(lower, rng.normal(size=lower.dimension), rng)


def distance_up_to_a_number_per_state(change: bl.Array, weights: bl.Array) -> float:
    """`Σ_s min_k Σ_a w_sa |c_sa − k|`: each minimum is at an entry of the row."""
    apart = np.abs(change[:, :, None] - change[:, None, :])
    return float((weights[:, :, None] * apart).sum(axis=1).min(axis=1).sum())


@pytest.mark.parametrize("kind", [*OBJECTIVES, "return of finitely many steps"])
@given(drawn=drawn_problems(discount=st.floats(0.0, 0.95)), seed=seeds)
def test_no_objectives_gradients_move_further_than_their_bound(kind: str, drawn: Any, seed: int) -> None:
    rng, (states, actions) = np.random.default_rng(seed), drawn.base_rewards.shape
    if kind in OBJECTIVES:
        objective = drawn_objective(drawn, kind, rng)
    else:
        objective = bl.objectives.FiniteHorizonReturnObjective(drawn.lower.model(drawn.x), int(rng.integers(1, 9)))
    policy = rng.dirichlet(np.ones(actions), size=states)
    nearby = bl.certificates.NearbyPolicies(policy, 10.0 ** rng.uniform(-9, 0.5, size=states))
    other, weights = tilted(policy, nearby.oscillation, rng), rng.exponential(size=policy.shape)
    by_x, by_policy = bl.certificates.gradient_change(objective, drawn.x, nearby, weights)
    _, x_before, before = objective.value_and_gradients(drawn.x, policy)
    _, x_after, after = objective.value_and_gradients(drawn.x, other)
    # The bound covers the rounding of one of the two sides.
    assert np.linalg.norm(x_after - x_before) <= 2 * by_x + 1e-300
    assert distance_up_to_a_number_per_state(after - before, weights) <= 2 * by_policy + 1e-300
