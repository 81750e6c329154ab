"""The rivals that draw random numbers: two-point smoothing against the exact hyper-gradient; what HPGD needs.

(HPGD's expectation is enumerated in test_trajectory_estimators.py, beside its siblings'.)
"""

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import TINY, solve_rounding
from exact_answers import Exact, gradient_error, largest
from strategies import OBJECTIVES, discounts, drawn_objective, drawn_problems, policy_error, seeds

bounded_objectives = st.sampled_from([kind for kind in OBJECTIVES if kind != "log-likelihood"])
# Few coordinates: a correct estimator exceeds 5.2 standard errors in one with probability 2e-7.
LEVEL = 5.2


@given(drawn_problems(discount=discounts(0.0, 0.9)), bounded_objectives, seeds)
def test_one_direction_of_zero_order_is_the_directional_derivative(drawn, kind, seed):
    """`g = (∇φ·u) u` up to δ²: the step and the tolerance are those of the central differences in the laws' tests.

    With δ‖u‖ = η/L, L the rate of change of φ, Cauchy's estimate bounds the third derivative's term by `2η²·L·|f|`.
    """
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    (towards,) = np.random.default_rng(seed).standard_normal((1, drawn.dimension))
    length = float(np.linalg.norm(towards))
    direction = towards / length
    of_rewards = largest(drawn.reward_features @ direction) / drawn.temperature
    span = float(np.ptp(exact.values))
    of_kernel = largest(drawn.kernel_features @ direction) * (1 + drawn.discount * span / drawn.temperature)
    of_initial = largest(drawn.initial_features @ direction)
    rate = 1 + of_initial + (2 * of_rewards + 4 * of_kernel) / (1 - drawn.discount) ** 2
    eta = 1e-3
    step = eta / rate
    estimator = bl.hypergradient_estimator("zero-order", directions=1, smoothing=step / length, tolerance=1e-300)
    hyper = estimator.estimate(exact.problem, drawn.x, exact.solution, None, np.random.default_rng(seed))
    size = exact.strength + abs(exact.hyper.objective) + largest(exact.direct)
    rounding = policy_error(exact.solution) * exact.strength + solve_rounding(exact.solution.model) * size
    tolerance = 2 * eta**2 * rate * size + 2 * rounding / step + gradient_error(exact) * np.sqrt(drawn.dimension)
    tolerance = tolerance * length * largest(towards) + TINY
    assert hyper.gradient == pytest.approx((exact.hyper.gradient @ towards) * towards, rel=0, abs=tolerance)
    assert hyper.direct == pytest.approx((exact.direct @ towards) * towards, rel=0, abs=tolerance)
    assert hyper.standard_error is None


def quadratic_problem():
    problem = bl.problem("synthetic-quadratic", dimension=3, instance=1)
    x = np.array([0.5, -1.0, 0.8])
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, np.random.default_rng(0))
    return problem, x, solution


@pytest.mark.slow
def test_the_mean_over_directions_is_the_gradient_within_its_standard_error():
    problem, x, solution = quadratic_problem()
    estimator = bl.hypergradient_estimator("zero-order", directions=4000)
    hyper = estimator.estimate(problem, x, solution, None, np.random.default_rng(0))
    _, exact = bl.value_and_gradient(problem, x)

    # δ² = 1e-6 of φ's third derivative is far below a standard error of 1/√4000 of the gradient.
    def worst(gradient):
        return float((np.abs(gradient - exact) / hyper.standard_error).max())

    assert worst(hyper.gradient) < LEVEL
    assert worst(1.2 * hyper.gradient) > LEVEL, "blind to 20 %"
    assert worst(hyper.direct) > LEVEL, "the implicit part cannot be seen"


def test_zero_order_counts_the_follower_on_both_sides():
    """Started from the answer at x, both sides take the backups and solves that the solver itself reports."""
    problem, x, solution = quadratic_problem()
    hyper = bl.hypergradient_estimator("zero-order", directions=2).estimate(
        problem, x, solution, None, np.random.default_rng(3)
    )
    solver, expected = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-10), bl.Cost()
    for towards in np.random.default_rng(3).standard_normal((2, 3)):
        for sign in (1, -1):
            expected += solver.solve(problem, x + sign * 1e-3 * towards, solution, None).cost
    assert (hyper.cost.backups, hyper.cost.linear_solves) == (expected.backups, expected.linear_solves)
    assert hyper.cost.linear_solves >= 4
    assert hyper.cost.samples == 0


class Steps:
    """A loss of two steps: taking action 0 costs the more, the later."""

    horizon, trajectories = 2, 1

    def step_losses_and_gradient(self, x, paths, rng):
        return (paths.actions == 0) * np.array([1.0, 2.0]) * (1 + x[0] ** 2), np.zeros(2)

    def loss_and_gradient(self, x, paths, rng):
        losses, _ = self.step_losses_and_gradient(x, paths, rng)
        return losses.sum(axis=1), np.array([2 * x[0], 0.0]) * losses.sum(axis=1).mean() / (1 + x[0] ** 2)


def sampled_problem():
    kernel = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.9, 0.1]]])
    features = np.array([[[-1.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [1.0, 1.0]]])
    lower = bl.ParametricMDP(kernel, bl.parametric.LinearReward(np.zeros((2, 2)), features), 0.5, 0.8)
    problem, x = bl.BilevelProblem(lower, Steps()), np.array([0.4, -0.3])
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, np.random.default_rng(0))
    return problem, x, solution


def zero_order(problem, x, solution, seed=0, **options):
    estimator = bl.hypergradient_estimator("zero-order", **options)
    return estimator.estimate(problem, x, solution, None, np.random.default_rng(seed))


@pytest.mark.slow
def test_zero_order_over_trajectories_agrees_with_the_score_function():
    """Two estimators with nothing in common but the problem; within the standard error of both.

    δ = 0.05: a trajectory's actions change with probability of order δ, so that the noise of a difference is 1/√δ.
    The bias is δ²/6 times the third derivatives, which are of order one: 1e-3.
    """
    problem, x, solution = sampled_problem()
    hyper = zero_order(problem, x, solution, directions=1000, groups=500, smoothing=0.05)
    other = bl.hypergradient_estimator("stoc-sobirl", batch=200_000, blocks=50)
    reference = other.estimate(problem, x, solution, None, np.random.default_rng(1))
    difference = np.abs(hyper.gradient - reference.gradient)
    allowed = LEVEL * np.hypot(hyper.standard_error, reference.standard_error) + 5e-3
    assert (difference < allowed).all()
    assert np.linalg.norm(reference.implicit) > 2 * np.linalg.norm(allowed), "the implicit part cannot be seen"
    assert hyper.cost.samples == 500 * 2 * (1 + 4 * 1000)


def test_common_random_numbers_keep_the_noise_from_being_divided_by_the_step():
    problem, x, solution = sampled_problem()
    common, independent = (
        np.linalg.norm(
            zero_order(
                problem, x, solution, directions=100, groups=50, smoothing=1e-2, common_random_numbers=flag
            ).standard_error
        )
        for flag in (True, False)
    )
    assert common < 0.5 * independent


def test_the_same_stream_gives_the_same_zero_order_estimate():
    problem, x, solution = sampled_problem()
    first, second, other = (zero_order(problem, x, solution, seed, directions=3, groups=5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.gradient, second.gradient)
    assert not np.array_equal(first.gradient, other.gradient)


def test_a_follower_that_cannot_be_solved_on_one_side_is_told_in_the_status():
    """x − δu makes a reward overflow: the status says so, nothing is raised."""
    reward = bl.parametric.CallableReward(
        lambda x: np.array([[np.exp(x[0]), 0.0]]), lambda x, c: np.array([c[0, 0] * np.exp(x[0])]), 1
    )
    problem = bl.BilevelProblem(
        bl.ParametricMDP(np.ones((1, 2, 1)), reward, 0.5, 1.0), bl.objectives.QuadraticObjective()
    )
    x = np.zeros(1)
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, np.random.default_rng(0))
    with np.errstate(all="ignore"):
        hyper = zero_order(problem, x, solution, directions=4, smoothing=1e4)
    assert hyper.status is bl.Status.NON_FINITE


# --- What HPGD asks of a problem


def test_hpgd_on_a_preference_says_what_it_needs():
    problem = bl.problem("gridworld-preferences", size=3)
    algorithm = attrs.evolve(bl.algorithm("stoc-sobirl"), estimator=bl.hypergradient_estimator("hpgd"))
    expected = r"estimator 'hpgd' needs an objective that adds up over the steps of a trajectory \(StepwiseObjective\)"
    with pytest.raises(bl.IncompatibleError, match=expected):
        algorithm.check_compatible(problem)


def test_hpgd_tells_its_bias():
    assert bl.hypergradient_estimator("hpgd").tags == bl.Tags("unbiased", deterministic=False)
    truncated = bl.hypergradient_estimator("hpgd", truncation=3)
    assert truncated.tags == bl.Tags("biased", deterministic=False)
    assert (bl.hypergradient_estimator("hpgd").tags.bias_bound(0.9), truncated.tags.bias_bound(0.5)) == (0.0, 0.125)


def test_a_leaders_return_along_trajectories():
    """By hand: two trajectories of two steps, γ̄ = 1/2, r̄_sa = x_s + 10a."""
    reward = bl.parametric.StateReward(np.array([[0.0, 10.0], [0.0, 10.0]]))
    x = np.array([1.0, 2.0])
    paths = bl.sampling.Trajectories(np.array([[0, 1, 0], [1, 1, 0]]), np.array([[1, 0], [0, 1]]), np.zeros((2, 2)))
    objective = bl.objectives.TrajectoryReturnObjective(reward, horizon=2, discount=0.5)
    steps, gradient = objective.step_losses_and_gradient(x, paths, None)
    np.testing.assert_allclose(steps, [[-11.0, -1.0], [-2.0, -6.0]])
    np.testing.assert_allclose(objective.loss_and_gradient(x, paths, None)[0], [-12.0, -8.0])
    np.testing.assert_allclose(gradient, [-0.5, -(0.5 + 1.0 + 0.5) / 2])
    table = bl.objectives.TrajectoryReturnObjective([[1.0, 11.0], [2.0, 12.0]], horizon=2, discount=0.5)
    np.testing.assert_allclose(table.step_losses_and_gradient(x, paths, None)[0], steps)
    assert (table.loss_and_gradient(x, paths, None)[1] == 0).all()
    assert isinstance(objective, bl.objectives.StepwiseObjective)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rewards": [1.0, 2.0], "horizon": 2}, r"TrajectoryReturnObjective.rewards is \(2,\); expected \(any, any\)"),
        ({"rewards": [[np.nan]], "horizon": 2}, r"rewards\[0, 0\] is nan; expected a finite number"),
        ({"rewards": [[1.0]], "horizon": 0}, "horizon is 0; expected an integer of at least 1"),
        ({"rewards": [[1.0]], "horizon": 1, "discount": 1.5}, "discount is 1.5; expected a finite number"),
    ],
)
def test_a_leaders_return_rejects_what_it_cannot_be_of(options, told):
    with pytest.raises(bl.InputError, match=told):
        bl.objectives.TrajectoryReturnObjective(**options)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("directions", 0, "an integer of at least 1"),
        ("smoothing", 0.0, "a finite number above 0"),
        ("groups", 0, "an integer of at least 1"),
        ("common_random_numbers", 1, "true or false"),
    ],
)
def test_bad_options_of_zero_order_are_told(option, value, told):
    with pytest.raises(bl.InputError, match=rf"option '{option}' of 'zero-order' is {value}; expected {told}"):
        bl.hypergradient_estimator("zero-order", **{option: value})
