"""What a value is written as can be pasted, and rebuilds it."""

import re

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing import drawn, strategies
from bilevelrl.testing.source import source


def rebuilt(value):
    return eval(source(value), {"np": np, "scipy": scipy, "bl": bl, "testing": drawn})


def assert_same_mdp(first, second):
    assert (first.discount, first.temperature) == (second.discount, second.temperature)
    for mine, other in zip(first.transitions.stored(), second.transitions.stored(), strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    np.testing.assert_array_equal(first.initial, second.initial)
    np.testing.assert_array_equal(first.scaled_rewards, second.scaled_rewards)
    assert type(first.transitions) is type(second.transitions)


@given(strategies.soft_mdps())
def test_an_mdp_is_rebuilt_bit_for_bit(mdp):
    assert_same_mdp(rebuilt(mdp), mdp)


@given(strategies.bilevel_problems(), st.integers(0, 2**32 - 1))
def test_a_problem_is_rebuilt_with_the_same_model_pullback_and_objective(problem, seed):
    again, x, rng = rebuilt(problem), problem.start, np.random.default_rng(seed)
    mdp = problem.lower.model(x)
    assert type(again) is bl.BilevelProblem
    assert type(again.lower) is bl.ParametricMDP
    np.testing.assert_array_equal(again.start, x)
    assert_same_mdp(again.lower.model(x), mdp)
    shape = mdp.rewards.shape
    measure = bl.occupancy.DenseOccupancy(rng.normal(size=shape), rng.normal(size=shape[0]), rng.normal(size=shape[0]))
    np.testing.assert_array_equal(again.lower.pullback(x, measure), problem.lower.pullback(x, measure))
    policy = rng.dirichlet(np.ones(shape[1]), size=shape[0])
    for mine, other in zip(*(p.objective.value_and_gradients(x, policy) for p in (again, problem)), strict=True):
        np.testing.assert_array_equal(mine, other)


@given(strategies.bilevel_problems("trajectory"), st.integers(0, 2**32 - 1))
def test_a_problem_of_trajectories_is_rebuilt_with_the_same_losses(problem, seed):
    again, x, rng = rebuilt(problem), problem.start, np.random.default_rng(seed)
    mdp, judge = problem.lower.model(x), problem.objective
    assert (again.objective.horizon, again.objective.trajectories) == (judge.horizon, judge.trajectories)
    groups = 3 * judge.trajectories
    observations = rng.integers(mdp.states, size=(groups, judge.horizon + 1))
    actions = rng.integers(mdp.actions, size=(groups, judge.horizon))
    seen = bl.sampling.Trajectories(observations, actions, mdp.rewards[observations[:, :-1], actions])
    for mine, other in zip(*(p.objective.loss_and_gradient(x, seen, rng) for p in (again, problem)), strict=True):
        np.testing.assert_array_equal(mine, other)


@given(strategies.bilevel_problems() | strategies.bilevel_problems("trajectory"))
def test_the_repr_is_the_source_on_lines_of_at_most_100_columns(problem):
    assert repr(problem) == source(problem)
    assert max(map(len, repr(problem).splitlines())) <= 100


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(NESTED)
def test_plain_values_are_rebuilt(value):
    # NaN differs from itself; its repr does not.
    assert repr(rebuilt(value)) == repr(value)


@pytest.mark.parametrize(
    ("array", "written"),
    [
        (np.array([[0.5, 0.5]]), "np.array([[0.5, 0.5]])"),
        (np.array([1.0, np.inf, -np.inf, np.nan]), "np.array([1.0, np.inf, -np.inf, np.nan])"),
        (np.array([0, 1]), "np.array([0, 1])"),
        (np.array([True, False]), "np.array([True, False])"),
        (np.array([0.5, 2.0], dtype=np.float32), "np.array([0.5, 2.0], dtype=np.float32)"),
        (np.array(0.5), "np.array(0.5)"),
        (np.zeros((2, 3)), "np.zeros((2, 3))"),
        (np.zeros(3, dtype=np.int64), "np.array([0, 0, 0])"),
        (np.ones(1), "np.ones(1)"),
        (np.array([-0.0, 0.0]), "np.array([-0.0, 0.0])"),
        (np.empty((0, 2)), "np.zeros((0, 2))"),
        (scipy.sparse.csr_array(np.eye(2)), "scipy.sparse.csr_array(np.array([[1.0, 0.0], [0.0, 1.0]]))"),
    ],
)
def test_arrays_are_written_with_their_exact_numbers(array, written):
    assert source(array) == written
    again = rebuilt(array)
    assert again.dtype == array.dtype
    if not scipy.sparse.issparse(array):
        np.testing.assert_array_equal(again, array)
        np.testing.assert_array_equal(np.signbit(again), np.signbit(array))


def test_a_sparse_array_too_large_or_with_stored_zeros_is_written_by_its_entries():
    large = scipy.sparse.csr_array(([0.5, 0.25], ([0, 299], [7, 299])), shape=(300, 300))
    assert "shape=(300, 300)" in source(large)
    assert (rebuilt(large) != large).nnz == 0
    zero = scipy.sparse.csr_array((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    np.testing.assert_array_equal(rebuilt(zero).data, zero.data)


@pytest.mark.parametrize(
    "value",
    [
        bl.problems.Free(),
        bl.Box(np.array([-1.0, -np.inf]), 2.0),
        bl.problems.Ball(2.0),
        bl.problems.Simplex(),
        bl.parametric.StateReward(np.zeros((2, 1))),
        bl.objectives.ReturnLabeller(noisy=False),
        bl.Cost(backups=3),
    ],
)
def test_what_the_package_offers_is_written_by_its_public_name(value):
    assert source(rebuilt(value)) == source(value)
    assert re.match(rf"bl\.([a-z]+\.)?{type(value).__name__}\(", source(value))
    assert source(bl.Status.CONVERGED) == "bl.Status.CONVERGED"


def test_arguments_at_their_default_are_left_out():
    assert source(bl.objectives.QuadraticObjective(1.0, 2.0)) == "bl.objectives.QuadraticObjective(policy_weight=2.0)"
    assert source(bl.parametric.StateReward(np.zeros((2, 2)))) == "bl.parametric.StateReward(base=np.zeros((2, 2)))"
    mdp = bl.SoftMDP(np.ones((1, 1, 1)), np.zeros((1, 1)), 0.5, 1.0)
    assert source(mdp) == (
        "bl.SoftMDP(transitions=np.ones((1, 1, 1)), rewards=np.zeros((1, 1)), discount=0.5, temperature=1.0)"
    )


class Unspeakable:
    def __repr__(self):
        raise RuntimeError


class Derived(bl.SoftMDP):
    """Another's class, which may do anything: writing its base would be wrong."""


def test_what_cannot_be_written_is_shown_in_angle_brackets():
    assert source(lambda: 0).startswith("<function ")
    assert source(Unspeakable()) == "<Unspeakable>"
    assert source(np.array(["text"])) == "<array(['text'], dtype='<U4')>"
    assert source(Derived(np.ones((1, 1, 1)), np.zeros((1, 1)), 0.5, 1.0)).startswith("<")
    reward = bl.parametric.CallableReward(lambda x: np.zeros((1, 1)), lambda x, cotangent: x, 1)
    assert source(reward).startswith("bl.parametric.CallableReward(")
    assert "function=<function " in source(reward)


def test_long_rows_of_numbers_are_packed():
    written = source({"table": np.arange(40.0), "name": "x"})
    assert max(map(len, written.splitlines())) <= 100
    assert len(written.splitlines()) < 10
    np.testing.assert_array_equal(rebuilt({"table": np.arange(40.0)})["table"], np.arange(40.0))
