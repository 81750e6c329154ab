"""The laws of the hyper-gradient: what the signed occupancy obeys, and every independent answer it must agree with.

c  = π* ⊙ G / τ,   (I − γP^π*)ᵀλ = γPᵀc − Σ_a c,   r̄ = c + π* ⊙ λ,   P̄_sas' = γ r̄_sa V*_s'
∇φ = ∂f/∂x + J_rᵀ r̄ + J_Pᵀ P̄                                with G = ∂f/∂π
"""

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.exact import dense_kernel
from bilevelrl.testing.rounding import EPSILON, TINY, solve_rounding
from exact_answers import (
    Exact,
    complex_step,
    gradient_error,
    implicit_part,
    largest,
    lower_level_gradient,
    unrolled_gradient,
)
from strategies import (
    OBJECTIVES,
    PARTS,
    discounts,
    drawn_objective,
    drawn_policy,
    drawn_problems,
    drawn_values,
    policy_error,
    seeds,
    soft_mdps,
    solved,
    temperatures,
    value_error,
)

objectives = st.sampled_from(OBJECTIVES)
# A log-likelihood is infinite once π* underflows; at low temperatures the leader has one of the others.
bounded_objectives = st.sampled_from([kind for kind in OBJECTIVES if kind != "log-likelihood"])


def chain(mdp, policy):
    """`P^π` (S, S), dense."""
    return np.einsum("sa,sat->st", policy, dense_kernel(mdp))


def signed_occupancy(mdp, policy, values, gradient):
    """`c`, `λ` and `r̄` of the library, for any policy: the algebra does not ask it to be optimal."""
    cotangent = bl.mdp.policy_cotangent(mdp, policy, gradient)
    system = bl.mdp.Linearization(mdp.transitions, mdp.discount, policy)
    adjoint = system.solve_transpose(bl.mdp.adjoint_right_hand_side(mdp, cotangent))
    return cotangent, adjoint, bl.mdp.adjoint_occupancy(mdp, policy, values, cotangent, adjoint)


def drawn_cotangent(mdp, seed):
    """A policy, values and a gradient of f, none related to the others."""
    rng = np.random.default_rng(seed)
    policy = drawn_policy(rng, mdp.states, mdp.actions)
    return policy, drawn_values(mdp, rng), rng.normal(size=policy.shape)


# --- What the signed occupancy obeys, for any policy and any gradient


@given(soft_mdps(), seeds)
def test_the_adjoint_solves_its_equation(mdp, seed):
    """`(I − γP^π)ᵀ λ = γPᵀc − Σ_a c`, each side by a dense P; a refined solve leaves rounding only."""
    policy, values, gradient = drawn_cotangent(mdp, seed)
    cotangent, adjoint, _ = signed_occupancy(mdp, policy, values, gradient)
    left = adjoint - mdp.discount * chain(mdp, policy).T @ adjoint
    right = mdp.discount * np.einsum("sat,sa->t", dense_kernel(mdp), cotangent) - cotangent.sum(axis=1)
    assert cotangent == pytest.approx(policy * gradient / mdp.temperature, rel=4 * EPSILON, abs=0)
    size = np.abs(adjoint).sum() + np.abs(cotangent).sum()
    assert left == pytest.approx(right, rel=0, abs=4 * (mdp.states + mdp.actions) * EPSILON * size)


@given(soft_mdps(), seeds)
def test_the_signed_occupancy_obeys_the_flow_equation(mdp, seed):
    """`Σ_a r̄_sa = γ Σ_s'a' P_s'a's r̄_s'a'`: constants and potential shaping change nothing."""
    policy, values, gradient = drawn_cotangent(mdp, seed)
    cotangent, adjoint, occupancy = signed_occupancy(mdp, policy, values, gradient)
    outflow = occupancy.weights.sum(axis=1)
    inflow = mdp.discount * np.einsum("sat,sa->t", dense_kernel(mdp), occupancy.weights)
    size = np.abs(adjoint).sum() + np.abs(cotangent).sum()
    rounding = 8 * (mdp.states + mdp.actions) * EPSILON * size
    assert outflow == pytest.approx(inflow, rel=0, abs=rounding)
    # Summed over states the flow equation says (1 − γ) Σ r̄ = 0.
    assert abs(occupancy.weights.sum()) <= mdp.states * rounding / (1 - mdp.discount)


@given(soft_mdps(), seeds)
def test_the_signed_occupancy_is_a_mixture_of_occupancies(mdp, seed):
    """`r̄ = Σ_sa c_sa (d_(s,a) − d_s)`, with the occupancies from (s, a) and from s: what a sampler accumulates."""
    policy, values, gradient = drawn_cotangent(mdp, seed)
    cotangent, _, occupancy = signed_occupancy(mdp, policy, values, gradient)
    visits = np.linalg.inv(np.eye(mdp.states) - mdp.discount * chain(mdp, policy))
    from_state = visits[:, :, None] * policy  # d_s(s', a')
    from_pair = mdp.discount * np.einsum("sat,tuv->sauv", dense_kernel(mdp), from_state)
    for s, a in np.ndindex(mdp.states, mdp.actions):
        from_pair[s, a, s, a] += 1.0
    mixture = np.einsum("sa,sauv->uv", cotangent, from_pair - from_state[:, None])
    tolerance = solve_rounding(mdp) * np.abs(cotangent).sum() / (1 - mdp.discount)
    assert occupancy.weights == pytest.approx(mixture, rel=0, abs=tolerance)


@given(soft_mdps(), seeds)
def test_a_number_per_state_added_to_the_gradient_changes_nothing(mdp, seed):
    """π's rows sum to one, so `∂f/∂π` is known up to a number per state; r̄ must not depend on it."""
    policy, values, gradient = drawn_cotangent(mdp, seed)
    shift = np.random.default_rng(seed).normal(size=(mdp.states, 1))
    cotangent, _, occupancy = signed_occupancy(mdp, policy, values, gradient)
    _, _, shifted = signed_occupancy(mdp, policy, values, gradient + shift)
    size = np.abs(cotangent).sum() + np.abs(shift).sum() / mdp.temperature
    assert shifted.weights == pytest.approx(occupancy.weights, rel=0, abs=solve_rounding(mdp) * size)


@given(soft_mdps(), seeds)
def test_the_papers_w_is_minus_the_temperature_times_the_adjoint(mdp, seed):
    """`(I − γP^π)ᵀ w = Uᵀ diag(π) G` with `U_(sa)s' = 1{s=s'} − γP_sas'`, and `r̄ = (π⊙G − π⊙w)/τ`."""
    policy, values, gradient = drawn_cotangent(mdp, seed)
    cotangent, adjoint, occupancy = signed_occupancy(mdp, policy, values, gradient)
    staying = np.repeat(np.eye(mdp.states), mdp.actions, axis=0)
    u = staying - mdp.discount * dense_kernel(mdp).reshape(-1, mdp.states)
    matrix = np.eye(mdp.states) - mdp.discount * chain(mdp, policy)
    w = np.linalg.solve(matrix.T, u.T @ (policy * gradient).reshape(-1))
    tolerance = solve_rounding(mdp) * np.abs(cotangent).sum() / (1 - mdp.discount)
    assert -w / mdp.temperature == pytest.approx(adjoint, rel=0, abs=tolerance)
    by_w = policy * (gradient - w[:, None]) / mdp.temperature
    assert occupancy.weights == pytest.approx(by_w, rel=0, abs=tolerance)
    assert occupancy.continuation == pytest.approx(mdp.discount * values, rel=4 * EPSILON, abs=0)


# --- Differentiating the fixed point forwards


def forward_sensitivities(drawn, policy, values):
    """`dV*` (S, n), `dQ*` (S, A, n), `dπ*` (S, A, n): `D ← ∂_xT + γP^π D` from zero, run 2³⁰ times by doubling."""
    slope = drawn.action_value_jacobian(drawn.x, values)
    kernel = drawn.kernel(drawn.x)
    by_values, power = np.einsum("sa,san->sn", policy, slope), drawn.discount * np.einsum("sa,sat->st", policy, kernel)
    for _ in range(30):
        by_values, power = by_values + power @ by_values, power @ power
    by_action_values = slope + drawn.discount * np.einsum("sat,tn->san", kernel, by_values)
    by_policy = policy[..., None] / drawn.temperature * (by_action_values - by_values[:, None])
    return by_values, by_action_values, by_policy


@given(drawn_problems())
def test_policy_sensitivities_sum_to_zero_over_actions(drawn):
    """`Σ_a dπ*_sa = 0`: dV* is the mean of dQ* under π*, up to the solve's rounding over τ."""
    solution = solved(drawn.lower.model(drawn.x))
    _, _, by_policy = forward_sensitivities(drawn, solution.policy, solution.values)
    size = drawn.action_value_slope(drawn.x, solution.values) / (drawn.temperature * (1 - drawn.discount))
    assert largest(by_policy.sum(axis=1)) <= solve_rounding(solution.model) * size + TINY


@given(drawn_problems(), bounded_objectives, seeds)
def test_the_adjoint_agrees_with_forward_sensitivities(drawn, kind, seed):
    """`∇φ = ∂f/∂x + Σ_sa G_sa dπ*_sa`: forward and reverse mode from one V* and π*, so they differ by rounding only."""
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    *_, by_policy = forward_sensitivities(drawn, exact.policy, exact.values)
    forward = exact.direct + np.einsum("sa,san->n", exact.by_policy, by_policy)
    assert exact.hyper.gradient == pytest.approx(forward, rel=0, abs=exact.algebra)


@given(drawn_problems(), seeds)
def test_value_sensitivities_are_expectations_over_the_followers_trajectories(drawn, seed):
    """`∇V*_s = E[Σ_t γ^t ∇q(s_t, a_t) | s_0 = s, π*]`, `∇q = ∇r + γ∇P V*`: first-order information only.

    The expectation is written out by propagating the distribution of (s_t, a_t); the library's is the pullback of the
    discounted occupancy from s.
    """
    # The tail after t steps is γ^t/(1−γ) of the whole; here it must vanish in a sum that is run step by step.
    assume(drawn.discount <= 0.95)
    solution = solved(drawn.lower.model(drawn.x))
    mdp, policy = solution.model, solution.policy
    slope = drawn.action_value_jacobian(drawn.x, solution.values)
    start = np.random.default_rng(seed).dirichlet(np.ones(mdp.states))
    at, expected = start, np.zeros(drawn.dimension)
    for t in range(1000):
        expected = expected + drawn.discount**t * np.einsum("s,sa,san->n", at, policy, slope)
        at = np.einsum("s,sa,sat->t", at, policy, dense_kernel(mdp))
    occupancy = bl.mdp.discounted_occupancy(mdp, policy, start)
    measure = bl.occupancy.DenseOccupancy(occupancy, drawn.discount * solution.values)
    by_values, *_ = forward_sensitivities(drawn, policy, solution.values)
    tolerance = solve_rounding(mdp) * drawn.action_value_slope(drawn.x, solution.values) / (1 - drawn.discount)
    tolerance += TINY
    assert drawn.lower.pullback(drawn.x, measure) == pytest.approx(expected, rel=0, abs=tolerance)
    assert start @ by_values == pytest.approx(expected, rel=0, abs=tolerance)


@given(drawn_problems(), bounded_objectives, seeds)
def test_the_papers_formula_gives_the_hypergradient(drawn, kind, seed):
    """`∇φ = ∂f/∂x + τ⁻¹ (∂_xq)ᵀ(π⊙G) − τ⁻¹ (∂_xT)ᵀ w`, `∂_xT = Σ_a π ∂_xq`, `∂_xq = J_r + γJ_P V*`."""
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    policy, gradient = exact.policy, exact.by_policy
    kernel, slope = drawn.kernel(drawn.x), drawn.action_value_jacobian(drawn.x, exact.values)
    matrix = np.eye(policy.shape[0]) - drawn.discount * np.einsum("sa,sat->st", policy, kernel)
    weighted = policy * gradient
    w = np.linalg.solve(matrix.T, weighted.sum(axis=1) - drawn.discount * np.einsum("sat,sa->t", kernel, weighted))
    through_q = np.einsum("sa,san->n", weighted, slope)
    through_v = np.einsum("s,sa,san->n", w, policy, slope)
    expected = exact.direct + (through_q - through_v) / drawn.temperature
    assert exact.hyper.gradient == pytest.approx(expected, rel=0, abs=exact.algebra)


@given(drawn_problems(), bounded_objectives, seeds)
def test_the_gradient_is_the_direct_part_and_one_pullback(drawn, kind, seed):
    """`direct = ∂f/∂x`, `implicit = J_rᵀ r̄ + J_Pᵀ P̄` for the occupancy that the estimate shows."""
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    hyper = exact.hyper
    assert (hyper.direct == exact.direct).all()
    assert (hyper.gradient == hyper.direct + hyper.implicit).all()
    kernel_cotangent = drawn.discount * hyper.occupancy.weights[:, :, None] * exact.values
    expected = implicit_part(exact, hyper.occupancy.weights, kernel_cotangent)
    assert hyper.implicit == pytest.approx(expected, rel=0, abs=exact.algebra)


# --- Independent answers


@given(drawn_problems(discount=discounts(0.0, 0.99)), bounded_objectives, seeds)
def test_the_hypergradient_agrees_with_central_differences(drawn, kind, seed):
    """Fourth-order central differences of φ along a random direction, with the step that the problem resolves.

    Along d, `log π*` changes at a rate of at most `L = (2|∂_xr|/τ + 4|∂_xlog P|(1 + γ·span V/τ))/(1−γ)`, and a return
    sees that multiplied by 1/(1−γ): φ is analytic on the scale 1/L. With h = η/L Cauchy's estimate bounds the fifth
    derivative, and the formula's error `h⁴φ⁽⁵⁾/30`, by `4η⁴·L·|f|`; φ's own error (the policy's, times Σπ|G|, and an
    ulp of f) comes back divided by h. γ stops at 0.99: beyond, that last term is all there is to see.
    """
    rng = np.random.default_rng(seed)
    exact = Exact(drawn, drawn_objective(drawn, kind, rng))
    direction = rng.normal(size=drawn.dimension)
    direction /= np.linalg.norm(direction)
    span = float(np.ptp(exact.values))
    of_rewards = largest(drawn.reward_features @ direction) / drawn.temperature
    of_kernel = largest(drawn.kernel_features @ direction) * (1 + drawn.discount * span / drawn.temperature)
    of_initial = largest(drawn.initial_features @ direction)
    rate = 1 + of_initial + (2 * of_rewards + 4 * of_kernel) / (1 - drawn.discount) ** 2
    eta = 0.02
    step = eta / rate

    def objective(multiple):
        x = drawn.x + multiple * step * direction
        policy = solved(exact.problem.lower.model(x)).policy
        return exact.objective.value_and_gradients(x, policy)[0]

    quotient = (8 * (objective(1) - objective(-1)) - (objective(2) - objective(-2))) / (12 * step)
    size = exact.strength + abs(exact.hyper.objective) + largest(exact.direct)
    rounding = policy_error(exact.solution) * exact.strength + solve_rounding(exact.solution.model) * size
    tolerance = 4 * eta**4 * rate * size + 1.5 * rounding / step + gradient_error(exact)
    assert exact.hyper.gradient @ direction == pytest.approx(quotient, rel=0, abs=tolerance)


@given(drawn_problems(discount=discounts(0.0, 0.95)), bounded_objectives, seeds)
def test_the_hypergradient_agrees_with_the_unrolled_iteration(drawn, kind, seed):
    """Iterative differentiation (Franceschi et al. 2018) tends to ∇φ as N grows; it shares no code with the adjoint.

    N is such that what is left of the iteration, `γ^N` over `τ(1−γ)²`, is below rounding; γ stops at 0.95 so that N
    stays below about 2,000.
    """
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    smallest = 1e-16 * min(drawn.temperature, 1.0) * (1 - drawn.discount) ** 2 / (1 + largest(exact.values))
    backups = 2 if drawn.discount < 1e-8 else 2 + int(np.log(smallest) / np.log(drawn.discount))
    unrolled = unrolled_gradient(exact, backups)
    assert exact.hyper.gradient == pytest.approx(unrolled, rel=0, abs=gradient_error(exact))


@given(
    drawn_problems(discount=discounts(0.0, 0.9), temperature=temperatures(0.5, 10.0), everywhere_initial=True),
    objectives,
    seeds,
)
def test_the_hypergradient_agrees_with_pseudo_inverse_aid_at_the_optimum(drawn, kind, seed):
    """`∂f/∂x − ∇²_xθ g · pinv(∇²_θθ g) · ∇_θf`, `g(x, θ) = −V^{π_θ}_x(ρ)`, softmax logits θ.

    The Hessian is singular (a constant per state moves no probability) but, at the optimum, definite on the rest,
    with eigenvalues down to τ·min d_ρ·min π: ρ must reach every state, and π* must stay away from zero, or
    no pseudo-inverse can tell the small from the singular.
    """
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    smallest = float(exact.policy.min()) * float(drawn.base_initial.min())
    assume(smallest > 1e-6)
    logits = np.log(exact.policy).reshape(-1)
    hessian = -complex_step(lambda theta: lower_level_gradient(drawn, drawn.x, theta), logits)
    mixed = -complex_step(lambda x: lower_level_gradient(drawn, x, logits), drawn.x)
    centred = exact.by_policy - (exact.policy * exact.by_policy).sum(axis=1, keepdims=True)
    by_logits = (exact.policy * centred).reshape(-1)
    aid = exact.direct - mixed.T @ np.linalg.pinv(hessian, rcond=1e-3 * smallest, hermitian=True) @ by_logits
    # The condition number of the definite part multiplies the error of the policy and rounding.
    condition = 1 / (smallest * (1 - drawn.discount) ** 2)
    tolerance = condition * gradient_error(exact)
    assert exact.hyper.gradient == pytest.approx(aid, rel=0, abs=tolerance)


@given(drawn_problems(), seeds)
def test_inverse_reinforcement_learning_matches_features(drawn, seed):
    """For `f = −Σ d^E log π`, `d^E` a demonstrator's discounted occupancy from ρ: `r̄ = (d^π*_ρ − d^E)/τ`.

    The demonstrator takes the actions that π* gives a probability a double can hold, with weights of his own.
    """
    rng = np.random.default_rng(seed)
    mdp = drawn.lower.model(drawn.x)
    followers = solved(mdp).policy
    demonstrator = np.where(followers > 1e-280, rng.exponential(size=followers.shape) + 1e-3, 0.0)
    demonstrator /= demonstrator.sum(axis=1, keepdims=True)
    shown = bl.mdp.discounted_occupancy(mdp, demonstrator)
    exact = Exact(drawn, bl.objectives.LogLikelihoodObjective(np.maximum(shown, 0.0)))
    # d^E summed to rounding of the solve may leave unreachable states at −1e-17: as zeros above, and not shown.
    expected = (bl.mdp.discounted_occupancy(mdp, exact.policy) - shown) / drawn.temperature
    tolerance = solve_rounding(mdp) / (drawn.temperature * (1 - drawn.discount))
    assert exact.hyper.occupancy.weights == pytest.approx(expected, rel=0, abs=tolerance)
    kernel_cotangent = drawn.discount * expected[:, :, None] * exact.values
    features = implicit_part(exact, expected, kernel_cotangent)
    assert exact.hyper.gradient == pytest.approx(features, rel=0, abs=tolerance * features_size(exact))


def features_size(exact):
    return exact.policy.size * (1 + exact.drawn.action_value_slope(exact.drawn.x, exact.values))


@given(soft_mdps(reference=st.sampled_from(("policy", "measure"))), seeds)
def test_a_reference_measure_differentiates_as_its_logarithm_in_the_reward(mdp, seed):
    """KL regularisation equals entropy with reward `r + τ log μ`, and so do the gradients with respect to r and P."""
    gradient = np.random.default_rng(seed).normal(size=mdp.rewards.shape)
    bonus = mdp.temperature * np.log(mdp.reference)
    entropy = bl.SoftMDP(mdp.transitions, mdp.rewards + bonus, mdp.discount, mdp.temperature, mdp.initial)
    occupancies, relative = [], solve_rounding(mdp)
    for model in (mdp, entropy):
        solution = solved(model)
        _, _, occupancy = signed_occupancy(model, solution.policy, solution.values, gradient)
        occupancies.append(occupancy)
        relative += policy_error(solution) / (1 - mdp.discount)
    size = np.abs(gradient).max() * mdp.states * 2 / (mdp.temperature * (1 - mdp.discount))
    assert occupancies[0].weights == pytest.approx(occupancies[1].weights, rel=0, abs=relative * size)
    tolerance = 2 * (value_error(solved(mdp)) + value_error(solved(entropy)))
    assert occupancies[0].continuation == pytest.approx(occupancies[1].continuation, rel=0, abs=tolerance)


# --- The initial distribution


@given(drawn_problems(enters=st.just(PARTS)), bounded_objectives, seeds)
def test_the_initial_distribution_enters_through_the_direct_part_only(drawn, kind, seed):
    """π* does not depend on ρ: freezing ρ at ρ(x) leaves the implicit part as it is, bit for bit."""
    exact = Exact(drawn, drawn_objective(drawn, kind, np.random.default_rng(seed)))
    lower = drawn.lower
    frozen = bl.ParametricMDP(
        lower.transitions, lower.rewards, drawn.discount, drawn.temperature, drawn.initial(drawn.x), drawn.reference
    )
    problem = bl.BilevelProblem(frozen, exact.objective)
    estimator = bl.hypergradient_estimator("implicit")
    solution = solved(frozen.model(drawn.x))
    hyper = estimator.estimate(problem, drawn.x, solution, None, np.random.default_rng(0))
    assert exact.hyper.occupancy.initial is None
    assert (hyper.implicit == exact.hyper.implicit).all()
    assert (hyper.direct == exact.hyper.direct).all()


@given(drawn_problems(enters=st.just(("initial",))))
def test_a_return_from_a_parametric_start_has_the_value_as_its_gradient(drawn):
    """Where x enters ρ alone, `φ(x) = −ρ(x)ᵀ V̄^π*` and `∇φ = −J_ρᵀ V̄^π*`: no implicit part at all."""
    exact = Exact(drawn, bl.objectives.ReturnObjective(drawn.lower))
    returns = bl.mdp.policy_values(exact.solution.model, exact.policy, regularized=False)
    expected = -np.einsum("sn,s->n", drawn.initial_jacobian(drawn.x), returns)
    tolerance = solve_rounding(exact.solution.model) * (1 + largest(returns)) * (1 + largest(drawn.initial_features))
    assert (exact.hyper.implicit == 0).all()
    assert exact.hyper.gradient == pytest.approx(expected, rel=0, abs=tolerance)


# --- One number by hand


def test_a_bandit_has_the_gradient_of_the_logistic_function():
    """One state, two actions, rewards (x, 0): π* = σ(x/τ) whatever γ, and ½π*² + ½(1−π*)² is easy."""
    temperature = 0.7
    lower = bl.ParametricMDP(
        np.ones((1, 2, 1)), bl.parametric.LinearReward(np.zeros((1, 2)), [[[1.0], [0.0]]]), 0.9, temperature
    )
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(x_weight=0.0))
    share = 1 / (1 + np.exp(-0.3 / temperature))
    value, gradient = bl.value_and_gradient(problem, [0.3])
    assert value == pytest.approx(0.5 * share**2 + 0.5 * (1 - share) ** 2, rel=1e-12)
    # V = 10 x or so, solved to 1e-12: that over τ is the policy's error.
    assert gradient == pytest.approx([(2 * share - 1) * share * (1 - share) / temperature], rel=1e-10)
