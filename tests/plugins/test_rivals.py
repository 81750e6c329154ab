"""The model-based rivals against the exact hyper-gradient: where they should agree, by how much they may not."""

import attrs
import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON, TINY, solve_rounding
from exact_answers import (
    Exact,
    complex_step,
    gradient_error,
    largest,
    lower_level_gradient,
    unrolled_gradient,
)
from strategies import (
    OBJECTIVES,
    discounts,
    drawn_objective,
    drawn_policy,
    drawn_problems,
    policy_error,
    seeds,
    solved,
    temperatures,
)

bounded_objectives = st.sampled_from([kind for kind in OBJECTIVES if kind != "log-likelihood"])


def exact_answer(drawn, kind, seed):
    return Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))


def estimate(exact, name, solution=None, previous=None, **options):
    estimator = bl.hypergradient_estimator(name, **options)
    rng = np.random.default_rng(0)
    return estimator.estimate(exact.problem, exact.drawn.x, solution or exact.solution, previous, rng)


def at_policy(exact, policy):
    """A solution with any policy, and its regularised values."""
    mdp = exact.solution.model
    values = bl.mdp.policy_values(mdp, policy)
    action_values = mdp.rewards + mdp.discount * mdp.transitions.expectation(values)
    cost = bl.Cost()
    return bl.mdp.TabularSolution(mdp, policy, values, action_values, 1.0, 1, bl.Status.BUDGET_SPENT, cost)


def largest_implicit_part(exact):
    """`2‖c‖₁ max‖∇q‖∞/(1−γ)` with c centred: what a bias bound is a share of."""
    gradient, policy, drawn = exact.by_policy, exact.policy, exact.drawn
    centred = policy * (gradient - (policy * gradient).sum(axis=1, keepdims=True))
    slope = drawn.action_value_slope(drawn.x, exact.values)
    return 2 * np.abs(centred).sum() / drawn.temperature * slope / (1 - drawn.discount)


# --- direct-only


@given(drawn_problems(), bounded_objectives, seeds)
def test_direct_only_is_the_direct_part_and_nothing_else(drawn, kind, seed):
    exact = exact_answer(drawn, kind, seed)
    hyper = estimate(exact, "direct-only")
    assert (hyper.gradient == exact.hyper.direct).all()
    assert (hyper.implicit == 0).all()
    assert hyper.objective == exact.hyper.objective
    assert hyper.standard_error is None
    assert (hyper.cost.samples, hyper.cost.backups, hyper.cost.linear_solves) == (0, 0, 0)


@given(drawn_problems(), bounded_objectives, seeds)
def test_direct_only_misses_no_more_than_a_whole_implicit_part(drawn, kind, seed):
    exact = exact_answer(drawn, kind, seed)
    missed = largest(estimate(exact, "direct-only").gradient - exact.hyper.gradient)
    bound = bl.hypergradient_estimator("direct-only").tags.bias_bound(drawn.discount)
    assert missed <= bound * largest_implicit_part(exact) * (1 + solve_rounding(exact.solution.model)) + exact.algebra


def preferences(**options):
    problem = bl.problem("gridworld-preferences", size=3, horizon=6, **options)
    x = np.random.default_rng(1).normal(size=problem.dimension)
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, bl.randomness.stream(0, "lower"))
    return problem, x, solution


def test_direct_only_over_trajectories_agrees_with_the_direct_part_of_another_estimator():
    """Two independent samples of `E[∂l/∂x]`; their difference has the standard error of both."""
    problem, x, solution = preferences(noisy=False)
    own = bl.hypergradient_estimator("direct-only", groups=50_000, blocks=50)
    hyper = own.estimate(problem, x, solution, None, bl.randomness.stream(0, "estimator"))
    other = bl.hypergradient_estimator("sobirl", groups=50_000, truncation=1, blocks=50)
    reference = other.estimate(problem, x, solution, None, bl.randomness.stream(1, "estimator"))
    # The implicit part of a reward of the state alone is zero after one step: sobirl's error is its direct part's.
    np.testing.assert_allclose(reference.implicit, 0, atol=1e-12)
    z = (hyper.gradient - reference.direct) / np.hypot(hyper.standard_error, reference.standard_error)
    assert np.abs(z).max() < 5.2  # nine coordinates: passed over by chance once in half a million
    assert hyper.cost.samples == 2 * 50_000 * 6
    assert np.linalg.norm(reference.direct) > 50 * np.linalg.norm(hyper.standard_error), "nothing to tell apart"


def test_direct_only_serves_a_follower_that_has_a_model_and_no_simulator():
    problem, x, solution = preferences()

    class ModelOnly:
        dimension, model, pullback = problem.dimension, problem.lower.model, problem.lower.pullback

    hidden = attrs.evolve(problem, lower=ModelOnly())
    estimator = bl.hypergradient_estimator("direct-only", groups=5)
    first, second = (
        estimator.estimate(each, x, solution, None, bl.randomness.stream(0, "estimator")) for each in (problem, hidden)
    )
    np.testing.assert_array_equal(first.gradient, second.gradient)


def test_direct_only_has_no_standard_error_from_one_block():
    problem, x, solution = preferences()
    estimator = bl.hypergradient_estimator("direct-only", groups=4, blocks=1)
    assert estimator.estimate(problem, x, solution, None, bl.randomness.stream(0, "estimator")).standard_error is None


# --- itd


@given(drawn_problems(discount=discounts(0.0, 0.99)), bounded_objectives, seeds, st.integers(1, 30))
def test_itd_from_zero_is_the_derivative_of_the_unrolled_objective(drawn, kind, seed, backups):
    """Against the same iteration written out on dense arrays; both differ from ∇φ, and by rounding from each other."""
    exact = exact_answer(drawn, kind, seed)
    hyper = estimate(exact, "itd", backups=backups, start="zero")
    unrolled = unrolled_gradient(exact, backups)
    # Both round π by 16 ulps of r/τ and v/τ, and a return sees what π does multiplied by 1/(1−γ).
    mdp = exact.solution.model
    size = 1 + largest(mdp.rewards) / (drawn.temperature * (1 - drawn.discount))
    tolerance = 4 * (1 + size) * solve_rounding(mdp) / (1 - drawn.discount)
    bound = drawn.action_value_slope(drawn.x, exact.values + largest(mdp.rewards) / (1 - drawn.discount))
    scale = strength_bound(exact, backups) * 2 * bound / (drawn.temperature * (1 - drawn.discount))
    assert hyper.gradient == pytest.approx(unrolled, rel=0, abs=tolerance * (scale + largest(hyper.direct)) + TINY)
    assert (hyper.cost.backups, hyper.cost.products, hyper.cost.linear_solves) == (backups + 1, 0, 0)


def strength_bound(exact, backups):
    """`Σ π|G|` at the policy after the backups from zero."""
    mdp = exact.solution.model
    policy = bl.mdp.soft_backup(mdp, bl.mdp.soft_bellman(mdp, np.zeros(mdp.states), backups)).policy
    _, _, gradient = exact.objective.value_and_gradients(exact.drawn.x, policy)
    return float((policy * np.abs(gradient)).sum())


@given(drawn_problems(), bounded_objectives, seeds, st.integers(1, 30))
def test_itd_from_the_answer_misses_no_more_than_its_bound(drawn, kind, seed, backups):
    """The tail of the Neumann series: `γ^(N+1)` of the largest implicit part, besides rounding."""
    exact = exact_answer(drawn, kind, seed)
    bound = bl.hypergradient_estimator("itd", backups=backups).tags.bias_bound(drawn.discount)
    assert bound == drawn.discount ** (backups + 1)
    missed = largest(estimate(exact, "itd", backups=backups).gradient - exact.hyper.gradient)
    assert missed <= bound * largest_implicit_part(exact) + gradient_error(exact)


@given(drawn_problems(discount=discounts(0.0, 0.9)), bounded_objectives, seeds)
def test_itd_tends_to_the_exact_gradient(drawn, kind, seed):
    """From the answer and from zero; 400 backups at γ ≤ 0.9 leave 5e-19 of the iteration, over τ ≥ 1e-3."""
    exact = exact_answer(drawn, kind, seed)
    for start in ("solution", "zero"):
        hyper = estimate(exact, "itd", backups=400, start=start)
        assert hyper.gradient == pytest.approx(exact.hyper.gradient, rel=0, abs=4 * gradient_error(exact))
        assert hyper.objective == pytest.approx(
            exact.hyper.objective, rel=0, abs=4 * gradient_error(exact) + exact.strength * policy_error(exact.solution)
        )


@given(drawn_problems(discount=discounts(0.5, 0.9)), bounded_objectives, seeds)
def test_itds_residual_is_the_mismatch_of_the_adjoint_equation(drawn, kind, seed):
    """Summing `π⊙v̄` per state gives an adjoint λ_N; what `(I − γP^π)ᵀλ_N` lacks of its right-hand side is v̄_0."""
    exact = exact_answer(drawn, kind, seed)
    hyper = estimate(exact, "itd", backups=3)
    mdp, policy = exact.solution.model, exact.policy
    gradient = exact.by_policy - (policy * exact.by_policy).sum(axis=1, keepdims=True)
    inflow = drawn.discount * mdp.transitions.transpose_expectation(bl.mdp.policy_cotangent(mdp, policy, gradient))
    adjoint, term = np.zeros(mdp.states), inflow
    for _ in range(3):
        adjoint, term = adjoint + term, drawn.discount * mdp.transitions.transpose_expectation(policy * term[:, None])
    mismatch = largest(inflow - exact.solution.linearization.apply_transpose(adjoint))
    # Where G hardly differs between actions, the inflow itself is what centring G has left of rounding.
    size = np.abs(inflow).sum() + exact.strength / drawn.temperature
    rounding = 8 * (solve_rounding(mdp) + policy_error(exact.solution)) * size / (1 - drawn.discount)
    assert hyper.residual == pytest.approx(mismatch, rel=0, abs=rounding + TINY)


def test_itd_from_zero_has_no_bound():
    assert bl.hypergradient_estimator("itd", start="zero").tags.bias_bound(0.5) == np.inf


# --- amd


@given(drawn_problems(discount=discounts(0.0, 0.99)), bounded_objectives, seeds, st.integers(1, 8))
def test_amd_approaches_the_exact_gradient_as_the_discount_to_the_number_of_sweeps(drawn, kind, seed, sweeps):
    """`‖D_k − dV*‖∞ ≤ γ^k ‖dV*‖∞`, so the gradient misses `γ^(k+1)` of the largest implicit part at most."""
    exact = exact_answer(drawn, kind, seed)
    hyper = None
    for call in range(1, 6):
        hyper = estimate(exact, "amd", previous=hyper, sweeps=sweeps)
        bound = drawn.discount ** (sweeps * call + 1) * largest_implicit_part(exact) / 2
        missed = largest(hyper.gradient - exact.hyper.gradient)
        assert missed <= bound + exact.algebra, f"call {call}"
        assert hyper.cost.products == sweeps * drawn.x.size
    mdp, sensitivities = exact.solution.model, hyper.carry["sensitivities"]
    slope = np.einsum("sa,san->sn", exact.policy, drawn.action_value_jacobian(drawn.x, exact.values))
    mismatch = largest(slope - exact.solution.linearization.apply(sensitivities))
    size = drawn.action_value_slope(drawn.x, exact.values)
    assert mismatch <= hyper.residual + solve_rounding(mdp) * size + TINY, "the residual must bound the mismatch"


@given(drawn_problems(discount=discounts(0.0, 0.9)), bounded_objectives, seeds)
def test_amd_tracks_to_the_exact_gradient(drawn, kind, seed):
    """Ten calls of 40 sweeps at γ ≤ 0.9 leave 5e-19; the residual falls below rounding too."""
    exact, hyper = exact_answer(drawn, kind, seed), None
    for _ in range(10):
        hyper = estimate(exact, "amd", previous=hyper, sweeps=40)
    assert hyper.gradient == pytest.approx(exact.hyper.gradient, rel=0, abs=exact.algebra)
    size = drawn.action_value_slope(drawn.x, exact.values) / (1 - drawn.discount)
    assert hyper.residual <= 8 * EPSILON * exact.values.size * size + TINY


# --- aid


def dense_aid(exact, policy, damping=0.0):
    """`−∇²_xθ g · (∇²_θθ g + δM)⁺ ∇_θ f` at any policy, from the whole matrices by complex step, with uniform ρ.

    `M = τ d (diag π − ππᵀ)`, in each state: the Hessian's form at the optimum.
    """
    uniform = np.full(policy.shape[0], 1 / policy.shape[0])
    drawn = attrs.evolve(exact.drawn, base_initial=uniform, initial_features=0 * exact.drawn.initial_features)
    logits = np.log(policy).reshape(-1)
    hessian = -complex_step(lambda theta: lower_level_gradient(drawn, drawn.x, theta), logits)
    mixed = -complex_step(lambda x: lower_level_gradient(drawn, x, logits), drawn.x)
    _, _, by_policy = exact.objective.value_and_gradients(drawn.x, policy)
    by_logits = (policy * (by_policy - (policy * by_policy).sum(axis=1, keepdims=True))).reshape(-1)
    kernel = drawn.kernel(drawn.x)
    matrix = np.eye(policy.shape[0]) - drawn.discount * np.einsum("sa,sat->st", policy, kernel)
    visits = drawn.temperature * np.linalg.solve(matrix.T, uniform)
    metric = scipy.linalg.block_diag(*(d * (np.diag(p) - np.outer(p, p)) for d, p in zip(visits, policy, strict=True)))
    # Constants per state are the kernel of the Hessian: in coordinates orthogonal to them it has none.
    states, actions = policy.shape
    basis = np.kron(np.eye(states), np.linalg.svd(np.eye(actions) - 1 / actions)[0][:, : actions - 1])
    reduced = basis.T @ (hessian + damping * metric) @ basis
    scaled = basis.T @ metric @ basis
    return -mixed.T @ (basis @ np.linalg.solve(reduced, basis.T @ by_logits)), reduced, scaled


@given(drawn_problems(), bounded_objectives, seeds)
def test_undamped_aid_is_the_exact_gradient_at_the_optimum(drawn, kind, seed):
    """There the Hessian is its own preconditioner; A = 0 up to the answer's error, whose effect is amplified.

    An error ε of log π is an advantage of τε; relative to M the Hessian feels it through d'/d ≤ S/(1−γ)² and V'.
    """
    exact = exact_answer(drawn, kind, seed)
    amplified = 4 * exact.values.size / (1 - drawn.discount) ** 2
    assume(amplified * policy_error(exact.solution) < 1e-2)
    hyper = estimate(exact, "aid", damping=0.0)
    tolerance = (1 + amplified) * gradient_error(exact) + 1e-10 * exact.scale
    assert hyper.gradient == pytest.approx(exact.hyper.gradient, rel=0, abs=tolerance)
    assert hyper.status is bl.Status.CONVERGED
    assert hyper.carry["negative_curvatures"] == 0


@given(drawn_problems(), bounded_objectives, seeds, st.sampled_from((1e-4, 0.1, 1.0, 30.0)))
def test_damping_shortens_the_implicit_part_and_leaves_the_direct_one(drawn, kind, seed, damping):
    """At the optimum the damped implicit part is `1/(1+δ)` of the exact one, within the declared bound."""
    exact = exact_answer(drawn, kind, seed)
    amplified = 4 * exact.values.size / (1 - drawn.discount) ** 2
    assume(amplified * policy_error(exact.solution) < 1e-2)
    hyper = estimate(exact, "aid", damping=damping)
    tolerance = (1 + amplified) * gradient_error(exact) + 1e-10 * exact.scale
    assert (hyper.direct == exact.hyper.direct).all()
    assert hyper.implicit == pytest.approx(exact.hyper.implicit / (1 + damping), rel=0, abs=tolerance)
    bound = bl.hypergradient_estimator("aid", damping=damping).tags.bias_bound(drawn.discount)
    missed = largest(hyper.gradient - exact.hyper.gradient)
    assert missed <= bound * largest_implicit_part(exact) + tolerance
    assert damping / (1 + damping) <= bound <= damping / (1 + damping) + 1e-9


@given(drawn_problems(discount=discounts(0.0, 0.9), temperature=temperatures(0.1, 10.0)), bounded_objectives, seeds)
def test_aid_at_any_policy_is_the_formula_with_whole_matrices(drawn, kind, seed):
    """Also where the policy is not optimal: V' ≠ 0, two outer products in P's cotangent, an indefinite Hessian."""
    exact = exact_answer(drawn, kind, seed)
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(3 * np.ones(exact.policy.shape[1]), size=exact.policy.shape[0]) * 0.9
    policy += 0.1 / policy.shape[1]
    expected, reduced, scaled = dense_aid(exact, policy, damping=0.5)
    pencil = np.abs(scipy.linalg.eigvalsh(reduced, scaled)) if scaled.size else np.ones(1)
    assume(pencil.min() > 1e-3 * max(1.0, pencil.max()))
    hyper = estimate(exact, "aid", at_policy(exact, policy), damping=0.5, maximum_iterations=1000, tolerance=1e-13)
    assume(hyper.status is not bl.Status.BUDGET_SPENT)
    size = largest(expected) + implicit_size(exact, policy) * pencil.max() / pencil.min()
    # Conjugate gradients lose as many digits as the condition has, an indefinite system twice.
    condition = (pencil.max() / pencil.min()) ** 2
    assert hyper.implicit == pytest.approx(expected, rel=0, abs=1e-12 * condition * size + TINY)


def implicit_size(exact, policy):
    _, _, gradient = exact.objective.value_and_gradients(exact.drawn.x, policy)
    slope = exact.drawn.action_value_slope(exact.drawn.x, exact.values)
    strength = float((policy * np.abs(gradient)).sum())
    return strength * 2 * slope / (exact.drawn.temperature * (1 - exact.drawn.discount) ** 2)


@given(drawn_problems(discount=discounts(0.5, 0.9), temperature=temperatures(0.01, 0.1)), bounded_objectives, seeds)
def test_aid_reports_the_indefiniteness_it_meets(drawn, kind, seed):
    """A policy far from optimal at a low temperature: the sign of the lowest eigenvalue of the whole Hessian decides
    whether conjugate gradients may see negative curvature, and with enough iterations they do see it.
    """
    exact = exact_answer(drawn, kind, seed)
    assume(exact.policy.shape[1] > 1)
    policy = np.full(exact.policy.shape, 1 / exact.policy.shape[1])
    _, reduced, scaled = dense_aid(exact, policy)
    spectrum = scipy.linalg.eigvalsh(reduced, scaled)
    hyper = estimate(exact, "aid", at_policy(exact, policy), damping=0.0, maximum_iterations=400, tolerance=1e-12)
    assume("lowest_ritz_value" in hyper.carry)  # else the leader's objective is flat in the logits: nothing to solve
    negative, lowest = int(hyper.carry["negative_curvatures"]), float(hyper.carry["lowest_ritz_value"])
    # Ritz values lie within the spectrum (Cauchy's interlacing), up to rounding.
    assert lowest >= spectrum[0] - 1e-8 * np.abs(spectrum).max()
    if negative:
        assert hyper.status is bl.Status.STAGNATED
        assert lowest < 0
    else:
        assert hyper.status is not bl.Status.STAGNATED


def far_from_optimal():
    """A four-state problem and a policy so bad that the lower level's Hessian has negative eigenvalues."""
    rng = np.random.default_rng(0)
    rewards = bl.parametric.TabularReward(np.zeros((4, 3)))
    lower = bl.ParametricMDP(rng.dirichlet(np.ones(4), size=(4, 3)), rewards, 0.9, 0.05)
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(0.0, 1.0, policy_target=rng.random((4, 3))))
    x = rng.normal(size=12)
    mdp = lower.model(x)
    policy = drawn_policy(np.random.default_rng(3), 4, 3) * 0.9 + 0.1 / 3
    values = bl.mdp.policy_values(mdp, policy)
    bad = bl.mdp.TabularSolution(mdp, policy, values, np.zeros((4, 3)), 1.0, 1, bl.Status.BUDGET_SPENT, bl.Cost())
    return problem, x, bad


@pytest.mark.parametrize("preconditioner", ["fisher", "none"])
@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_a_non_convex_lower_level_is_told_in_carry_and_status(preconditioner, damping):
    """At a policy far from optimal the count is positive and the status says so; at the optimum neither."""
    problem, x, bad = far_from_optimal()
    estimator = bl.hypergradient_estimator("aid", preconditioner=preconditioner, damping=damping)
    rng = np.random.default_rng(0)
    hyper = estimator.estimate(problem, x, bad, None, rng)
    assert hyper.carry["negative_curvatures"] >= 1
    assert hyper.carry["lowest_ritz_value"] < -1e-3
    assert hyper.status is bl.Status.STAGNATED
    best = solved(problem.lower.model(x))
    hyper = estimator.estimate(problem, x, best, None, rng)
    assert hyper.carry["negative_curvatures"] == 0
    assert hyper.carry["lowest_ritz_value"] > 0
    assert hyper.status is bl.Status.CONVERGED


def test_heavy_damping_does_not_hide_the_indefiniteness():
    """The damped system is positive definite and solved to its tolerance; the report is about the undamped one."""
    problem, x, bad = far_from_optimal()
    hyper = bl.hypergradient_estimator("aid", damping=1e3).estimate(problem, x, bad, None, np.random.default_rng(0))
    target = bad.policy * problem.objective.value_and_gradients(x, bad.policy)[2]
    assert hyper.residual <= 1e-10 * np.abs(target).sum() / 0.05
    assert hyper.carry["negative_curvatures"] >= 1
    assert hyper.status is bl.Status.STAGNATED


def test_an_unreached_state_is_told_and_left_out():
    """With ρ in state 0 and nothing leading out of it, aid cannot see the other state; with uniform ρ it can."""
    kernel = np.broadcast_to(np.eye(2)[:, None], (2, 2, 2))
    lower = bl.ParametricMDP(kernel, bl.parametric.TabularReward(np.zeros((2, 2))), 0.5, 1.0, np.array([1.0, 0.0]))
    target = np.array([[1.0, 0.0], [0.0, 1.0]])
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(0.0, 1.0, policy_target=target))
    x = np.zeros(4)
    solution, rng = solved(lower.model(x)), np.random.default_rng(0)
    exact = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng).gradient
    own = bl.hypergradient_estimator("aid", damping=0.0, initial="own").estimate(problem, x, solution, None, rng)
    np.testing.assert_allclose(own.gradient[:2], exact[:2], rtol=1e-12)
    assert (own.gradient[2:] == 0).all()
    assert np.abs(exact[2:]).max() > 0.1
    assert own.status is bl.Status.STAGNATED
    assert own.carry["unreached_states"] == 1
    uniform = bl.hypergradient_estimator("aid", damping=0.0).estimate(problem, x, solution, None, rng)
    np.testing.assert_allclose(uniform.gradient, exact, rtol=1e-12)
    assert uniform.status is bl.Status.CONVERGED


@given(
    drawn_problems(discount=discounts(0.0, 0.9), temperature=temperatures(0.5, 10.0), everywhere_initial=True),
    bounded_objectives,
    seeds,
)
def test_aid_from_the_followers_own_start_agrees_too_where_it_is_positive(drawn, kind, seed):
    """ρ(x) may itself depend on x: at the optimum that changes nothing, since V' = 0."""
    exact = exact_answer(drawn, kind, seed)
    smallest = float(drawn.initial(drawn.x).min())
    assume(smallest > 1e-3)
    hyper = estimate(exact, "aid", damping=0.0, initial="own")
    # V' is zero but for the policy's error ε: an advantage of τε, times what moves, π' of the size of c/d.
    left = policy_error(exact.solution) * exact.strength * exact.values.size * largest(drawn.initial_features)
    error = gradient_error(exact) + left
    tolerance = 4 / (smallest * (1 - drawn.discount) ** 2) * error + 1e-10 * exact.scale
    assert hyper.gradient == pytest.approx(exact.hyper.gradient, rel=0, abs=tolerance)


def test_aid_does_as_many_solves_as_it_says():
    problem, x, bad = far_from_optimal()
    few = bl.hypergradient_estimator("aid", maximum_iterations=3).estimate(problem, x, bad, None, None)
    assert few.carry["iterations"] == 3
    assert (few.cost.linear_solves, few.cost.backups) == (4 + 2 * 3, 1 + 3)
    assert few.status in (bl.Status.BUDGET_SPENT, bl.Status.STAGNATED)


def test_aids_tags_follow_its_options():
    def tags(**options):
        return bl.hypergradient_estimator("aid", **options).tags

    assert tags() == bl.Tags("biased")
    assert tags(damping=0.0) == bl.Tags("exact", tolerance=1e-10)
    for options in ({"preconditioner": "none"}, {"initial": "own"}):
        assert tags(damping=0.0, **options) == bl.Tags("biased")
        assert bl.hypergradient_estimator("aid", **options).tags.bias_bound(0.5) == np.inf


# --- pbrl


def moving_problem():
    """Rewards, transitions and start of four states depend on one x, and the leader's objective on π and x."""
    rng = np.random.default_rng(5)
    rewards = bl.parametric.LinearReward(rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 2)))
    kernel = bl.parametric.SoftmaxTransitions(rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(48, 2)))
    start = bl.parametric.SoftmaxInitial(np.full(4, 0.25), rng.normal(size=(4, 2)))
    lower = bl.ParametricMDP(kernel, rewards, 0.8, 0.7, start)
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(policy_target=rng.random((4, 3)))), np.array(
        [0.3, -0.2]
    )


def penalised(problem, x, calls=60, **options):
    """The estimate at x after many calls, each warm-started by the one before."""
    estimator, hyper = bl.hypergradient_estimator("pbrl", **options), None
    solution = solved(problem.lower.model(x))
    for _ in range(calls):
        hyper = estimator.estimate(problem, x, solution, hyper, None)
    return hyper


def penalised_objective(problem, x, hyper, penalty, initial):
    """`f(x, π) + σ(V* − V^π)(ρ)` at the estimate's own policy."""
    policy = np.exp(hyper.carry["logits"])
    policy /= policy.sum(axis=1, keepdims=True)
    mdp = problem.lower.model(x)
    start = mdp.initial if initial == "own" else np.full(4, 0.25)
    gap = start @ (solved(mdp).values - bl.mdp.policy_values(mdp, policy))
    assert hyper.carry["gap"] == pytest.approx(gap, rel=1e-9)
    return problem.objective.value_and_gradients(x, policy)[0] + penalty * gap


@pytest.mark.parametrize("initial", ["uniform", "own"])
def test_pbrl_differentiates_the_least_penalised_objective(initial):
    """The envelope theorem: central differences of `min_π L_σ(x, π)`; r, P and ρ all move with x."""
    problem, x = moving_problem()
    options = {"penalty": 4.0, "initial": initial}
    hyper = penalised(problem, x, **options)
    assert hyper.residual < 1e-12
    step, differences = 1e-4, []
    for shift in step * np.eye(2):
        up, down = (
            penalised_objective(problem, x + side, penalised(problem, x + side, **options), 4.0, initial)
            for side in (shift, -shift)
        )
        differences.append((up - down) / (2 * step))
    # h² of the third derivative, and 1e-16 of σV over h.
    np.testing.assert_allclose(hyper.gradient, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("initial", ["uniform", "own"])
def test_pbrls_bias_falls_as_one_over_the_penalty(initial):
    problem, x = moving_problem()
    _, exact = bl.value_and_gradient(problem, x)
    penalties = np.array([50.0, 100.0, 200.0, 400.0])
    errors = [
        np.linalg.norm(penalised(problem, x, penalty=penalty, initial=initial).gradient - exact)
        for penalty in penalties
    ]
    # The next order of the expansion in 1/σ is 2 % at σ = 50 and less after.
    assert np.polyfit(np.log(penalties), np.log(errors), 1)[0] == pytest.approx(-1.0, abs=0.05)
    assert errors[-1] < 0.02 * np.linalg.norm(exact)


def test_pbrl_descends_in_the_policy_and_goes_on_where_it_stopped():
    """With x fixed, the penalised objective falls call by call, and two calls of two steps are one of four."""
    problem, x = moving_problem()
    values = [
        penalised_objective(problem, x, penalised(problem, x, calls=calls, penalty=4.0, steps=1), 4.0, "uniform")
        for calls in range(1, 8)
    ]
    assert (np.diff(values) < 0).all()
    twice, once = (penalised(problem, x, calls=calls, steps=steps) for calls, steps in ((2, 2), (1, 4)))
    np.testing.assert_array_equal(twice.carry["logits"], once.carry["logits"])
    assert (once.cost.linear_solves, once.cost.backups) == (2 * 4 + 4, 4 + 2)


def test_pbrl_keeps_to_the_follower_where_the_leader_does_not_care():
    """Without a part of f in π the best penalised policy is the follower's own; nothing is left to differentiate."""
    problem, x = moving_problem()
    indifferent = attrs.evolve(problem, objective=bl.objectives.QuadraticObjective(policy_weight=0.0))
    hyper = penalised(indifferent, x, calls=3)
    np.testing.assert_allclose(hyper.implicit, 0, atol=1e-10)  # rounding of V, times σ = 30
    np.testing.assert_array_equal(hyper.direct, x)
    assert abs(hyper.carry["gap"]) < 1e-12


def test_pbrl_answers_the_follower_alone_where_the_followers_start_does_not_lead():
    """With ρ in state 0 and nothing leading out of it the penalty cannot see the other state; π follows π* there."""
    kernel = np.broadcast_to(np.eye(2)[:, None], (2, 2, 2))
    lower = bl.ParametricMDP(kernel, bl.parametric.TabularReward(np.zeros((2, 2))), 0.5, 1.0, np.array([1.0, 0.0]))
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(0.0, 1.0, policy_target=np.eye(2)))
    for initial in ("own", "uniform"):
        hyper = penalised(problem, np.zeros(4), initial=initial)
        estimator = bl.hypergradient_estimator("pbrl", initial=initial)
        for _ in range(60):
            hyper = estimator.estimate(problem, X4, solved(lower.model(X4)), hyper, None)
        share = 1 / (1 + np.exp(np.diff(hyper.carry["logits"], axis=1)[:, 0]))  # of action 0
        best = solved(lower.model(X4)).policy[:, 0]
        assert share[0] > best[0] + 1e-3, "in state 0 the leader's wish for action 0 counts"
        if initial == "own":
            assert share[1] == pytest.approx(best[1], rel=1e-12)
        else:
            assert share[1] < best[1] - 1e-3


X4 = np.array([0.2, -0.3, 0.5, 0.1])


# --- what all of them refuse


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("direct-only", {"groups": 0}, "an integer of at least 1"),
        ("itd", {"backups": 0}, "an integer of at least 1"),
        ("itd", {"start": "zeros"}, "did you mean 'zero'"),
        ("amd", {"sweeps": -1}, "an integer of at least 1"),
        ("aid", {"damping": -1.0}, "a finite number at least 0"),
        ("aid", {"tolerance": 0.0}, "a finite number above 0 and below 1"),
        ("aid", {"preconditioner": "fischer"}, "did you mean 'fisher'"),
        ("pbrl", {"penalty": 0.0}, "a finite number above 0"),
        ("pbrl", {"step_size": 1.5}, "a finite number above 0 and at most 1"),
        ("pbrl", {"steps": 0}, "an integer of at least 1"),
        ("aid", {"initial": "rho"}, "one of 'own', 'uniform'"),
    ],
)
def test_bad_options_are_told_with_field_value_and_expectation(name, options, told):
    (option,) = options
    with pytest.raises(bl.InputError, match=rf"option '{option}' of '{name}'.*{told}"):
        bl.hypergradient_estimator(name, **options)


@pytest.mark.parametrize("name", ["direct-only", "itd", "amd", "aid", "pbrl"])
def test_an_objective_that_is_not_finite_is_a_status_and_no_exception(name):
    """A demonstrated action of probability zero makes the log-likelihood infinite."""
    lower = bl.ParametricMDP(np.ones((1, 2, 1)), bl.parametric.TabularReward(np.zeros((1, 2))), 0.5, 1.0)
    problem = bl.BilevelProblem(lower, bl.objectives.LogLikelihoodObjective([[1.0, 1.0]]))
    x = np.array([1e4, 0.0])
    with np.errstate(all="ignore"):
        hyper = bl.hypergradient_estimator(name).estimate(
            problem, x, solved(lower.model(x)), None, np.random.default_rng(0)
        )
    assert hyper.status is bl.Status.NON_FINITE
