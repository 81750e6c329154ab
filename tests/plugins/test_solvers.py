"""The lower-level solvers keep their guarantees, and pay what they say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl

RNG = np.random.default_rng(0)


def random_problem(
    states: int = 8, actions: int = 3, discount: float = 0.9, temperature: float = 0.3, *, sparse: bool = False
) -> bl.BilevelProblem:
    rng = np.random.default_rng(states)
    kernel = rng.random((states, actions, states)) ** 4
    kernel /= kernel.sum(axis=2, keepdims=True)
    transitions = scipy.sparse.csr_array(kernel.reshape(-1, states)) if sparse else kernel
    lower = bl.ParametricMDP(
        transitions, bl.parametric.TabularReward(rng.standard_normal((states, actions))), discount, temperature
    )
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())


def solve(solver: bl.LowerLevelSolver, problem: bl.BilevelProblem, warm_start=None) -> bl.mdp.TabularSolution:
    return solver.solve(problem, np.zeros(problem.dimension), warm_start, bl.randomness.stream(0, "lower"))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_value_iteration_is_as_accurate_as_it_promises(sparse: bool, discount: float, tolerance: float) -> None:
    """‖v − V*‖∞ ≤ tolerance, V* from Newton's method at rounding."""
    problem = random_problem(discount=discount, sparse=sparse)
    best = solve(bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13), problem)
    found = solve(bl.lower_level_solver("soft-value-iteration", tolerance=tolerance), problem)
    assert found.status is bl.Status.CONVERGED
    assert bl.validation.maximum_norm(found.values - best.values) <= tolerance
    assert found.residual <= (1 - discount) * tolerance


def test_newton_needs_a_few_steps_where_value_iteration_needs_thousands() -> None:
    """At γ = 0.99 the error of value iteration falls by 1 % a sweep; Newton's doubles its digits."""
    problem = random_problem(states=30, actions=4, discount=0.99)
    newton = solve(bl.lower_level_solver("soft-policy-iteration", tolerance=1e-9), problem)
    sweeps = solve(bl.lower_level_solver("soft-value-iteration", tolerance=1e-9), problem)
    assert newton.status is bl.Status.CONVERGED
    assert newton.iterations <= 8
    assert sweeps.iterations > 1000
    np.testing.assert_allclose(newton.values, sweeps.values, atol=2e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_linearization_of_newtons_last_step_solves_the_system_of_the_answer(sparse: bool) -> None:
    """The kept factorisation belongs to the policy before last; refinement makes it as good as a fresh one."""
    problem = random_problem(states=20, discount=0.999, sparse=sparse)
    solution = solve(bl.lower_level_solver("soft-policy-iteration"), problem)
    kept = solution.linearization.factorization
    assert kept is not None
    fresh = bl.mdp.Linearization(solution.model.transitions, solution.model.discount, solution.policy)
    b = RNG.standard_normal(20)
    for reused, exact in (
        (solution.linearization.solve(b), fresh.solve(b)),
        (solution.linearization.solve_transpose(b), fresh.solve_transpose(b)),
    ):
        # The condition number is about (1+γ)/(1−γ) = 2e3; 1e-11 leaves a factor for rounding.
        np.testing.assert_allclose(reused, exact, rtol=0, atol=1e-11 * np.abs(exact).max())
    assert solution.linearization.factorization is kept, "a new factorisation was paid for"


@pytest.mark.parametrize("name", ["soft-value-iteration", "soft-policy-iteration"])
def test_unreachable_tolerance_is_reported_as_stagnation(name: str) -> None:
    """1e-18 is below rounding: the status says so, and the answer is still the best there is."""
    problem = random_problem(discount=0.99)
    found = solve(bl.lower_level_solver(name, tolerance=1e-18), problem)
    assert found.status is bl.Status.STAGNATED
    assert found.residual <= 1e-13 * max(1.0, bl.validation.maximum_norm(found.values))


@pytest.mark.parametrize("name", ["soft-value-iteration", "soft-policy-iteration"])
def test_warm_start_saves_work_and_changes_nothing(name: str) -> None:
    problem = random_problem()
    solver = bl.lower_level_solver(name, tolerance=1e-9)
    cold = solve(solver, problem)
    warm = solve(solver, problem, cold)
    assert warm.cost.backups == 1
    assert warm.iterations == 0
    np.testing.assert_allclose(warm.values, cold.values, atol=2e-9)


def test_fixed_sweeps_are_exactly_that_many_backups() -> None:
    problem = random_problem()
    model = problem.lower.model(np.zeros(problem.dimension))
    values = np.zeros(model.states)
    for _ in range(7):
        values = bl.mdp.soft_backup(model, values).values
    found = solve(bl.lower_level_solver("soft-value-iteration", sweeps=7), problem)
    np.testing.assert_allclose(found.values, values, atol=1e-13)
    assert found.iterations == 7
    assert found.cost.backups == 8  # the eighth gives policy and residual at the seventh's values
    assert found.residual == pytest.approx(bl.validation.maximum_norm(bl.mdp.soft_bellman(model, values) - values))
    assert found.status is bl.Status.BUDGET_SPENT


def test_step_budget_is_reported() -> None:
    found = solve(bl.lower_level_solver("soft-policy-iteration", maximum_iterations=1), random_problem(discount=0.99))
    assert found.status is bl.Status.BUDGET_SPENT
    found = solve(bl.lower_level_solver("soft-value-iteration", maximum_sweeps=3), random_problem(discount=0.99))
    assert found.status is bl.Status.BUDGET_SPENT
    assert found.iterations == 3


@pytest.mark.parametrize("name", ["soft-value-iteration", "soft-policy-iteration"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rewards_that_are_not_finite_become_a_status(name: str, bad: float) -> None:
    """A model may leave float64 on the way; the solver reports it instead of raising or claiming convergence."""
    lower = bl.ParametricMDP(
        np.full((2, 1, 2), 0.5),
        bl.parametric.CallableReward(
            lambda x: np.zeros((2, 1)) if not x.any() else np.full((2, 1), bad), lambda x, r: r.sum(0), 1
        ),
        0.9,
        1.0,
    )
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())
    solution = bl.lower_level_solver(name).solve(problem, np.ones(1), None, bl.randomness.stream(0, "lower"))
    assert solution.status is bl.Status.NON_FINITE
