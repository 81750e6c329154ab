"""SoBiRL's, Stoc-SoBiRL's and HPGD's estimators against exact enumeration of all trajectories of a tiny MDP."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from slowness import slow_unless

HORIZON = 2
DISCOUNT = 0.5
X = np.array([0.2, -0.1])
# Two coordinates: a correct estimator exceeds 5.2 standard errors in either with probability 4e-7.
LEVEL = 5.2
KERNEL = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.9, 0.1]]])
FEATURES = np.array([[[-1.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [1.0, 1.0]]])


def step_losses(x: bl.Array, actions: bl.Array) -> bl.Array:
    """Strongly tied to the actions, so that the score has a signal to find: `a_0 (1 + 1.5 x_0)`, then 0.7 of that."""
    return actions * np.array([1.0, 0.7]) * (1.0 + 1.5 * x[0])


def path_loss(x: bl.Array, actions: bl.Array) -> bl.Array:
    return step_losses(x, actions).sum(axis=-1)


def path_loss_gradient(x: bl.Array, actions: bl.Array) -> bl.Array:
    score = (actions * np.array([1.0, 0.7])).sum(axis=-1)
    return np.stack([1.5 * score, np.zeros_like(score)], axis=-1)


class PathLoss:
    """A `StepwiseObjective`, and so a `TrajectoryObjective` too."""

    horizon, trajectories = HORIZON, 1

    def loss_and_gradient(self, x: bl.Array, paths: bl.sampling.Trajectories, rng: Any) -> tuple[bl.Array, bl.Array]:
        return path_loss(x, paths.actions), path_loss_gradient(x, paths.actions).mean(axis=0)

    def step_losses_and_gradient(
        self, x: bl.Array, paths: bl.sampling.Trajectories, rng: Any
    ) -> tuple[bl.Array, bl.Array]:
        return step_losses(x, paths.actions), path_loss_gradient(x, paths.actions).mean(axis=0)


@functools.cache
def problem() -> bl.BilevelProblem:
    lower = bl.ParametricMDP(
        KERNEL, bl.parametric.LinearReward(np.zeros((2, 2)), FEATURES), DISCOUNT, 0.8, np.array([0.5, 0.5])
    )
    return bl.BilevelProblem(lower, PathLoss(), name="tiny")


def follower(x: bl.Array = X) -> bl.mdp.TabularSolution:
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13)
    return solver.solve(problem(), x, None, bl.randomness.stream(0, "lower"))


def expectation(policy: bl.Array, function: Any) -> Any:
    """`E[function(states, actions)]` over all paths of H steps under a policy."""
    model, total = problem().lower.model(X), 0.0
    for states in itertools.product(range(2), repeat=HORIZON + 1):
        for actions in itertools.product(range(2), repeat=HORIZON):
            probability = model.initial[states[0]]
            for h, action in enumerate(actions):
                probability *= policy[states[h], action] * KERNEL[states[h], action, states[h + 1]]
            total = total + probability * function(np.array(states), np.array(actions))
    return total


@functools.cache
def exact_parts() -> tuple[bl.Array, bl.Array]:
    """(direct, implicit): the latter by central differences of `E_{π*(x)}[l]` with l's own x held fixed."""
    direct = expectation(follower().policy, lambda _, actions: path_loss_gradient(X, actions))
    implicit, step = np.zeros_like(X), 1e-5
    for k in range(X.size):
        shift = step * np.eye(X.size)[k]
        sides = [
            expectation(follower(X + sign * shift).policy, lambda _, actions: path_loss(X, actions)) for sign in (1, -1)
        ]
        implicit[k] = (sides[0] - sides[1]) / (2 * step)
    return direct, implicit


def expected_estimate(policy: bl.Array, truncation: int | None) -> bl.Array:
    """What the estimator converges to under any policy and truncation: enumerated weights, exact occupancies."""
    model = problem().lower.model(X)

    def visits(states: bl.Array, actions: bl.Array) -> bl.Array:
        table = np.zeros((2, 2))
        np.add.at(table, (states[:-1], actions), path_loss(X, actions))
        return table

    weights = expectation(policy, visits) / model.temperature
    step = (KERNEL[:, :, :, None] * policy[None, None]).reshape(4, 4)  # (s, a) → (s', a')
    series = np.eye(4)
    total = np.zeros((4, 4))
    for _ in range(200 if truncation is None else truncation):
        total += series
        series = DISCOUNT * series @ step
    from_state = np.einsum("sa,sak->sk", policy, total.reshape(2, 2, 4))
    occupancy = np.einsum("sa,sak->k", weights, total.reshape(2, 2, 4) - from_state[:, None, :]).reshape(2, 2)
    implicit = problem().lower.pullback(X, bl.occupancy.DenseOccupancy(occupancy))
    return expectation(policy, lambda _, actions: path_loss_gradient(X, actions)) + implicit


SHARP = {
    "sobirl": ("sobirl", {"groups": 1_000_000, "truncation": 15}),
    "stoc-sobirl, geometric": ("stoc-sobirl", {"batch": 1_000_000}),
    "hpgd, geometric": ("hpgd", {"batch": 1_000_000}),
    "stoc-sobirl, independent": ("stoc-sobirl", {"batch": 4_000_000, "common_random_numbers": False}),
}
COARSE = {
    "sobirl without baseline": ("sobirl", {"groups": 300_000, "truncation": 15, "baseline": False}),
    "sobirl without restarts": ("sobirl", {"groups": 100_000, "truncation": 15, "restarts": False}),
    "stoc-sobirl, truncated": ("stoc-sobirl", {"batch": 300_000, "truncation": 15}),
    "hpgd, truncated": ("hpgd", {"batch": 300_000, "truncation": 2}),
    "hpgd without baseline": ("hpgd", {"batch": 300_000, "baseline": False}),
    "hpgd, independent": ("hpgd", {"batch": 300_000, "common_random_numbers": False}),
}


def estimate(name: str, policy: bl.Array | None = None, seed: int = 0, **options: Any) -> bl.HyperGradient:
    estimator = bl.hypergradient_estimator(name, **({"blocks": 100} | options))
    solution = follower() if policy is None else attrs.evolve(follower(), policy=policy)
    return estimator.estimate(problem(), X, solution, None, bl.randomness.stream(seed, "estimator"))


def worst_z(hyper: bl.HyperGradient, expected: bl.Array) -> float:
    return float((np.abs(hyper.gradient - expected) / hyper.standard_error).max())


def test_the_two_ways_to_the_exact_answer_agree() -> None:
    """Central differences through π*(x), and the occupancy formula under π*: the mixture form of r̄."""
    np.testing.assert_allclose(expected_estimate(follower().policy, None), np.sum(exact_parts(), axis=0), rtol=1e-8)


SLOW = {"sobirl without restarts", "stoc-sobirl, independent"}


@pytest.mark.parametrize("case", slow_unless(lambda case: case not in SLOW, SHARP | COARSE))
def test_estimate_is_unbiased(case: str) -> None:
    """Within the level of the enumeration; and where the sample is large, 1 % in either part would be outside it.

    Truncation is part of the expectation. (How sharply the sampling without restarts is tested, see
    tests/core/sampling/test_sampled_occupancy.py.)
    """
    name, options = (SHARP | COARSE)[case]
    hyper, expected = estimate(name, **options), expected_estimate(follower().policy, options.get("truncation"))
    assert worst_z(hyper, expected) < LEVEL
    if case in SHARP:
        for part in ("direct", "implicit"):
            faulty = attrs.evolve(hyper, **{part: 1.01 * getattr(hyper, part)})
            assert worst_z(faulty, expected) > LEVEL, f"blind to 1 % of the {part} part"


@pytest.mark.parametrize("truncation", [1, 2, 4])
def test_truncated_estimate_has_the_bias_that_theory_gives_and_no_more(truncation: int) -> None:
    """Its mean is the truncated occupancy's; the difference to ∇φ is below 2‖c‖₁ γ^T/(1−γ) max‖∇r‖."""
    hyper = estimate("stoc-sobirl", batch=400_000, truncation=truncation)
    expected = expected_estimate(follower().policy, truncation)
    assert worst_z(hyper, expected) < LEVEL
    model, policy = problem().lower.model(X), follower().policy
    mass = expectation(policy, lambda states, actions: path_loss(X, actions) * HORIZON) / model.temperature
    bound = 2 * mass * DISCOUNT**truncation / (1 - DISCOUNT) * np.linalg.norm(FEATURES, axis=2).max()
    assert np.linalg.norm(expected - np.sum(exact_parts(), axis=0)) <= bound


def test_truncation_bias_falls_at_least_as_the_discount_to_the_power_of_the_length() -> None:
    lengths = np.arange(1, 20)
    exact = expected_estimate(follower().policy, None)
    bias = [np.linalg.norm(expected_estimate(follower().policy, int(t)) - exact) for t in lengths]
    slope = np.polyfit(lengths, np.log(bias), 1)[0]
    # Mixing of the chain makes it faster than γ^T; it can never be slower.
    assert slope <= np.log(DISCOUNT)


def test_error_is_proportional_to_the_inaccuracy_of_the_policy() -> None:
    """log π = log π* + ε·noise: the expected estimate moves by O(ε). Fitted slope 1 on log–log axes."""
    best = follower().policy
    noise = np.random.default_rng(0).standard_normal(best.shape)
    exact, sizes, errors = expected_estimate(best, None), np.geomspace(1e-4, 1e-1, 7), []
    for size in sizes:
        policy = best * np.exp(size * noise)
        policy /= policy.sum(axis=1, keepdims=True)
        errors.append(np.linalg.norm(expected_estimate(policy, None) - exact))
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.05)
    # And the sampled estimator under the worst of these policies has that expectation.
    assert worst_z(estimate("stoc-sobirl", policy, batch=400_000), expected_estimate(policy, None)) < LEVEL


def test_baseline_lowers_the_variance() -> None:
    """Same samples; the standard error tells. The mean stays (tested above)."""
    with_baseline, without = (
        estimate("stoc-sobirl", batch=50_000, truncation=10, baseline=flag).standard_error for flag in (True, False)
    )
    assert np.linalg.norm(with_baseline) < 0.9 * np.linalg.norm(without)


def test_common_random_numbers_cancel_continuations_that_meet() -> None:
    """Where the next state hardly depends on (s, a) the two continuations of a visit merge after a step, and what they
    share vanishes from the estimate. (Where they are driven apart, as in the MDP of the other tests, they do not help.)
    """
    forgetful = np.broadcast_to([0.5, 0.5], (2, 2, 2))
    lower = attrs.evolve(problem().lower, transitions=forgetful, discount=0.9)
    merging = attrs.evolve(problem(), lower=lower)
    answer = bl.lower_level_solver("soft-policy-iteration").solve(merging, X, None, bl.randomness.stream(0, "lower"))
    common, independent = (
        bl.hypergradient_estimator("stoc-sobirl", batch=20_000, truncation=30, blocks=50, common_random_numbers=flag)
        .estimate(merging, X, answer, None, bl.randomness.stream(0, "estimator"))
        .standard_error
        for flag in (True, False)
    )
    assert np.linalg.norm(common) < 0.5 * np.linalg.norm(independent)


@pytest.mark.slow
def test_standard_error_covers() -> None:
    """Over 400 small batches the errors, in standard errors, have the spread of a t distribution, not of a lie."""
    exact = np.sum(exact_parts(), axis=0)
    z = []
    for seed in range(400):
        hyper = estimate("stoc-sobirl", seed=seed, batch=200, blocks=20)
        z.append((hyper.gradient - exact) / hyper.standard_error)
    inside = (np.abs(z) < 1.96).mean()
    # 400 × 2 trials at about 0.94 (t with 19 degrees of freedom): four standard deviations of the share are 0.034,
    # twice that for the dependence of the two coordinates.
    assert inside == pytest.approx(0.94, abs=0.05)


def test_one_step_truncation_is_the_authors_atari_variant() -> None:
    """T = 1 keeps ∇r(s,a) − E_a'∇r(s,a') alone."""
    hyper = estimate("sobirl", groups=400_000, truncation=1)
    assert worst_z(hyper, expected_estimate(follower().policy, 1)) < LEVEL


@pytest.mark.parametrize("baseline", [True, False])
def test_reward_to_go_lowers_the_variance(baseline: bool) -> None:
    """hpgd and stoc-sobirl from the same numbers draw the same trajectories; what came before a step is only noise."""
    to_go, whole = (estimate(name, batch=50_000, truncation=10, baseline=baseline) for name in ("hpgd", "stoc-sobirl"))
    assert to_go.objective == pytest.approx(whole.objective, rel=1e-12)
    np.testing.assert_array_equal(to_go.direct, whole.direct)
    assert to_go.cost.samples == whole.cost.samples
    assert np.linalg.norm(to_go.standard_error) < 0.95 * np.linalg.norm(whole.standard_error)


INDEPENDENT = {"common_random_numbers": False}


@pytest.mark.parametrize(
    ("name", "options"),
    [("sobirl", {"groups": 50}), *((name, {"batch": 50} | INDEPENDENT) for name in ("stoc-sobirl", "hpgd"))],
)
def test_same_stream_gives_the_same_estimate_and_the_reported_samples_are_the_drawn_ones(
    name: str, options: dict[str, Any]
) -> None:
    first, second = (estimate(name, truncation=7, **options) for _ in range(2))
    np.testing.assert_array_equal(first.gradient, second.gradient)
    assert first.cost.samples == 50 * HORIZON * (1 + 2 * 7)
    np.testing.assert_allclose(problem().lower.pullback(X, first.occupancy), first.implicit)


@pytest.mark.parametrize("name", ["stoc-sobirl", "hpgd"])
def test_continuations_that_meet_are_drawn_no_further_and_the_samples_say_so(name: str, monkeypatch: Any) -> None:
    """What the simulator says it drew for continuations, and the trajectories themselves; fewer than T steps each."""
    told, original = [], bl.sampling.TabularSimulator.signed_visits

    def watched(*arguments: Any, **options: Any) -> Any:
        answer = original(*arguments, **options)
        told.append(answer[1])
        return answer

    monkeypatch.setattr(bl.sampling.TabularSimulator, "signed_visits", watched)
    samples = estimate(name, batch=50, truncation=7).cost.samples
    assert samples == 50 * HORIZON + sum(told)
    assert samples < 50 * HORIZON * (1 + 2 * 7)


def test_batch_and_truncation_grow_with_the_calls() -> None:
    estimator = bl.hypergradient_estimator(
        "stoc-sobirl", batch=10, truncation=3, batch_growth=1.0, truncation_growth=2.0, **INDEPENDENT
    )
    previous, samples = None, []
    for _ in range(3):
        previous = estimator.estimate(problem(), X, follower(), previous, bl.randomness.stream(0, "estimator"))
        samples.append(previous.cost.samples)
    # γ = 1/2: each doubling of k + 1 takes one step a unit of growth, two here.
    lengths = [3, 3 + 2, 3 + int(np.ceil(2 * np.log2(3)))]
    assert samples == [10 * k * HORIZON * (1 + 2 * t) for k, t in zip((1, 2, 3), lengths, strict=True)]


def test_simulator_without_restarts_is_named_where_the_estimator_needs_them() -> None:
    world = bl.problem("gymnasium-preferences", environment="FrozenLake-v1")
    x = np.zeros(world.dimension)
    solution = attrs.make_class("Answer", {"policy": attrs.field(default=np.full((16, 4), 0.25))})()
    with pytest.raises(bl.IncompatibleError, match=r"SupportsRestart.*gymnasium-preferences.*restarts=False"):
        bl.hypergradient_estimator("stoc-sobirl").estimate(world, x, solution, None, bl.randomness.stream(0, "e"))
    hyper = bl.hypergradient_estimator("sobirl", groups=4, truncation=3, restarts=False).estimate(
        world, x, solution, None, bl.randomness.stream(0, "e")
    )
    assert np.isfinite(hyper.gradient).all()


def test_transitions_that_depend_on_x_are_named_where_the_estimator_differentiates_rewards_only() -> None:
    lower = bl.ParametricMDP(
        bl.parametric.SoftmaxTransitions(KERNEL, np.ones((8, 2))), np.zeros((2, 2)), DISCOUNT, 0.8, np.array([0.5, 0.5])
    )
    moving = bl.BilevelProblem(lower, problem().objective, name="moving")
    with pytest.raises(bl.InputError, match="transitions depend on x and this occupancy differentiates rewards only"):
        bl.hypergradient_estimator("sobirl", groups=4).estimate(
            moving, X, follower(), None, bl.randomness.stream(0, "e")
        )


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sobirl", "groups"),
        ("sobirl", "truncation"),
        ("stoc-sobirl", "batch"),
        ("stoc-sobirl", "truncation"),
        ("hpgd", "batch"),
    ],
)
def test_counts_below_one_are_rejected_with_field_value_and_expectation(name: str, option: str) -> None:
    with pytest.raises(bl.InputError, match=rf"option '{option}' of '{name}' is 0; expected an integer of at least 1"):
        bl.hypergradient_estimator(name, **{option: 0})
