"""The laws of the soft Bellman operator and its fixed point, over the whole range of γ and τ that is supported.

`T v = τ log Σ_a μ_sa exp(q_sa(v)/τ)`, `q(v) = r + γPv`, `π(v) = μ exp((q(v) − Tv)/τ)`, `V* = T V*`.
"""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import logsumexp

import bilevelrl as bl
from bilevelrl.testing.exact import dense_kernel
from bilevelrl.testing.rounding import EPSILON, TINY, backup_rounding, solve_rounding
from strategies import (
    discounts,
    drawn_policy,
    drawn_values,
    policy_error,
    seeds,
    soft_mdps,
    solved,
    temperatures,
    value_error,
)


def largest(array):
    return float(np.abs(array).max())


def written_out(mdp, values):
    """`q` and `T v` as the formulas say, by SciPy's logsumexp over a dense P."""
    action_values = mdp.rewards + mdp.discount * np.einsum("sat,t->sa", dense_kernel(mdp), values)
    measure = np.ones_like(mdp.rewards) if mdp.reference is None else mdp.reference
    return action_values, mdp.temperature * logsumexp(action_values / mdp.temperature, b=measure, axis=1)


def chain(mdp, policy):
    """`P^π` (S, S), dense."""
    return np.einsum("sa,sat->st", policy, dense_kernel(mdp))


@given(soft_mdps(), seeds)
def test_the_operator_is_a_log_sum_exp_of_action_values(mdp, seed):
    """Both ways to evaluate `T` give the formula, and q leaves the reference measure out."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    action_values, backed_up = written_out(mdp, values)
    backup = bl.mdp.soft_backup(mdp, values)
    rounding = backup_rounding(mdp, values)
    assert backup.action_values == pytest.approx(action_values, rel=0, abs=rounding)
    assert backup.values == pytest.approx(backed_up, rel=0, abs=rounding)
    assert bl.mdp.soft_bellman(mdp, values) == pytest.approx(backed_up, rel=0, abs=rounding)


@given(soft_mdps(), st.integers(1, 60), st.booleans(), seeds)
def test_sweeps_are_repeated_backups(mdp, sweeps, warm, seed):
    """`soft_bellman(mdp, v, N)` is `T^N v`, from far away and from next to V*, where it shifts by different numbers.

    Rounding in one sweep shrinks by γ in the next, so that of all of them is below 1/(1−γ) times, or N times, one's.
    """
    rng = np.random.default_rng(seed)
    values = solved(mdp).values + mdp.temperature * rng.normal(size=mdp.states) if warm else drawn_values(mdp, rng)
    one_by_one, rounding = values, 0.0
    for _ in range(sweeps):
        rounding = mdp.discount * rounding + 2 * backup_rounding(mdp, one_by_one)
        one_by_one = written_out(mdp, one_by_one)[1]
    assert bl.mdp.soft_bellman(mdp, values, sweeps) == pytest.approx(one_by_one, rel=0, abs=rounding)


@given(soft_mdps(), seeds)
def test_a_backup_leaves_its_arguments_alone(mdp, seed):
    """The operator works in place inside; none of that may be seen from outside."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    values_before, rewards_before = values.copy(), mdp.rewards.copy()
    first = bl.mdp.soft_backup(mdp, values)
    bl.mdp.soft_bellman(mdp, values)
    again = bl.mdp.soft_backup(mdp, values)
    assert (values == values_before).all()
    assert (mdp.rewards == rewards_before).all()
    assert (first.values == again.values).all()
    assert (first.policy == again.policy).all()


@given(soft_mdps(), seeds)
def test_the_policy_is_the_reference_tilted_by_the_advantage(mdp, seed):
    """`π_sa = μ_sa exp((q_sa − (Tv)_s)/τ)`; the exponent carries the rounding of q and Tv, divided by τ."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    action_values, backed_up = written_out(mdp, values)
    measure = np.ones_like(mdp.rewards) if mdp.reference is None else mdp.reference
    tilted = measure * np.exp(np.minimum((action_values - backed_up[:, None]) / mdp.temperature, 700.0))
    relative = np.expm1(min(2 * backup_rounding(mdp, values) / mdp.temperature, 1.0))
    assert bl.mdp.soft_backup(mdp, values).policy == pytest.approx(tilted, rel=relative, abs=TINY)


@given(soft_mdps(), seeds)
def test_the_policy_sums_to_one(mdp, seed):
    """To rounding of the sum itself, even where |q|/τ is 1e8."""
    policy = bl.mdp.soft_backup(mdp, drawn_values(mdp, np.random.default_rng(seed))).policy
    assert (policy >= 0).all()
    assert policy.sum(axis=1) == pytest.approx(np.ones(mdp.states), rel=0, abs=2 * mdp.actions * EPSILON)


@given(soft_mdps(), seeds)
def test_the_operator_is_a_contraction(mdp, seed):
    """`‖Tu − Tv‖∞ ≤ γ‖u − v‖∞`, for u far from v and for u close to it."""
    rng = np.random.default_rng(seed)
    v = drawn_values(mdp, rng)
    for u in (drawn_values(mdp, rng), v + 1e-3 * rng.normal(size=mdp.states)):
        moved = largest(bl.mdp.soft_bellman(mdp, u) - bl.mdp.soft_bellman(mdp, v))
        assert moved <= mdp.discount * largest(u - v) + 2 * backup_rounding(mdp, u, v)


@given(soft_mdps(), seeds)
def test_the_operator_is_monotone(mdp, seed):
    """`u ≥ v` in every state implies `Tu ≥ Tv` in every state."""
    rng = np.random.default_rng(seed)
    v = drawn_values(mdp, rng)
    u = v + np.abs(drawn_values(mdp, rng)) * (rng.random(mdp.states) < 0.5)
    gain = bl.mdp.soft_bellman(mdp, u) - bl.mdp.soft_bellman(mdp, v)
    assert (gain >= -2 * backup_rounding(mdp, u, v)).all()


@given(soft_mdps(), seeds)
def test_a_shift_of_the_values_passes_through_discounted(mdp, seed):
    """`T(v + c·1) = Tv + γc·1`."""
    rng = np.random.default_rng(seed)
    v, c = drawn_values(mdp, rng), float(drawn_values(mdp, rng)[0])
    shifted = bl.mdp.soft_bellman(mdp, v) + mdp.discount * c
    assert bl.mdp.soft_bellman(mdp, v + c) == pytest.approx(shifted, rel=0, abs=2 * backup_rounding(mdp, v, v + c))


@given(soft_mdps(), seeds)
def test_the_operator_is_convex_in_rewards_and_values(mdp, seed):
    """`T` of a mixture of two (r, v) is at most the mixture of the two `T`."""
    rng = np.random.default_rng(seed)
    weight = rng.random()
    one, two = (
        (mdp.replace(rewards=mdp.rewards + rng.normal(size=mdp.rewards.shape)), drawn_values(mdp, rng))
        for _ in range(2)
    )
    mixed_rewards = weight * one[0].rewards + (1 - weight) * two[0].rewards
    of_mixture = bl.mdp.soft_bellman(mdp.replace(rewards=mixed_rewards), weight * one[1] + (1 - weight) * two[1])
    mixture = weight * bl.mdp.soft_bellman(*one) + (1 - weight) * bl.mdp.soft_bellman(*two)
    rounding = max(backup_rounding(model, values) for model, values in (one, two))
    assert (of_mixture <= mixture + 2 * rounding).all()


@given(soft_mdps(), seeds)
def test_the_derivative_is_the_discounted_chain_of_the_policy(mdp, seed):
    """`∂T/∂v = γP^π(v)`: between two points, T rises by at least the slope at the first, at most that at the second.

    T is convex, so `γP^π(v)(u−v) ≤ Tu − Tv ≤ γP^π(u)(u−v)` holds with P^π the derivative, at every τ and without a
    step size. The two bounds close in on each other at second order in u − v, so no other matrix obeys both.
    """
    rng = np.random.default_rng(seed)
    v = drawn_values(mdp, rng)
    # Near v the bounds differ by (γd)²/τ: d ranges over what the temperature resolves and what it does not.
    for size in (10.0 ** rng.uniform(-3, 1) * mdp.temperature, largest(v)):
        u = v + size * rng.normal(size=mdp.states)
        rise = bl.mdp.soft_bellman(mdp, u) - bl.mdp.soft_bellman(mdp, v)
        rounding = 3 * backup_rounding(mdp, u, v)
        # The policies are off by rounding/τ, which counts as far as the actions' successors differ in worth.
        rounding += 4 * rounding / mdp.temperature * mdp.discount * largest(u - v)
        at_v = mdp.discount * chain(mdp, bl.mdp.soft_backup(mdp, v).policy) @ (u - v)
        at_u = mdp.discount * chain(mdp, bl.mdp.soft_backup(mdp, u).policy) @ (u - v)
        assert (at_v <= rise + rounding).all()
        assert (rise <= at_u + rounding).all()


@given(soft_mdps(), seeds)
def test_the_derivative_agrees_with_central_differences(mdp, seed):
    """`(T(v + hd) − T(v − hd))/2h → γP^π d`, with the step in units of τ, the scale on which T bends.

    The third derivative of T along d is at most 2‖γd‖³/τ², so a step h = ητ is wrong by at most η²/3 with ‖d‖∞ = 1;
    rounding adds rounding/h. η = 1e-4 balances the two at ordinary sizes.
    """
    rng = np.random.default_rng(seed)
    v, direction = drawn_values(mdp, rng), rng.uniform(-1, 1, size=mdp.states)
    step = 1e-4 * mdp.temperature
    rise = bl.mdp.soft_bellman(mdp, v + step * direction) - bl.mdp.soft_bellman(mdp, v - step * direction)
    derivative = mdp.discount * chain(mdp, bl.mdp.soft_backup(mdp, v).policy) @ direction
    tolerance = 1e-8 / 3 + 2 * backup_rounding(mdp, v) / step
    assert rise / (2 * step) == pytest.approx(derivative, rel=0, abs=tolerance)


@given(soft_mdps())
def test_the_solution_is_a_fixed_point(mdp):
    """The solver's residual is rounding, and is what it says it is."""
    solution = solved(mdp)
    gap = written_out(mdp, solution.values)[1] - solution.values
    rounding = backup_rounding(mdp, solution.values)
    assert solution.status.usable
    assert largest(gap) <= 2 * rounding
    assert solution.residual == pytest.approx(largest(gap), rel=0, abs=rounding)
    assert (solution.policy == bl.mdp.soft_backup(mdp, solution.values).policy).all()


@given(soft_mdps())
def test_the_optimal_values_are_the_value_of_the_optimal_policy(mdp):
    """`V* = (I − γP^π*)^{-1} Σ_a π*_sa (r_sa − τ log(π*_sa/μ_sa))`, from scratch by a dense solve and by the library.

    π* is off by `policy_error` in relative terms, but V* is stationary in π, so only rounding is left: that of the
    entropy and of the solve.
    """
    solution = solved(mdp)
    measure = np.ones_like(mdp.rewards) if mdp.reference is None else mdp.reference
    policy = solution.policy
    cost = np.where(policy > 0, np.log(np.where(policy > 0, policy, 1.0) / measure), 0.0)
    matrix = np.eye(mdp.states) - mdp.discount * chain(mdp, policy)
    values = np.linalg.solve(matrix, (policy * (mdp.rewards - mdp.temperature * cost)).sum(axis=1))
    tolerance = 4 * value_error(solution) + solve_rounding(mdp) * largest(solution.values)
    assert values == pytest.approx(solution.values, rel=0, abs=tolerance)
    assert bl.mdp.policy_values(mdp, policy) == pytest.approx(solution.values, rel=0, abs=tolerance)


@given(soft_mdps(), seeds)
def test_no_policy_is_worth_more_in_any_state(mdp, seed):
    """`V^π ≤ V*` everywhere: for any policy, for a deterministic one, and for small changes of π* itself."""
    rng = np.random.default_rng(seed)
    solution = solved(mdp)
    any_policy = drawn_policy(rng, mdp.states, mdp.actions)
    deterministic = np.eye(mdp.actions)[rng.integers(mdp.actions, size=mdp.states)]
    share = 10.0 ** rng.uniform(-4, -1)
    close = (1 - share) * solution.policy + share * any_policy
    for policy in (any_policy, deterministic, close):
        values = bl.mdp.policy_values(mdp, policy)
        tolerance = value_error(solution) + solve_rounding(mdp) * (largest(values) + largest(solution.values))
        assert (values <= solution.values + tolerance).all()


@given(soft_mdps(), seeds)
def test_the_residual_bounds_the_value_error(mdp, seed):
    """`‖v − V*‖∞ ≤ ‖Tv − v‖∞/(1−γ)` for any v, however far."""
    solution = solved(mdp)
    values = drawn_values(mdp, np.random.default_rng(seed))
    residual = largest(bl.mdp.soft_bellman(mdp, values) - values) + backup_rounding(mdp, values)
    distance = largest(values - solution.values)
    assert distance <= residual / (1 - mdp.discount) + value_error(solution)


@given(soft_mdps(), seeds)
def test_the_value_error_bounds_the_policy_error(mdp, seed):
    """`|log π(v) − log π*| ≤ 2γ‖v − V*‖∞/τ`, where both probabilities are large enough to have a logarithm."""
    rng = np.random.default_rng(seed)
    solution = solved(mdp)
    for size in (10.0 ** rng.uniform(-3, 1) * mdp.temperature, float(np.abs(drawn_values(mdp, rng)).max())):
        values = solution.values + size * rng.uniform(-1, 1, size=mdp.states)
        policy = bl.mdp.soft_backup(mdp, values).policy
        both = (policy > TINY) & (solution.policy > TINY)
        difference = np.log(policy[both]) - np.log(solution.policy[both])
        bound = 2 * mdp.discount * largest(values - solution.values) / mdp.temperature
        rounding = 4 * backup_rounding(mdp, values, solution.values) / mdp.temperature + 4 * EPSILON
        assert (np.abs(difference) <= bound + rounding).all()


def hard_optimal_values(mdp):
    """The optimal values (S,) without regularisation, by policy iteration on dense arrays."""
    kernel, states = dense_kernel(mdp), np.arange(mdp.states)
    actions = np.zeros(mdp.states, dtype=int)
    for _ in range(200):
        matrix = np.eye(mdp.states) - mdp.discount * kernel[states, actions]
        values = np.linalg.solve(matrix, mdp.rewards[states, actions])
        action_values = mdp.rewards + mdp.discount * np.einsum("sat,t->sa", kernel, values)
        gain = action_values.max(axis=1) - action_values[states, actions]
        # Below rounding, a gain would only let tied actions take turns for ever.
        better = gain > 1e-12 * (1 + np.abs(action_values).max())
        if not better.any():
            return values
        actions = np.where(better, action_values.argmax(axis=1), actions)
    raise AssertionError("policy iteration did not settle")


@given(soft_mdps())
def test_the_values_tend_to_the_hard_optimum_as_the_temperature_falls(mdp):
    """`0 ≤ V*_τ − V*_0 ≤ τ log|A|/(1−γ)` at every τ on the way to zero.

    With a reference measure the smallest `log μ` takes the place of 0 and the largest `log Σ_a μ` that of log|A|.
    """
    hard = hard_optimal_values(mdp)
    measure = np.ones_like(mdp.rewards) if mdp.reference is None else mdp.reference
    low, high = float(np.log(measure).min()), float(np.log(measure.sum(axis=1)).max())
    # The hard optimum is solved for to a gain of 1e-12 in relative terms.
    of_hard = (1e-12 + solve_rounding(mdp)) * (1 + largest(hard) + largest(mdp.rewards)) / (1 - mdp.discount)
    for factor in (1.0, 0.1, 0.01):
        soft = bl.SoftMDP(
            mdp.transitions, mdp.rewards, mdp.discount, factor * mdp.temperature, mdp.initial, mdp.reference
        )
        solution = solved(soft)
        above = (1 - soft.discount) * (solution.values - hard)
        tolerance = (1 - soft.discount) * (value_error(solution) + of_hard)
        assert (above >= soft.temperature * low - tolerance).all()
        assert (above <= soft.temperature * high + tolerance).all()


@given(soft_mdps(), seeds)
def test_a_constant_reward_leaves_the_policy_unchanged(mdp, seed):
    """`r + c` moves V* by c/(1−γ) and nothing else."""
    constant = float(drawn_values(mdp, np.random.default_rng(seed))[0])
    plain, shifted = solved(mdp), solved(mdp.replace(rewards=mdp.rewards + constant))
    expected = plain.values + constant / (1 - mdp.discount)
    tolerance = value_error(plain) + value_error(shifted) + 4 * EPSILON * largest(expected)
    assert shifted.values == pytest.approx(expected, rel=0, abs=tolerance)
    assert_same_policy(plain, shifted)


@given(soft_mdps(), seeds)
def test_potential_shaping_leaves_the_policy_unchanged(mdp, seed):
    """`r_sa + γ Σ_s' P_sas' Φ_s' − Φ_s` moves V* by −Φ and nothing else (Ng, Harada and Russell 1999)."""
    potential = drawn_values(mdp, np.random.default_rng(seed))
    gained = mdp.discount * np.einsum("sat,t->sa", dense_kernel(mdp), potential) - potential[:, None]
    plain, shaped = solved(mdp), solved(mdp.replace(rewards=mdp.rewards + gained))
    # Shaped rewards are themselves rounded, and a reward's error is worth 1/(1−γ) of it.
    of_rewards = backup_rounding(mdp, potential) / (1 - mdp.discount)
    tolerance = value_error(plain) + value_error(shaped) + of_rewards
    assert shaped.values == pytest.approx(plain.values - potential, rel=0, abs=tolerance)
    assert_same_policy(plain, shaped, 2 * of_rewards / mdp.temperature)


def assert_same_policy(one, two, further=0.0):
    """Equal in relative terms to the two solutions' policy errors; absolute below 1e-300, where doubles lose digits."""
    relative = np.expm1(min(policy_error(one) + policy_error(two) + further, 1.0))
    assert one.policy == pytest.approx(two.policy, rel=relative, abs=TINY)


@given(soft_mdps(), seeds)
def test_a_newton_step_is_a_step_of_soft_policy_iteration(mdp, seed):
    """`v + (I − γP^π(v))^{-1}(Tv − v)` is the value of π(v): Newton's method evaluates the policy it improved."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    backup = bl.mdp.soft_backup(mdp, values)
    newton = values + bl.mdp.Linearization(mdp.transitions, mdp.discount, backup.policy).solve(backup.values - values)
    size = largest(values) + largest(newton) + backup_rounding(mdp, values) / EPSILON
    tolerance = solve_rounding(mdp) * size
    assert newton == pytest.approx(bl.mdp.policy_values(mdp, backup.policy), rel=0, abs=tolerance)


@given(soft_mdps(), seeds)
def test_newton_converges_quadratically(mdp, seed):
    """`0 ≤ V* − v⁺ ≤ γ²‖v − V*‖²/(2τ(1−γ))`, and after the first step by at least γ a step.

    The second derivative of T along d is a variance, at most ‖γd‖²/τ; `(I − γP^π)^{-1}` multiplies it by 1/(1−γ).
    """
    best = solved(mdp)
    values = best.values + np.random.default_rng(seed).normal(size=mdp.states) * mdp.temperature
    for step in range(4):
        distance = largest(values - best.values)
        backup = bl.mdp.soft_backup(mdp, values)
        gap = backup.values - values
        values = values + bl.mdp.Linearization(mdp.transitions, mdp.discount, backup.policy).solve(gap)
        rounding = value_error(best) + 4 * backup_rounding(mdp, values) / (1 - mdp.discount)
        below = best.values - values
        assert (below >= -rounding).all()
        assert (below <= mdp.discount**2 * distance**2 / (2 * mdp.temperature * (1 - mdp.discount)) + rounding).all()
        assert step == 0 or (below <= mdp.discount * distance + rounding).all()


def test_newton_needs_a_few_steps_where_value_iteration_needs_thousands():
    """On random dense MDPs with γ = 0.99: the reason why soft policy iteration is what the exact estimators use."""
    rng = np.random.default_rng(0)
    mdp = bl.SoftMDP(rng.dirichlet(np.ones(50), size=(50, 5)), rng.normal(size=(50, 5)), 0.99, 1.0)
    problem, x = _problem(mdp), np.zeros(1)
    newton = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-8).solve(problem, x, None, rng)
    sweeps = bl.lower_level_solver("soft-value-iteration", tolerance=1e-8).solve(problem, x, None, rng)
    assert newton.status is sweeps.status is bl.Status.CONVERGED
    assert newton.iterations <= 5
    assert sweeps.iterations >= 1000
    # Each is within its own tolerance of V*.
    assert newton.values == pytest.approx(sweeps.values, rel=0, abs=2e-8)


def _problem(mdp):
    lower = bl.ParametricMDP(
        mdp.transitions, bl.parametric.LinearReward(mdp.rewards, np.zeros((50, 5, 1))), mdp.discount, mdp.temperature
    )
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())


@given(soft_mdps(reference=st.sampled_from(("policy", "measure"))))
def test_a_reference_measure_is_entropy_with_its_logarithm_in_the_reward(mdp):
    """KL regularisation towards μ equals entropy with reward `r + τ log μ`: same V*, same π*; only q differs."""
    bonus = mdp.temperature * np.log(mdp.reference)
    with_reference = solved(mdp)
    entropy = solved(bl.SoftMDP(mdp.transitions, mdp.rewards + bonus, mdp.discount, mdp.temperature, mdp.initial))
    tolerance = value_error(with_reference) + value_error(entropy)
    assert entropy.values == pytest.approx(with_reference.values, rel=0, abs=tolerance)
    assert entropy.action_values - bonus == pytest.approx(with_reference.action_values, rel=0, abs=2 * tolerance)
    assert_same_policy(with_reference, entropy)


@given(soft_mdps(discount=discounts(0.0, 0.9), temperature=temperatures(0.1, 10.0)), seeds)
def test_optimal_values_are_convex_in_the_rewards(mdp, seed):
    """V* is a supremum of functions affine in r (one for each policy), hence convex."""
    rng = np.random.default_rng(seed)
    one, two = (mdp.replace(rewards=mdp.rewards + rng.normal(size=mdp.rewards.shape)) for _ in range(2))
    weight = rng.random()
    middle = mdp.replace(rewards=weight * one.rewards + (1 - weight) * two.rewards)
    solutions = [solved(model) for model in (one, two, middle)]
    mixture = weight * solutions[0].values + (1 - weight) * solutions[1].values
    assert (solutions[2].values <= mixture + sum(map(value_error, solutions))).all()
