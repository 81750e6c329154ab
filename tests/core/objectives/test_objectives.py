"""The leader's objectives: each value by its formula, each gradient by central differences in x and in π."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON, solve_rounding
from strategies import OBJECTIVES, discounts, drawn_objective, drawn_policy, drawn_problems, seeds, soft_mdps, solved

# γ stops at 0.95 where differences are taken: a return's k-th derivative grows as 1/(1−γ)^(k+1).
smooth_problems = drawn_problems(discount=discounts(0.0, 0.95))


def interior_policy(drawn, rng):
    """A policy with no entry near zero, where `log π` can be differentiated with an ordinary step."""
    shape = drawn.base_rewards.shape
    return 0.5 * drawn_policy(rng, *shape) + 0.5 / shape[1]


@given(smooth_problems, st.sampled_from(OBJECTIVES), seeds)
def test_the_gradients_agree_with_central_differences(drawn, kind, seed):
    """`∂f/∂x` at fixed π, and `∂f/∂π` with the entries of π taken as independent, along random directions.

    The step is a thousandth of the scale on which a return bends, `1−γ` (a fourth-order formula, so wrong by 4e-12
    of its size); rounding in f, 1/(1−γ) ulps of it for the linear solve, comes back divided by the step.
    """
    rng = np.random.default_rng(seed)
    objective = drawn_objective(drawn, kind, rng)
    policy = interior_policy(drawn, rng)
    value, by_x, by_policy = objective.value_and_gradients(drawn.x, policy)
    assert by_x.shape == drawn.x.shape
    assert by_policy.shape == policy.shape
    in_x, in_policy = rng.normal(size=drawn.dimension), rng.uniform(-1, 1, size=policy.shape) * policy
    features = 1 + sum(float(np.abs(f @ in_x).max()) for f in (drawn.kernel_features, drawn.initial_features))
    features += float(np.abs(drawn.reward_features @ in_x).max())
    step = 1e-3 * (1 - drawn.discount) / features
    size = abs(value) + np.abs(policy * by_policy).sum() + np.abs(by_x).sum() + 1 / (1 - drawn.discount)
    tolerance = (4e-11 * features / (1 - drawn.discount) + 4 * solve_rounding_of(drawn) / step) * size

    def quotient(function):
        return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)

    along_x = quotient(lambda h: objective.value_and_gradients(drawn.x + h * in_x, policy)[0])
    along_policy = quotient(lambda h: objective.value_and_gradients(drawn.x, policy + h * in_policy)[0])
    assert by_x @ in_x == pytest.approx(along_x, rel=0, abs=tolerance)
    assert (by_policy * in_policy).sum() == pytest.approx(along_policy, rel=0, abs=tolerance)


def solve_rounding_of(drawn):
    return solve_rounding(drawn.lower.model(drawn.x))


# --- Quadratic


@given(smooth_problems, seeds)
def test_the_quadratic_objective_is_its_formula(drawn, seed):
    """`½a‖x − x̂‖² + ½b‖π − π̂‖²_F`, targets zero by default."""
    rng = np.random.default_rng(seed)
    policy = interior_policy(drawn, rng)
    target_x, target_policy = rng.normal(size=drawn.dimension), rng.normal(size=policy.shape)
    value, by_x, by_policy = bl.objectives.QuadraticObjective(2.0, 3.0, target_x, target_policy).value_and_gradients(
        drawn.x, policy
    )
    expected = np.sum((drawn.x - target_x) ** 2) + 1.5 * np.sum((policy - target_policy) ** 2)
    assert value == pytest.approx(expected, rel=1e-14)
    assert by_x == pytest.approx(2 * (drawn.x - target_x), rel=1e-15)
    assert by_policy == pytest.approx(3 * (policy - target_policy), rel=1e-15)
    plain, by_x, by_policy = bl.objectives.QuadraticObjective().value_and_gradients(drawn.x, policy)
    assert plain == pytest.approx(0.5 * np.sum(drawn.x**2) + 0.5 * np.sum(policy**2), rel=1e-14)
    assert (by_x == drawn.x).all()
    assert (by_policy == policy).all()


@pytest.mark.parametrize("field", ["x_weight", "policy_weight"])
def test_a_negative_weight_is_refused(field):
    with pytest.raises(bl.InputError, match=f"{field} is -1.0; expected a finite number at least 0"):
        bl.objectives.QuadraticObjective(**{field: -1.0})


# --- Return


@given(soft_mdps(), seeds)
def test_the_return_is_minus_the_unregularised_value_from_the_start(mdp, seed):
    """`f = −ρ̄ᵀV̄^π`, where temperature and reference measure play no part; also `−⟨d, r⟩` by the occupancy."""
    policy = drawn_policy(np.random.default_rng(seed), mdp.states, mdp.actions)
    value, by_x, _ = bl.objectives.ReturnObjective(mdp).value_and_gradients(np.zeros(3), policy)
    size = solve_rounding(mdp) * np.abs(mdp.rewards).max() / (1 - mdp.discount)
    expected = -mdp.initial @ bl.mdp.policy_values(mdp, policy, regularized=False)
    by_occupancy = -(bl.mdp.discounted_occupancy(mdp, policy) * mdp.rewards).sum()
    assert value == pytest.approx(expected, rel=0, abs=size)
    assert value == pytest.approx(by_occupancy, rel=0, abs=size)
    assert by_x.tolist() == [0.0] * 3


@given(soft_mdps(), seeds)
def test_the_policy_gradient_is_occupancy_times_action_value(mdp, seed):
    """`∂f/∂π_sa = −d^π(s) Q̄^π(s,a)`; with a baseline `−d^π(s) (Q̄^π − V̄^π)(s,a)`, whose mean under π is zero."""
    policy = drawn_policy(np.random.default_rng(seed), mdp.states, mdp.actions)
    values = bl.mdp.policy_values(mdp, policy, regularized=False)
    visits = bl.mdp.discounted_occupancy(mdp, policy).sum(axis=1, keepdims=True)
    action_values = mdp.rewards + mdp.discount * mdp.transitions.expectation(values)
    plain, with_baseline = (
        bl.objectives.ReturnObjective(mdp, baseline=baseline).value_and_gradients(np.zeros(1), policy)[2]
        for baseline in (False, True)
    )
    size = solve_rounding(mdp) * np.abs(mdp.rewards).max() / (1 - mdp.discount) ** 2
    assert plain == pytest.approx(-visits * action_values, rel=0, abs=size)
    assert with_baseline == pytest.approx(-visits * (action_values - values[:, None]), rel=0, abs=size)
    assert (policy * with_baseline).sum(axis=1) == pytest.approx(np.zeros(mdp.states), rel=0, abs=size)


@given(smooth_problems)
def test_a_baseline_leaves_the_hypergradient_unchanged(drawn):
    """It adds a number per state to ∂f/∂π, and π's rows sum to one."""
    gradients = []
    for baseline in (False, True):
        problem = bl.BilevelProblem(drawn.lower, bl.objectives.ReturnObjective(drawn.lower, baseline=baseline))
        solution = solved(problem.lower.model(drawn.x))
        estimator = bl.hypergradient_estimator("implicit")
        hyper = estimator.estimate(problem, drawn.x, solution, None, np.random.default_rng(0))
        gradients.append(hyper.gradient)
    slope = drawn.action_value_slope(drawn.x, solution.values) + np.abs(drawn.initial_features).max()
    strength = (1 + np.abs(solution.values).max()) / (drawn.temperature * (1 - drawn.discount) ** 2)
    rewards = 1 + np.abs(solution.model.rewards).max() / (1 - drawn.discount)
    tolerance = solve_rounding(solution.model) * strength * rewards * slope
    assert gradients[0] == pytest.approx(gradients[1], rel=0, abs=tolerance)


def test_a_return_of_something_that_is_no_mdp_is_refused():
    with pytest.raises(bl.InputError, match=r"true_mdp is a ndarray; expected a SoftMDP"):
        bl.objectives.ReturnObjective(np.zeros((2, 2)))


def test_a_baseline_is_asked_for_by_true_or_false():
    with pytest.raises(bl.InputError, match="baseline is 'value'; expected True or False"):
        bl.objectives.ReturnObjective(bl.SoftMDP(np.ones((1, 1, 1)), [[0.0]], 0.5, 1.0), baseline="value")


# --- Log-likelihood


@given(smooth_problems, seeds)
def test_the_log_likelihood_is_its_formula(drawn, seed):
    """`−Σ d^E log π`, zero where nothing is shown, whatever π is there."""
    rng = np.random.default_rng(seed)
    policy = interior_policy(drawn, rng)
    shown = rng.exponential(size=policy.shape) * (rng.random(policy.shape) < 0.7)
    value, by_x, by_policy = bl.objectives.LogLikelihoodObjective(shown).value_and_gradients(drawn.x, policy)
    rounding = policy.size * EPSILON * float((shown * np.abs(np.log(policy))).sum())
    assert value == pytest.approx(-float((shown * np.log(policy)).sum()), rel=0, abs=rounding)
    assert by_policy == pytest.approx(-shown / policy, rel=4 * EPSILON, abs=0)
    assert by_x.tolist() == [0.0] * drawn.dimension


def test_a_demonstrated_action_of_probability_zero_is_infinitely_unlikely():
    """Infinite, without a warning; an action of probability zero that nobody showed costs nothing."""
    policy = np.array([[1.0, 0.0]])
    value, _, by_policy = bl.objectives.LogLikelihoodObjective([[1.0, 1.0]]).value_and_gradients(np.zeros(1), policy)
    assert value == np.inf
    assert by_policy.tolist() == [[-1.0, -np.inf]]
    value, _, by_policy = bl.objectives.LogLikelihoodObjective([[1.0, 0.0]]).value_and_gradients(np.zeros(1), policy)
    assert value == 0.0
    assert by_policy.tolist() == [[-1.0, 0.0]]


@given(drawn_problems(discount=discounts(0.0, 0.95), enters=st.just(("rewards",))), seeds)
def test_a_baseline_leaves_the_likelihoods_adjoint_nothing_to_do(drawn, seed):
    """At exact demonstrations `∂f/∂π` with the baseline pulls back to `(d^π − d^E)/τ` with an adjoint of zero."""
    rng = np.random.default_rng(seed)
    mdp = drawn.lower.model(drawn.x)
    shown = bl.mdp.discounted_occupancy(mdp, interior_policy(drawn, rng))
    policy = interior_policy(drawn, rng)
    value, _, plain = bl.objectives.LogLikelihoodObjective(shown).value_and_gradients(drawn.x, policy)
    same, _, by_policy = bl.objectives.LogLikelihoodObjective(shown, mdp).value_and_gradients(drawn.x, policy)
    assert same == value
    spread = np.ptp(by_policy - plain, axis=1)
    size = solve_rounding(mdp) * (1 + np.abs(plain).max()) / (1 - mdp.discount)
    assert spread == pytest.approx(np.zeros(len(policy)), rel=0, abs=size)
    cotangent = bl.mdp.policy_cotangent(mdp, policy, by_policy)
    expected = (bl.mdp.discounted_occupancy(mdp, policy) - shown) / mdp.temperature
    assert cotangent == pytest.approx(expected, rel=0, abs=size / mdp.temperature)
    target = bl.mdp.adjoint_right_hand_side(mdp, cotangent)
    assert target == pytest.approx(np.zeros(len(policy)), rel=0, abs=policy.size * size / mdp.temperature)


@pytest.mark.parametrize(
    ("baseline", "sentence"),
    [
        (True, "LogLikelihoodObjective.baseline is a bool; expected a SoftMDP or None"),
        (bl.SoftMDP(np.ones((1, 1, 1)), [[0.0]], 0.5, 1.0), r"demonstrations is \(1, 2\); expected \(1, 1\)"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused(baseline, sentence):
    with pytest.raises(bl.InputError, match=sentence):
        bl.objectives.LogLikelihoodObjective([[1.0, 1.0]], baseline)


def test_negative_demonstrations_are_refused():
    with pytest.raises(bl.InputError, match=r"the smallest entry of demonstrations is -1.0; expected at least 0"):
        bl.objectives.LogLikelihoodObjective([[1.0, -1.0]])


# --- Sum


@given(smooth_problems, seeds)
def test_a_weighted_sum_adds_values_and_gradients(drawn, seed):
    rng = np.random.default_rng(seed)
    policy = interior_policy(drawn, rng)
    weights = rng.normal(size=3)
    terms = [drawn_objective(drawn, kind, rng) for kind in OBJECTIVES[:3]]
    total = bl.objectives.WeightedSum(list(zip(weights, terms, strict=True))).value_and_gradients(drawn.x, policy)
    parts = [term.value_and_gradients(drawn.x, policy) for term in terms]
    for index in range(3):
        expected = sum(weight * part[index] for weight, part in zip(weights, parts, strict=True))
        size = max(float(np.abs(part[index]).max(initial=0.0)) for part in parts)
        assert total[index] == pytest.approx(expected, rel=0, abs=8 * EPSILON * np.abs(weights).sum() * size)


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(bl.InputError, match=r"WeightedSum.terms is empty; expected at least one pair"):
        bl.objectives.WeightedSum([])
