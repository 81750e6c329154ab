"""`I − γP^π` as an operator and as a system: exact, or from a nearby factorisation; and what it solves."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, strategies as st
from numpy.testing import assert_allclose

import bilevelrl as bl
from bilevelrl.linear.factorization import solve_with_refinement
from bilevelrl.testing.exact import dense_kernel
from bilevelrl.testing.rounding import EPSILON, solve_rounding
from strategies import discounts, drawn_kernel, drawn_policy, drawn_values, seeds, soft_mdps


def matrix(mdp, policy):
    """`I − γP^π` (S, S), dense."""
    return np.eye(mdp.states) - mdp.discount * np.einsum("sa,sat->st", policy, dense_kernel(mdp))


def drawn_system(mdp, seed):
    rng = np.random.default_rng(seed)
    policy = drawn_policy(rng, mdp.states, mdp.actions)
    return bl.mdp.Linearization(mdp.transitions, mdp.discount, policy), matrix(mdp, policy), rng


@given(soft_mdps(), seeds)
def test_applying_is_multiplying_with_the_matrix(mdp, seed):
    """`(I − γP^π) v` and `(I − γP^π)ᵀ w`, which leave v and w as they are."""
    system, dense, rng = drawn_system(mdp, seed)
    values = drawn_values(mdp, rng)
    before = values.copy()
    rounding = 4 * (mdp.states + mdp.actions) * EPSILON * np.abs(values).sum()
    assert system.apply(values) == pytest.approx(dense @ values, rel=0, abs=rounding)
    assert system.apply_transpose(values) == pytest.approx(dense.T @ values, rel=0, abs=rounding)
    assert (values == before).all()


@given(soft_mdps(), seeds)
def test_solving_inverts_applying(mdp, seed):
    """In both directions, to the condition number 2/(1−γ) in ulps; the residual itself is rounding."""
    system, dense, rng = drawn_system(mdp, seed)
    target = drawn_values(mdp, rng)
    for solve, apply, square in (
        (system.solve, system.apply, dense),
        (system.solve_transpose, system.apply_transpose, dense.T),
    ):
        answer = solve(target)
        size = np.abs(answer).sum() + np.abs(target).sum()
        residual = 8 * (mdp.states + mdp.actions) * EPSILON * size
        assert apply(answer) == pytest.approx(target, rel=0, abs=residual)
        assert answer == pytest.approx(np.linalg.solve(square, target), rel=0, abs=solve_rounding(mdp) * size)


@given(soft_mdps(), seeds)
def test_a_nearby_factorisation_solves_as_well_as_the_exact_one(mdp, seed):
    """Newton's last factorisation belongs to a policy next to the last one; refinement makes up the difference."""
    system, _, rng = drawn_system(mdp, seed)
    share = 10.0 ** rng.uniform(-12, -2) * (1 - mdp.discount)
    nearby_policy = (1 - share) * system.policy + share * drawn_policy(rng, mdp.states, mdp.actions)
    factorization = bl.mdp.Linearization(mdp.transitions, mdp.discount, nearby_policy).factorize()
    reusing = bl.mdp.Linearization(mdp.transitions, mdp.discount, system.policy, factorization)
    target = drawn_values(mdp, rng)
    for exact, reused in ((system.solve, reusing.solve), (system.solve_transpose, reusing.solve_transpose)):
        answer = exact(target)
        size = np.abs(answer).sum() + np.abs(target).sum()
        # The bound on the residual at which refinement stops is a hundred times that of a fresh factorisation.
        assert reused(target) == pytest.approx(answer, rel=0, abs=100 * solve_rounding(mdp) * size)
    assert reusing.factorization is factorization


@given(soft_mdps(discount=discounts(0.9, 0.999)), seeds)
def test_a_far_factorisation_is_replaced_where_it_does_not_serve(mdp, seed):
    """Whatever is handed in, the answer is right: refinement that does not converge falls back to the exact matrix."""
    system, _, rng = drawn_system(mdp, seed)
    stranger = bl.mdp.DenseTransitions(drawn_kernel(rng, "deterministic", mdp.states, mdp.actions, 0))
    factorization = bl.mdp.Linearization(stranger, mdp.discount, drawn_policy(rng, mdp.states, mdp.actions)).factorize()
    reusing = bl.mdp.Linearization(mdp.transitions, mdp.discount, system.policy, factorization)
    target = drawn_values(mdp, rng)
    answer = reusing.solve_transpose(target)
    size = np.abs(answer).sum() + np.abs(target).sum()
    rounding = 100 * 8 * (mdp.states + mdp.actions) * EPSILON * size
    assert system.apply_transpose(answer) == pytest.approx(target, rel=0, abs=rounding)


def two_cycles():
    """Two deterministic chains on two states that have nothing in common: stay, and swap."""
    stay, swap = np.eye(2), np.eye(2)[::-1]
    return bl.linear.Factorization.of(stay, 0.9), lambda v: v - 0.9 * swap @ v


def test_refinement_says_when_a_factorisation_is_too_far_away():
    """None, rather than an answer that is not one."""
    stay, apply_swap = two_cycles()
    assert solve_with_refinement(stay, apply_swap, np.array([1.0, -1.0]), False) is None


def test_a_linearized_backup_hands_on_what_it_was_given_and_what_it_found():
    """The factorisation, the method, and the chain of the pass, which need not be formed again."""
    rng = np.random.default_rng(0)
    mdp = bl.SoftMDP(rng.dirichlet(np.ones(760), size=(760, 1)), rng.normal(size=(760, 1)), 0.9, 0.5)
    _, plain = bl.mdp.linearized_backup(mdp, np.zeros(760))
    assert (plain.method, plain.factorization, plain.fell_back) == ("auto", None, False)
    assert plain.iterates
    assert bl.mdp.Linearization(mdp.transitions, 0.9, plain.policy).iterates
    nearby = plain.factorize()
    _, system = bl.mdp.linearized_backup(mdp, np.ones(760), factorization=nearby, method="direct")
    assert (system.method, system.factorization) == ("direct", nearby)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bl.mdp.DenseTransitions, "under", None)
        assert_allclose(system.chain, mdp.transitions.probabilities[:, 0, :], rtol=1e-12, atol=0)


def test_a_fresh_factorisation_is_refined_once(monkeypatch):
    """Its own rounding, which is larger near γ = 1, is corrected by one step: here a millionth becomes its square."""
    of = bl.linear.Factorization.of

    def rough(chain, discount):
        exact = of(chain, discount)
        return bl.linear.Factorization(lambda b, transpose: exact.solve(b, transpose) * (1 + 1e-6))

    monkeypatch.setattr(bl.linear.Factorization, "of", rough)
    rng = np.random.default_rng(0)
    mdp = bl.SoftMDP(rng.dirichlet(np.ones(8), size=(8, 2)), rng.normal(size=(8, 2)), 0.9, 0.5)
    system = bl.mdp.Linearization(mdp.transitions, 0.9, np.full((8, 2), 0.5))
    target = rng.normal(size=8)
    assert system.apply(system.solve(target)) == pytest.approx(target, rel=0, abs=1e-10)
    again = bl.mdp.Linearization(mdp.transitions, 0.9, np.full((8, 2), 0.5))
    assert again.apply_transpose(again.solve_transpose(target)) == pytest.approx(target, rel=0, abs=1e-10)


def test_the_replacement_is_kept_for_later_solves():
    stay, _ = two_cycles()
    kernel = bl.mdp.DenseTransitions(np.eye(2)[::-1][:, None, :])
    system = bl.mdp.Linearization(kernel, 0.9, np.ones((2, 1)), stay)
    assert system.solve(np.array([1.0, -1.0])) == pytest.approx([1 / 1.9, -1 / 1.9], rel=1e-14)
    kept = system.factorization
    assert kept is not stay
    system.solve_transpose(np.array([1.0, 2.0]))
    assert system.factorization is kept


def test_a_right_hand_side_that_is_not_finite_gives_an_answer_that_is_not():
    """A non-finite model must surface as a status; the linear algebra neither raises nor hides it."""
    kernel = bl.mdp.DenseTransitions(np.eye(2)[:, None, :])
    system = bl.mdp.Linearization(kernel, 0.5, np.ones((2, 1)))
    system.factorize()
    assert np.isnan(system.solve(np.array([np.nan, 1.0]))).any()


# --- What it is solved for


@given(soft_mdps(), seeds)
def test_a_discounted_occupancy_obeys_its_flow_equation(mdp, seed):
    """`Σ_a d_sa = ρ_s + γ Σ_s'a' P_s'a's d_s'a'`, so it sums to 1/(1−γ); `d_sa = d_s π_sa`; not negative."""
    system, _, rng = drawn_system(mdp, seed)
    rounding = solve_rounding(mdp) / (1 - mdp.discount)
    for given_start in (None, rng.dirichlet(np.ones(mdp.states))):
        occupancy = bl.mdp.discounted_occupancy(mdp, system.policy, given_start)
        start = mdp.initial if given_start is None else given_start
        inflow = start + mdp.discount * np.einsum("sat,sa->t", dense_kernel(mdp), occupancy)
        assert occupancy.sum(axis=1) == pytest.approx(inflow, rel=0, abs=rounding)
        assert occupancy.sum() == pytest.approx(1 / (1 - mdp.discount), rel=solve_rounding(mdp) * mdp.states)
        assert occupancy == pytest.approx(occupancy.sum(axis=1, keepdims=True) * system.policy, rel=0, abs=rounding)
        assert (occupancy >= -rounding).all()


@given(soft_mdps(discount=discounts(0.0, 0.9)), seeds)
def test_a_discounted_occupancy_is_the_sum_over_time(mdp, seed):
    """`Σ_t γ^t Pr(s_t = s, a_t = a)`, step by step: 400 steps leave 0.9^400/0.1, less than an ulp."""
    system, _, _ = drawn_system(mdp, seed)
    at, expected = mdp.initial, np.zeros_like(system.policy)
    for t in range(400):
        expected = expected + mdp.discount**t * at[:, None] * system.policy
        at = np.einsum("s,sa,sat->t", at, system.policy, dense_kernel(mdp))
    rounding = 400 * solve_rounding(mdp) / (1 - mdp.discount)
    assert bl.mdp.discounted_occupancy(mdp, system.policy) == pytest.approx(expected, rel=0, abs=rounding)


@example(bl.SoftMDP(np.ones((1, 1, 1)), [[0.0]], 0.0, 1.0, reference=[[1 - EPSILON / 2]]), 0)
@given(soft_mdps(), seeds)
def test_the_value_of_a_policy_solves_its_bellman_equation(mdp, seed):
    """`V = Σ_a π (r − τ log(π/μ) + γPV)`, and without the logarithm where regularisation is left out."""
    system, _, _ = drawn_system(mdp, seed)
    policy = system.policy
    measure = np.ones_like(policy) if mdp.reference is None else mdp.reference
    cost = np.where(policy > 0, np.log(np.where(policy > 0, policy, 1.0) / measure), 0.0)
    for regularized in (True, False):
        values = bl.mdp.policy_values(mdp, policy, regularized=regularized)
        rewards = mdp.rewards - (mdp.temperature * cost if regularized else 0.0)
        following = rewards + mdp.discount * np.einsum("sat,t->sa", dense_kernel(mdp), values)
        # log(π/μ) and log π − log μ differ by an ulp of 1 where they are small, and of their parts where not.
        logarithms = 1 + np.abs(cost).max() + np.abs(np.log(measure)).max()
        size = np.abs(mdp.rewards).max() + mdp.temperature * logarithms + np.abs(values).sum()
        rounding = 8 * (mdp.states + mdp.actions) * EPSILON * size
        assert values == pytest.approx((policy * following).sum(axis=1), rel=0, abs=rounding)


@given(st.booleans(), seeds)
def test_both_storages_solve_alike(transpose, seed):
    """The same chain, dense and sparse, through LAPACK and through SuperLU."""
    rng = np.random.default_rng(seed)
    kernel = drawn_kernel(rng, "narrow", 6, 2, 0)
    mdp = bl.SoftMDP(kernel, np.zeros((6, 2)), 0.9, 1.0)
    policy, target = drawn_policy(rng, 6, 2), rng.normal(size=6)
    answers = []
    for transitions in (mdp.transitions, bl.mdp.SparseTransitions(_sparse(kernel))):
        system = bl.mdp.Linearization(transitions, 0.9, policy)
        answers.append((system.solve_transpose if transpose else system.solve)(target))
    assert answers[0] == pytest.approx(answers[1], rel=0, abs=solve_rounding(mdp) * np.abs(answers[0]).sum())


def _sparse(kernel):

    return scipy.sparse.csr_array(kernel.reshape(-1, kernel.shape[2]))
