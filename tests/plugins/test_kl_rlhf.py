"""kl-rlhf against its closed form and against exhaustive enumeration of all pairs of sequences."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from plain_numpy import check_gradient

TINY = {"vocabulary": 2, "length": 2, "discount": 0.8, "temperature": 0.5, "noisy": False}
X = np.array([1.0, -1.0, 0.5, -0.5])
# Four coordinates: a correct estimator exceeds 5.2 standard errors in any of them with probability 8e-7.
LEVEL = 5.2


@functools.cache
def tiny() -> bl.BilevelProblem:
    return bl.problem("kl-rlhf", **TINY)


def hidden_reward(problem: bl.BilevelProblem) -> bl.Array:
    """x at which the follower has the labeller's reward: one entry a pair (last, next)."""
    size = problem.lower.model(np.zeros(problem.dimension)).actions
    table: bl.Array = problem.objective.labeller.rewards[:size].reshape(-1)
    return table


def closed_form(problem: bl.BilevelProblem, x: bl.Array) -> bl.Array:
    """(H, V, V) `π ∝ μ exp((x_(last,next) + γ V_(h+1)(next))/τ)`, by recursion from the last token backwards."""
    model = problem.lower.model(np.zeros(problem.dimension))
    size, length = model.actions, (model.states - 1) // model.actions
    reference, scores = model.reference[:size], x.reshape(size, size)
    values, policies = np.zeros(size), []
    for _ in range(length):
        weights = reference * np.exp((scores + model.discount * values) / model.temperature)
        policies.append(weights / weights.sum(axis=1, keepdims=True))
        values = model.temperature * np.log(weights.sum(axis=1))
    return np.array(policies[::-1])


def solved(problem: bl.BilevelProblem, x: bl.Array) -> bl.mdp.TabularSolution:
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13)
    return solver.solve(problem, x, None, bl.randomness.stream(0, "lower"))


def expected_loss(x: bl.Array, policies: bl.Array, hidden: bl.Array) -> float:
    """The Bradley–Terry loss over all pairs of sequences, each with its probability under the policies."""
    length, size, _ = policies.shape
    sequences = list(itertools.product(range(size), repeat=length + 1))
    chances, learnt, true = [], [], []
    for sequence in sequences:
        steps = list(itertools.pairwise(sequence))
        chances.append(np.prod([policies[h][last, new] for h, (last, new) in enumerate(steps)]) / size)
        learnt.append(sum(x.reshape(size, size)[last, new] for last, new in steps))
        true.append(sum(hidden.reshape(size, size)[last, new] for last, new in steps))
    assert sum(chances) == pytest.approx(1.0)
    total = 0.0
    for i, j in itertools.product(range(len(sequences)), repeat=2):
        answer = 1 / (1 + np.exp(-(true[i] - true[j])))
        margin = learnt[i] - learnt[j]
        loss = answer * np.log1p(np.exp(-margin)) + (1 - answer) * np.log1p(np.exp(margin))
        total += chances[i] * chances[j] * loss
    return float(total)


def parts_at(x: bl.Array) -> tuple[bl.Array, bl.Array]:
    """(direct, implicit) by central differences of the enumerated loss: in x alone, and in the policy alone."""
    hidden, here, step = hidden_reward(tiny()), closed_form(tiny(), x), 1e-5
    direct, implicit = np.zeros(4), np.zeros(4)
    for k, shift in enumerate(step * np.eye(4)):
        direct[k] = (expected_loss(x + shift, here, hidden) - expected_loss(x - shift, here, hidden)) / (2 * step)
        policies = [closed_form(tiny(), x + sign * shift) for sign in (1, -1)]
        implicit[k] = (expected_loss(x, policies[0], hidden) - expected_loss(x, policies[1], hidden)) / (2 * step)
    return direct, implicit


@functools.cache
def exact_parts() -> tuple[bl.Array, bl.Array]:
    """The parts at X."""
    return parts_at(X)


@pytest.mark.parametrize("options", [{}, {"length": 1}, {"discount": 0.0}, {"temperature": 0.2, "length": 4}], ids=str)
def test_follower_is_the_closed_form(options: dict[str, Any]) -> None:
    problem = bl.problem("kl-rlhf", vocabulary=3, **options)
    x = np.random.default_rng(0).standard_normal(9)
    expected = closed_form(problem, x).reshape(-1, 3)
    np.testing.assert_allclose(solved(problem, x).policy[:-1], expected, rtol=1e-10)


@pytest.mark.parametrize("options", [{"length": 1}, {"discount": 0.0}], ids=str)
def test_without_a_future_the_policy_is_the_reference_tilted_by_the_reward(options: dict[str, Any]) -> None:
    """`π = μ exp(r/τ)/Z`: one token, or γ = 0; and at x = 0 it is the reference model, at any length."""
    problem = bl.problem("kl-rlhf", vocabulary=4, temperature=0.5, **options)
    reference = problem.lower.model(np.zeros(16)).reference[:4]
    x = np.random.default_rng(1).standard_normal((4, 4))
    tilted = reference * np.exp(x / 0.5)
    expected = tilted / tilted.sum(axis=1, keepdims=True)
    policy = solved(problem, x.reshape(-1)).policy[:-1].reshape(-1, 4, 4)
    np.testing.assert_allclose(policy, np.broadcast_to(expected, policy.shape), rtol=1e-12)
    at_zero = solved(bl.problem("kl-rlhf", vocabulary=4), np.zeros(16)).policy
    np.testing.assert_allclose(at_zero[:4], reference, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sobirl", {"groups": 400_000, "truncation": 2}),
        ("stoc-sobirl", {"batch": 400_000, "truncation": 2}),
        ("stoc-sobirl", {"batch": 400_000}),
    ],
    ids=str,
)
def test_gradient_from_trajectories_is_that_of_the_enumeration(name: str, options: dict[str, Any]) -> None:
    """Two steps are all there are, so that a truncation of two is none. 5 % in either part would be seen."""
    estimator = bl.hypergradient_estimator(name, blocks=100, **options)
    hyper = estimator.estimate(tiny(), X, solved(tiny(), X), None, bl.randomness.stream(0, "estimator"))
    direct, implicit = exact_parts()
    assert (np.abs(hyper.gradient - direct - implicit) <= LEVEL * hyper.standard_error).all()
    for part in (direct, implicit):
        faulty = np.abs(hyper.gradient + 0.05 * part - direct - implicit)
        assert (faulty > LEVEL * hyper.standard_error).any()
    value = expected_loss(X, closed_form(tiny(), X), hidden_reward(tiny()))
    # The losses, at most log(1 + e^4), spread over less than 2: the standard error of their mean is below 2/√400,000.
    assert hyper.objective == pytest.approx(value, abs=LEVEL * 2 / np.sqrt(400_000))


def test_erring_labeller_has_the_same_gradient_on_average() -> None:
    problem = bl.problem("kl-rlhf", **(TINY | {"noisy": True}))
    np.testing.assert_array_equal(hidden_reward(problem), hidden_reward(tiny()))
    estimator = bl.hypergradient_estimator("sobirl", groups=400_000, truncation=2, blocks=100)
    hyper = estimator.estimate(problem, X, solved(problem, X), None, bl.randomness.stream(1, "estimator"))
    assert (np.abs(hyper.gradient - np.sum(exact_parts(), axis=0)) <= LEVEL * hyper.standard_error).all()


def test_hidden_reward_is_where_the_direct_part_vanishes() -> None:
    """There the learnt probabilities are the labeller's: no answer surprises, whatever is compared."""
    hidden = hidden_reward(tiny())
    paths = (
        tiny().lower.simulator(hidden).rollout(solved(tiny(), hidden).policy, 200, 2, bl.randomness.stream(0, "paths"))
    )
    _, direct = tiny().objective.loss_and_gradient(hidden, paths, bl.randomness.stream(0, "labels"))
    np.testing.assert_allclose(direct, 0.0, atol=1e-15)
    offline = bl.problem("kl-rlhf", preferences="offline", noisy=False)
    online = bl.problem("kl-rlhf", noisy=False)
    _, gradient = bl.value_and_gradient(offline, hidden_reward(online))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-14)


def test_hidden_reward_does_not_minimise_the_online_loss() -> None:
    """No answer surprises there, yet the loss can fall: through what the follower then writes."""
    hidden = hidden_reward(tiny())
    direct, implicit = parts_at(hidden)
    np.testing.assert_allclose(direct, 0.0, atol=1e-9)
    # Errors of the differences are 1e-10; this is far above them.
    assert np.linalg.norm(implicit) > 1e-3
    moved = hidden - implicit
    losses = [expected_loss(x, closed_form(tiny(), x), hidden) for x in (hidden, moved)]
    assert losses[1] < losses[0]


def test_offline_loss_is_the_mean_over_its_pairs_and_has_no_implicit_part() -> None:
    problem = bl.problem("kl-rlhf", vocabulary=3, length=3, preferences="offline", pairs=40)
    x = np.random.default_rng(2).standard_normal(9)
    data, scores, losses = problem.objective.dataset, x.reshape(3, 3), []
    for index, label in enumerate(data.labels):
        sums = []
        for paths in (data.first, data.second):
            states, tokens = paths.observations[index], paths.actions[index]
            sums.append(sum(scores[state % 3, token] for state, token in zip(states[:-1], tokens, strict=True)))
        chance = 1 / (1 + np.exp(sums[1] - sums[0]))
        losses.append(-label * np.log(chance) - (1 - label) * np.log(1 - chance))
    assert bl.value_and_gradient(problem, x)[0] == pytest.approx(np.mean(losses), rel=1e-12)
    check_gradient(problem, x)
    hyper = bl.algorithm("m-sobirl").evaluate(problem, x).hyper
    np.testing.assert_array_equal(hyper.implicit, 0.0)


def test_measures_are_what_a_walk_through_the_positions_gives() -> None:
    """Hidden return and KL by a forward recursion over positions; nothing is lost at the hidden reward."""
    problem = bl.problem("kl-rlhf", vocabulary=3, length=4, discount=0.9, temperature=0.6)
    hidden, x = hidden_reward(problem), np.random.default_rng(3).standard_normal(9)
    reference = problem.lower.model(x).reference[:3]

    def walk(policies: bl.Array) -> tuple[float, float]:
        last, earned, divergence = np.full(3, 1 / 3), 0.0, 0.0
        for h, policy in enumerate(policies):
            pairs = last[:, None] * policy
            earned += 0.9**h * float((pairs * hidden.reshape(3, 3)).sum())
            divergence += 0.9**h * float((pairs * np.log(policy / reference)).sum())
            last = pairs.sum(axis=0)
        return earned, divergence

    (earned, divergence), best = walk(closed_form(problem, x)), walk(closed_form(problem, hidden))
    measures = problem.measures(x, solved(problem, x))
    assert measures["follower's hidden return"] == pytest.approx(earned, abs=1e-10)
    assert measures["KL to the reference, nats"] == pytest.approx(divergence, abs=1e-10)
    lost = (best[0] - 0.6 * best[1]) - (earned - 0.6 * divergence)
    assert measures["regularised value lost"] == pytest.approx(lost, abs=1e-10)
    assert lost > 0
    at_best = problem.measures(hidden, solved(problem, hidden))
    assert at_best["regularised value lost"] == pytest.approx(0.0, abs=1e-10)
    assert at_best["distance to the ideal policy"] == pytest.approx(0.0, abs=1e-10)
    assert at_best["reward correlation"] == pytest.approx(1.0)


def test_online_preferences_need_an_algorithm_that_samples_and_the_message_names_some() -> None:
    with pytest.raises(bl.IncompatibleError, match=r"needs an objective of the policy .*'sobirl', 'stoc-sobirl'"):
        bl.algorithm("m-sobirl").run(bl.problem("kl-rlhf"), iterations=1)


@pytest.mark.parametrize(
    ("preferences", "name", "options", "most_lost"),
    [
        ("online", "sobirl", {"step_size": 0.1, "groups": 64, "truncation": 10, "samples": 5000}, 0.8),
        pytest.param(
            *("online", "stoc-sobirl", {"step_size": 0.1, "batch": 32, "samples": 5000}, 0.8), marks=pytest.mark.slow
        ),
        ("offline", "m-sobirl", {"step_size": 1.0}, 0.1),
    ],
)
def test_fine_tuning_earns_what_the_labeller_likes(
    preferences: str, name: str, options: dict[str, Any], most_lost: float
) -> None:
    """The untuned model loses 1.75 of the best regularised value."""
    problem = bl.problem("kl-rlhf", preferences=preferences)
    run = bl.algorithm(name, **options).run(problem, iterations=200)
    before, after = ({label: row[i] for label, *row in run.comparison()} for i in (0, 1))
    assert before["regularised value lost"] == pytest.approx(1.75, abs=0.01)
    assert after["regularised value lost"] < most_lost
    assert after["follower's hidden return"] > before["follower's hidden return"] + 1.0
    assert after["reward correlation"] > 0.6


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"vocabulary": 1}, "option 'vocabulary' of 'kl-rlhf' is 1; expected an integer of at least 2"),
        ({"length": 0}, "option 'length' of 'kl-rlhf' is 0; expected an integer of at least 1"),
        ({"preferences": "onlin"}, "option 'preferences' of 'kl-rlhf' is 'onlin'; .* did you mean 'online'"),
        ({"pairs": 0}, "option 'pairs' of 'kl-rlhf' is 0; expected an integer of at least 1"),
        ({"temperature": 0.0}, "option 'temperature' of 'kl-rlhf' is 0.0; expected a finite number above 0"),
        ({"sharpness": -1.0}, "option 'sharpness' of 'kl-rlhf' is -1.0; expected a finite number at least 0"),
        ({"noisy": "no"}, "option 'noisy' of 'kl-rlhf' is 'no'; expected true or false"),
    ],
)
def test_bad_options_are_told_in_one_sentence(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        bl.problem("kl-rlhf", **option)
