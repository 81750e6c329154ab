"""A return of H steps: its recursions against one matrix, its two faces against each other."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl.testing.enumeration import Enumeration
from bilevelrl.testing.exact import dense_kernel, solved

X = np.zeros(1)


@given(testing.soft_mdps(), st.integers(1, 4), st.booleans(), st.data())
def test_its_value_is_the_sum_over_steps(mdp, horizon, baseline, data):
    policy = data.draw(testing.policies(mdp.states, mdp.actions))
    chain = np.einsum("sa,sat->st", policy, dense_kernel(mdp))
    paid = (policy * mdp.rewards).sum(axis=1)
    expected = sum(mdp.discount**h * mdp.initial @ np.linalg.matrix_power(chain, h) @ paid for h in range(horizon))
    objective = bl.objectives.FiniteHorizonReturnObjective(mdp, horizon, baseline)
    value, by_x, _ = objective.value_and_gradients(X, policy)
    assert value == pytest.approx(-expected, rel=1e-12, abs=1e-12)
    assert (by_x == 0).all()


@given(testing.soft_mdps(), st.integers(1, 4), st.data())
def test_its_gradient_is_the_derivative_and_a_baseline_moves_it_by_a_number_per_state(mdp, horizon, data):
    policy = data.draw(testing.policies(mdp.states, mdp.actions))
    plain = bl.objectives.FiniteHorizonReturnObjective(mdp, horizon)
    _, _, gradient = plain.value_and_gradients(X, policy)
    direction = np.cos(np.arange(policy.size) + 1.0).reshape(policy.shape)
    step = 1e-4  # f is a polynomial of degree H in π
    ahead, behind = (plain.value_and_gradients(X, policy + s * step * direction)[0] for s in (1, -1))
    size = 1 + np.abs(gradient).sum()
    assert (ahead - behind) / (2 * step) == pytest.approx((gradient * direction).sum(), rel=0, abs=1e-6 * size)
    _, _, lowered = bl.objectives.FiniteHorizonReturnObjective(mdp, horizon, True).value_and_gradients(X, policy)
    moved = gradient - lowered
    assert moved == pytest.approx(np.broadcast_to(moved[:, :1], moved.shape), rel=0, abs=1e-12 * size)


def test_both_faces_are_one_objective():
    """The expectation over all trajectories, and its gradient, are those of the policy's face."""
    rng = np.random.default_rng(3)
    kernel = rng.dirichlet(np.ones(2), size=(2, 2))
    true_mdp = bl.SoftMDP(kernel, rng.normal(size=(2, 2)), 0.9, 1.0)
    lower = bl.ParametricMDP(kernel, bl.parametric.TabularReward(rng.normal(size=(2, 2))), 0.8, 0.5)
    problem = bl.BilevelProblem(lower, bl.objectives.FiniteHorizonReturnObjective(true_mdp, 3), np.full(4, 0.25))
    value, gradient = bl.value_and_gradient(problem, problem.start)
    sampled = Enumeration(problem)
    assert sampled.objective == pytest.approx(value, rel=1e-12)
    assert sampled.gradient == pytest.approx(gradient, rel=0, abs=1e-10)


def test_a_long_horizon_is_the_return_for_ever():
    mdp = bl.SoftMDP(np.full((2, 2, 2), 0.5), np.array([[1.0, 0.0], [0.5, 2.0]]), 0.5, 1.0)
    policy = solved(mdp).policy
    for_ever = bl.objectives.ReturnObjective(mdp).value_and_gradients(X, policy)
    long = bl.objectives.FiniteHorizonReturnObjective(mdp, 60).value_and_gradients(X, policy)
    assert long[0] == pytest.approx(for_ever[0], rel=1e-14)
    assert long[2] == pytest.approx(for_ever[2], rel=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("M", 3), "FiniteHorizonReturnObjective.true_mdp is .*str.*; expected a SoftMDP"),
        ((bl.SoftMDP(np.ones((1, 1, 1)), np.zeros((1, 1)), 0.5, 1.0), 0), "horizon is 0"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(bl.InputError, match=message):
        bl.objectives.FiniteHorizonReturnObjective(*arguments)
