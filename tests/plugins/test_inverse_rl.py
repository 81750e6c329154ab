"""inverse-rl against what is known of maximum-entropy inverse reinforcement learning."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import scipy.optimize

import bilevelrl as bl
from plain_numpy import check_gradient, dense, discounted_visits, soft_policy

SMALL = {"size": 3, "ridge": 0.0, "discount": 0.8}


def shown(problem: bl.BilevelProblem) -> bl.Array:
    """d^E (S, A), as the leader has it."""
    table: bl.Array = problem.objective.terms[0][1].demonstrations
    return table


def fitted(problem: bl.BilevelProblem) -> tuple[bl.Array, float]:
    """The minimiser of φ and its value, to a gradient of 1e-10."""
    answer = scipy.optimize.minimize(
        lambda x: bl.value_and_gradient(problem, x),
        np.zeros(problem.dimension),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-10, "maxiter": 2000},
    )
    return answer.x, float(answer.fun)


def follower(problem: bl.BilevelProblem, x: bl.Array) -> tuple[bl.Array, bl.Array]:
    """The follower's policy and discounted visits at x, in plain NumPy."""
    model = problem.lower.model(x)
    policy = soft_policy(dense(model), model.rewards, model.discount, model.temperature)
    return policy, discounted_visits(dense(model), policy, model.discount, model.initial)


@pytest.mark.parametrize("options", [{}, {"features": "ground"}, {"demonstrations": 20, "ridge": 0.1}], ids=str)
def test_hypergradient_agrees_with_central_differences(options: dict[str, Any]) -> None:
    problem = bl.problem("inverse-rl", **(SMALL | options))
    check_gradient(problem, np.random.default_rng(0).standard_normal(problem.dimension))


@pytest.mark.parametrize("features", ["cells", "ground"])
def test_hypergradient_is_the_difference_of_feature_expectations(features: str) -> None:
    """`(1−γ) Σ φ (d^π − d^E)/τ + ridge x` (Ziebart et al. 2008), with d^π from plain NumPy."""
    problem = bl.problem("inverse-rl", **(SMALL | {"features": features, "ridge": 0.3, "temperature": 0.4}))
    x = np.random.default_rng(1).standard_normal(problem.dimension)
    _, visits = follower(problem, x)
    table = problem.lower.rewards.features.reshape(*visits.shape, -1)
    expected = 0.2 * np.einsum("sa,sak->k", visits - shown(problem), table) / 0.4 + 0.3 * x
    np.testing.assert_allclose(bl.value_and_gradient(problem, x)[1], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("features", ["cells", "ground"])
def test_optimum_matches_feature_expectations_and_recovers_the_demonstrator(features: str) -> None:
    """Gibbs: the cross-entropy is at least the demonstrator's entropy, with equality at her policy alone."""
    problem = bl.problem("inverse-rl", **(SMALL | {"features": features}))
    expert = shown(problem) / shown(problem).sum(axis=1, keepdims=True)
    entropy = -0.2 * float((shown(problem) * np.log(expert)).sum())
    x, value = fitted(problem)
    policy, visits = follower(problem, x)
    table = problem.lower.rewards.features.reshape(*visits.shape, -1)
    np.testing.assert_allclose(np.einsum("sa,sak->k", visits - shown(problem), table), 0.0, atol=1e-8)
    assert value == pytest.approx(entropy, abs=1e-9)
    # A cross-entropy within 1e-9 of its bound leaves policies within its square root (Pinsker), visits being O(1).
    np.testing.assert_allclose(policy, expert, atol=1e-4)
    for seed in range(5):
        assert bl.value_and_gradient(problem, np.random.default_rng(seed).standard_normal(x.size))[0] > entropy


def test_hidden_reward_makes_the_follower_the_demonstrator() -> None:
    """At grass 0, mud −0.5, water −1, goal 1 the follower's visits are the demonstrations."""
    problem = bl.problem("inverse-rl", **(SMALL | {"features": "ground", "slip": 0.3}))
    hidden = np.array([0.0, -0.5, -1.0, 1.0])
    np.testing.assert_allclose(follower(problem, hidden)[1], shown(problem), atol=1e-12)
    np.testing.assert_allclose(bl.value_and_gradient(problem, hidden)[1], 0.0, atol=1e-12)


def test_sampled_demonstrations_tend_to_the_exact_occupancy() -> None:
    """Their mass is `(1−γ^H)/(1−γ)` exactly; their error falls as the square root of their number."""
    exact, errors, counts = shown(bl.problem("inverse-rl", **SMALL)), [], (200, 20_000)
    for count in counts:
        table = shown(bl.problem("inverse-rl", **SMALL, demonstrations=count, horizon=80))
        assert table.sum() == pytest.approx((1 - 0.8**80) / (1 - 0.8), rel=1e-12)
        errors.append(float(np.linalg.norm(table - exact)))
    slope = np.log(errors[1] / errors[0]) / np.log(counts[1] / counts[0])
    # A chi distribution of some 35 degrees of freedom: either error is within a factor 1.5 of its mean.
    assert slope == pytest.approx(-0.5, abs=2 * np.log(1.5) / np.log(100))


def test_each_state_needs_only_the_demonstrations_that_pass_it() -> None:
    """A single short trajectory: the fit is still a likelihood, its gradient still exact."""
    problem = bl.problem("inverse-rl", **(SMALL | {"demonstrations": 1, "horizon": 2, "ridge": 0.1}))
    assert (shown(problem) > 0).sum() <= 2
    check_gradient(problem, np.random.default_rng(2).standard_normal(problem.dimension))


def test_m_sobirl_recovers_the_demonstrators_policy() -> None:
    run = bl.algorithm("m-sobirl", step_size=1.0).run(bl.problem("inverse-rl"), iterations=200)
    before, after = ({label: row[i] for label, *row in run.comparison()} for i in (0, 1))
    assert before["distance to the demonstrator's policy"] > 0.4
    assert after["distance to the demonstrator's policy"] < 0.02
    assert after["gap of feature expectations"] < 0.01 * before["gap of feature expectations"]
    assert after["reward correlation"] > 0.95
    assert 0.0 <= after["demonstrator's value lost"] < 0.01 * before["demonstrator's value lost"]


def test_baseline_keeps_m_sobirl_from_walking_off() -> None:
    """The same hyper-gradient; but M-SoBiRL follows an adjoint that it has only begun to solve for."""
    problem = bl.problem("inverse-rl")
    (weight, likelihood), ridge = problem.objective.terms
    plain = bl.objectives.WeightedSum([(weight, attrs.evolve(likelihood, baseline=None)), ridge])
    bare = attrs.evolve(problem, objective=plain)
    x = np.random.default_rng(3).standard_normal(problem.dimension)
    np.testing.assert_allclose(bl.value_and_gradient(bare, x)[1], bl.value_and_gradient(problem, x)[1], atol=1e-11)
    ends = [bl.algorithm("m-sobirl").run(p, iterations=500).objective for p in (bare, problem)]
    assert ends[0] > 5.0 > 0.9 > ends[1]


def test_instances_differ_and_repeat() -> None:
    first, again, other = (shown(bl.problem("inverse-rl", instance=instance)) for instance in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"size": 1}, "option 'size' of 'inverse-rl' is 1; expected an integer of at least 2"),
        ({"features": "cell"}, "option 'features' of 'inverse-rl' is 'cell'; expected a known name; did you mean"),
        ({"demonstrations": -1}, "option 'demonstrations' of 'inverse-rl' is -1; expected an integer of at least 0"),
        ({"ridge": -0.1}, "option 'ridge' of 'inverse-rl' is -0.1; expected a finite number at least 0"),
        ({"temperature": 0.0}, "option 'temperature' of 'inverse-rl' is 0.0; expected a finite number above 0"),
        ({"slip": 2.0}, "option 'slip' of 'inverse-rl' is 2.0; expected a finite number at least 0 and at most 1"),
        ({"discount": 1.0}, "option 'discount' of 'inverse-rl' is 1.0; expected a finite number at least 0 and below"),
    ],
)
def test_bad_options_are_told_in_one_sentence(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        bl.problem("inverse-rl", **option)
