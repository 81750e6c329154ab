"""The outer loop: consistent states, replay, projection, termination, and failures that keep the last good state."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl

X0 = np.array([0.5, -0.5, 0.2, 0.1])


def small_problem(**changes: Any) -> bl.BilevelProblem:
    kernel = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]])
    lower = bl.ParametricMDP(kernel, bl.TabularReward(np.array([[1.0, 0.0], [0.0, 2.0]])), 0.8, 0.5)
    return bl.BilevelProblem(lower, bl.QuadraticObjective(), **({"start": X0, "name": "small"} | changes))


def exact(**changes: Any) -> bl.Algorithm:
    parts = {
        "lower": bl.lower_level_solver("soft-policy-iteration"),
        "estimator": bl.hypergradient_estimator("implicit"),
        "upper": bl.upper_level_optimizer("gradient-descent", step_size=0.2),
    }
    return bl.Algorithm(**(parts | changes))


@attrs.frozen
class Sabotaged:
    """An estimator that behaves until its third call, then answers as told."""

    name: ClassVar[str] = "sabotaged"
    requires: ClassVar[type] = bl.SupportsModel
    requires_objective: ClassVar[type] = bl.PolicyObjective

    fault: str

    def estimate(self, problem: Any, x: bl.Array, solution: Any, previous: Any, rng: Any) -> bl.HyperGradient:
        hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng)
        calls = 0 if previous is None else int(previous.carry["calls"])
        hyper = attrs.evolve(hyper, carry={"calls": np.array(calls + 1)})
        if calls < 3:
            return hyper
        changes: dict[str, Any] = {
            "nan gradient": {"direct": np.full_like(x, np.nan)},
            "infinite objective": {"objective": np.inf},
            "diverged": {"status": bl.Status.DIVERGED},
            "wrong shape": {"direct": np.zeros(2), "implicit": np.zeros(2)},
        }
        return attrs.evolve(hyper, **changes[self.fault])


@attrs.frozen
class Runaway:
    """An optimizer whose third step is not finite."""

    name: ClassVar[str] = "runaway"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        return x * (np.inf if state.steps == 2 else 0.9), bl.OptimizerState(state.steps + 1)


def test_same_seed_gives_the_same_run_bit_for_bit() -> None:
    problem = bl.problem("synthetic-quadratic", dimension=7)
    runs = [bl.algorithm("m-sobirl", step_size=1e-3).run(problem, iterations=20, seed=5) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].x, runs[1].x)
    for column in bl.run.COLUMNS[:-1]:
        np.testing.assert_array_equal(runs[0].history[column], runs[1].history[column])
    other = bl.algorithm("m-sobirl", step_size=1e-3).run(problem, iterations=20, seed=6)
    assert not np.array_equal(runs[0].x, other.x)


def test_any_iteration_can_be_replayed_alone_from_the_state_before_it() -> None:
    problem, algorithm, states = small_problem(), exact(), []
    algorithm.run(problem, iterations=6, callback=states.append)
    assert [state.iteration for state in states] == list(range(7))
    again = algorithm.step(problem, states[3])
    np.testing.assert_array_equal(again.x, states[4].x)
    np.testing.assert_array_equal(again.hyper.gradient, states[4].hyper.gradient)


def test_every_state_is_consistent_its_answer_and_gradient_belong_to_its_x() -> None:
    problem, states = small_problem(), []
    exact().run(problem, iterations=4, callback=states.append)
    for state in states:
        value, gradient = bl.value_and_gradient(problem, state.x)
        assert state.hyper.objective == pytest.approx(value)
        np.testing.assert_allclose(state.hyper.gradient, gradient, atol=1e-9)


@pytest.mark.parametrize("feasible_set", [bl.Box(-0.1, 0.3), bl.Ball(0.2), bl.Simplex()])
def test_every_iterate_is_feasible_the_first_included(feasible_set: bl.FeasibleSet) -> None:
    states: list[bl.OuterState] = []
    exact().run(small_problem(feasible_set=feasible_set), iterations=10, callback=states.append)
    for state in states:
        np.testing.assert_allclose(feasible_set.project(state.x), state.x, atol=1e-12)


def test_tolerance_stops_at_a_stationary_point_of_the_feasible_set() -> None:
    """On a box the gradient itself need not vanish; the projected step does."""
    problem = small_problem(feasible_set=bl.Box(0.05, 1.0))
    run = exact().run(problem, iterations=1000, tolerance=1e-8)
    assert run.status is bl.Status.CONVERGED
    assert run.last.iteration < 1000
    assert bl.stationarity(problem.feasible_set, run.x, run.gradient) <= 1e-8
    assert np.linalg.norm(run.gradient) > 1e-3


def test_inexact_gradient_that_happens_to_be_small_is_not_taken_for_convergence() -> None:
    """The residuals of solver and estimator must meet the tolerance too."""
    run = bl.algorithm("m-sobirl", step_size=1e-9, sweeps=1).run(small_problem(), iterations=1, tolerance=1e3)
    assert run.status is bl.Status.CONVERGED
    run = bl.algorithm("m-sobirl", step_size=1e-9, sweeps=1).run(
        small_problem(start=np.zeros(4)), iterations=1, tolerance=0.05
    )
    assert run.history["lower_residual"][0] > 0.05
    assert run.status is bl.Status.BUDGET_SPENT


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("nan gradient", bl.Status.NON_FINITE),
        ("infinite objective", bl.Status.NON_FINITE),
        ("diverged", bl.Status.DIVERGED),
    ],
)
def test_failure_of_a_component_is_a_status_with_its_name_and_the_last_good_state(
    fault: str, status: bl.Status
) -> None:
    good = exact().run(small_problem(), iterations=2)
    run = exact(estimator=Sabotaged(fault)).run(small_problem(), iterations=50)
    assert run.status is status
    assert run.stopped_by == "estimator 'sabotaged' at iteration 3"
    assert run.last.iteration == 2
    np.testing.assert_array_equal(run.x, good.x)
    assert len(run.history) == 3
    assert "estimator 'sabotaged' at iteration 3" in str(run)


def test_optimizer_that_leaves_the_finite_numbers_is_named() -> None:
    run = exact(upper=Runaway()).run(small_problem(), iterations=50)
    assert run.status is bl.Status.NON_FINITE
    assert run.stopped_by == "optimizer 'runaway' at iteration 3"
    assert np.isfinite(run.x).all()


def test_gradient_of_the_wrong_shape_is_the_components_mistake_and_said_so() -> None:
    with pytest.raises(bl.InputError, match=r"gradient from estimator 'sabotaged' is \(2,\); expected \(4,\)"):
        exact(estimator=Sabotaged("wrong shape")).run(small_problem(), iterations=50)


def test_interrupt_keeps_the_last_complete_iteration() -> None:
    def stop(state: bl.OuterState) -> None:
        if state.iteration == 4:
            raise KeyboardInterrupt

    run = exact().run(small_problem(), iterations=50, callback=stop)
    assert run.status is bl.Status.INTERRUPTED
    assert run.last.iteration == 4


class Counting(bl.DenseTransitions):
    """Counts the passes that end in a backup."""

    def __init__(self, probabilities: bl.Array) -> None:
        super().__init__(probabilities)
        self.passes = 0

    def expectation(self, values: bl.Array) -> bl.Array:
        self.passes += 1
        return super().expectation(values)


@pytest.mark.parametrize(
    ("name", "options"),
    [("soft-value-iteration", {"sweeps": 4}), ("soft-value-iteration", {}), ("soft-policy-iteration", {})],
)
def test_reported_backups_are_the_ones_that_happened_and_costs_add_up(name: str, options: dict[str, Any]) -> None:
    base = small_problem()
    counting = Counting(np.array(base.lower.transitions))
    problem = attrs.evolve(base, lower=attrs.evolve(base.lower, transitions=counting))
    counting.passes = 0
    run = exact(lower=bl.lower_level_solver(name, **options)).run(problem, iterations=5)
    assert run.cost.backups == counting.passes
    assert run.history["backups"][-1] == counting.passes
    assert np.all(np.diff(run.history["backups"]) > 0)
    assert run.cost.linear_solves >= 6


def test_value_and_gradient_serves_scipy_and_finite_differences_agree() -> None:
    from scipy.optimize import check_grad, minimize

    problem = small_problem()
    error = check_grad(
        lambda x: bl.value_and_gradient(problem, x)[0], lambda x: bl.value_and_gradient(problem, x)[1], X0
    )
    assert error < 1e-6
    answer = minimize(lambda x: bl.value_and_gradient(problem, x), X0, jac=True, method="L-BFGS-B")
    assert answer.success
    assert answer.fun < bl.value_and_gradient(problem, X0)[0]


def test_printed_run_has_objective_gradient_norm_status_cost_and_time() -> None:
    text = str(exact().run(small_problem(), iterations=2))
    for words in ("objective", "gradient norm", "status", "cost", "time", "2 of 2"):
        assert words in text
