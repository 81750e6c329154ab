"""The outer loop: consistent states, replay, projection, termination, and failures that keep the last good state."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.storage.history import COLUMNS

X0 = np.array([0.5, -0.5, 0.2, 0.1])


def small_problem(**changes: Any) -> bl.BilevelProblem:
    kernel = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]])
    lower = bl.ParametricMDP(kernel, bl.parametric.TabularReward(np.array([[1.0, 0.0], [0.0, 2.0]])), 0.8, 0.5)
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(), **({"start": X0, "name": "small"} | changes))


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
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

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
    for column in COLUMNS[:-1]:
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


@pytest.mark.parametrize("feasible_set", [bl.Box(-0.1, 0.3), bl.problems.Ball(0.2), bl.problems.Simplex()])
def test_every_iterate_is_feasible_the_first_included(feasible_set: bl.problems.FeasibleSet) -> None:
    states: list[bl.outer_loop.OuterState] = []
    exact().run(small_problem(feasible_set=feasible_set), iterations=10, callback=states.append)
    for state in states:
        np.testing.assert_allclose(feasible_set.project(state.x), state.x, atol=1e-12)


def test_tolerance_stops_at_a_stationary_point_of_the_feasible_set() -> None:
    """On a box the gradient itself need not vanish; the projected step does."""
    problem = small_problem(feasible_set=bl.Box(0.05, 1.0))
    run = exact().run(problem, iterations=1000, tolerance=1e-8)
    assert run.status is bl.Status.CONVERGED
    assert run.last.iteration < 1000
    assert bl.problems.stationarity(problem.feasible_set, run.x, run.gradient) <= 1e-8
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
    with pytest.raises(bl.InputError, match=r"direct part from estimator 'sabotaged' is \(2,\); expected \(4,\)"):
        exact(estimator=Sabotaged("wrong shape")).run(small_problem(), iterations=50)


def test_interrupt_keeps_the_last_complete_iteration() -> None:
    def stop(state: bl.outer_loop.OuterState) -> None:
        if state.iteration == 4:
            raise KeyboardInterrupt

    run = exact().run(small_problem(), iterations=50, callback=stop)
    assert run.status is bl.Status.INTERRUPTED
    assert run.last.iteration == 4


class Counting(bl.mdp.DenseTransitions):
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


@attrs.frozen
class FaultySolver:
    """A solver that behaves until its third call, then answers as told."""

    name: ClassVar[str] = "faulty-solver"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    changes: dict[str, Any]

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: Any) -> Any:
        solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, warm_start, rng)
        calls = 0 if warm_start is None else warm_start.iterations
        return attrs.evolve(solution, iterations=calls + 1, **(self.changes if calls == 2 else {}))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"policy": np.full((2, 2), np.nan)}, bl.Status.NON_FINITE),
        ({"residual": np.nan}, bl.Status.NON_FINITE),
        ({"status": bl.Status.NON_FINITE}, bl.Status.NON_FINITE),
        ({"status": bl.Status.DIVERGED}, bl.Status.DIVERGED),
    ],
    ids=["NaN policy", "NaN residual", "non-finite", "diverged"],
)
def test_failure_of_the_solver_is_not_blamed_on_the_estimator(changes: dict[str, Any], status: bl.Status) -> None:
    """A NaN in the policy only shows in the gradient made of it."""
    run = exact(lower=FaultySolver(changes)).run(small_problem(), iterations=50)
    assert (run.status, run.stopped_by) == (status, "lower-level solver 'faulty-solver' at iteration 2")
    assert run.last.iteration == 1
    np.testing.assert_array_equal(run.x, exact().run(small_problem(), iterations=1).x)


def test_starting_point_that_cannot_be_evaluated_raises_and_names_the_component() -> None:
    """There is no good state to return yet."""
    with pytest.raises(bl.outer_loop.StepFailed, match="iteration 0, estimator 'implicit': non finite") as caught:
        exact().run(attrs.evolve(small_problem(), objective=Infinite()), iterations=5)
    assert (caught.value.component, caught.value.iteration) == ("estimator 'implicit'", 0)


class Infinite:
    """An objective that is infinite everywhere."""

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        return np.inf, np.zeros_like(x), np.zeros_like(policy)


@attrs.frozen
class Forgetful:
    """A solver and an estimator without a `return`."""

    name: ClassVar[str] = "forgetful"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: Any) -> None: ...
    def estimate(self, problem: Any, x: bl.Array, solution: Any, previous: Any, rng: Any) -> None: ...


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        ("lower", "the answer of lower-level solver 'forgetful' is None; expected a LowerLevelSolution"),
        ("estimator", "the answer of estimator 'forgetful' is None; expected a HyperGradient"),
    ],
)
def test_component_that_answers_nothing_is_told(role: str, sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        exact(**{role: Forgetful()}).run(small_problem(), iterations=1)


@attrs.frozen
class Shrinking:
    """An optimizer that loses a coordinate."""

    name: ClassVar[str] = "shrinking"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        return x[1:], state


def test_step_to_another_dimension_is_told() -> None:
    with pytest.raises(bl.InputError, match=r"the shape of x from optimizer 'shrinking' is \(3,\); expected \(4,\)"):
        exact(upper=Shrinking()).run(small_problem(), iterations=1)


@attrs.frozen
class Interrupting:
    """An optimizer whose user loses patience in the middle of the fourth step."""

    name: ClassVar[str] = "interrupting"

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        if state.steps == 3:
            raise KeyboardInterrupt
        return 0.9 * x, bl.OptimizerState(state.steps + 1)


def test_interrupt_inside_a_step_keeps_the_iteration_before_it() -> None:
    run = exact(upper=Interrupting()).run(small_problem(), iterations=50)
    assert (run.status, run.last.iteration, len(run.history)) == (bl.Status.INTERRUPTED, 3, 4)
    np.testing.assert_allclose(run.x, 0.9**3 * X0, rtol=1e-15)


def test_overflow_on_the_way_to_a_failure_is_told_by_the_status_alone() -> None:
    """Warnings are errors in these tests: NumPy's own complaints would end the run without its last good state."""
    run = bl.algorithm("m-sobirl", step_size=1e200).run(bl.problem("synthetic-quadratic"), iterations=9)
    assert run.status is bl.Status.NON_FINITE
    assert np.isfinite(run.x).all()


def test_start_projects_and_evaluate_does_not() -> None:
    problem, outside = small_problem(feasible_set=bl.Box(-0.1, 0.1)), np.ones(4)
    np.testing.assert_array_equal(exact().start(problem, x=outside).x, np.full(4, 0.1))
    np.testing.assert_array_equal(exact().evaluate(problem, outside).x, outside)


def test_no_tolerance_means_all_iterations_even_at_a_stationary_point() -> None:
    problem = small_problem(start=np.zeros(4))
    run = exact().run(
        attrs.evolve(problem, objective=bl.objectives.QuadraticObjective(policy_weight=0.0)), iterations=5
    )
    assert run.history["stationarity"][0] == 0.0
    assert (run.status, run.last.iteration) == (bl.Status.BUDGET_SPENT, 5)


class OnlySampling:
    """The lower level of a world that can only be simulated."""

    dimension = 4
    occupancy_forms = (bl.occupancy.DenseOccupancy,)

    def simulator(self, x: bl.Array) -> None: ...
    def pullback(self, x: bl.Array, occupancy: bl.occupancy.Occupancy) -> None: ...


class JudgesTrajectories:
    horizon = trajectories = 1

    def loss_and_gradient(self, x: bl.Array, trajectories: Any, rng: Any) -> None: ...


@attrs.frozen
class AnySolver(FaultySolver):
    name: ClassVar[str] = "any"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)


def test_estimator_without_its_model_is_told_with_those_that_would_work() -> None:
    problem = bl.BilevelProblem(OnlySampling(), JudgesTrajectories(), name="cartpole")
    with pytest.raises(bl.IncompatibleError) as caught:
        exact(lower=AnySolver({})).run(problem, iterations=1)
    sentence, advice = str(caught.value).split(". ")
    assert sentence == (
        "estimator 'implicit' needs a transition model (SupportsModel); problem 'cartpole' offers only SupportsSampling"
    )
    assert advice.startswith("Estimators that would work: ")
    assert {"'sobirl'", "'stoc-sobirl'"} <= set(advice.partition(": ")[2].split(", "))


def test_advice_leaves_out_estimators_that_need_another_objective() -> None:
    """An estimator that can simulate but not judge trajectories' objectives would only fail one step later."""
    problem = bl.BilevelProblem(OnlySampling(), bl.objectives.QuadraticObjective(), name="cartpole")
    with pytest.raises(bl.IncompatibleError, match=r"'implicit' needs a transition model") as caught:
        exact(lower=AnySolver({})).run(problem, iterations=1)
    assert "sobirl" not in str(caught.value)


def test_an_estimator_that_does_not_accept_what_the_solver_produces_is_refused_when_composed() -> None:
    """With the estimators and the solvers that would work, before any problem is known."""
    with pytest.raises(bl.IncompatibleError) as caught:
        exact(lower=bl.lower_level_solver("soft-q-learning"))
    sentence, advice = str(caught.value).split(". ")
    assert sentence == (
        "estimator 'implicit' accepts a TabularSolution, "
        "and lower-level solver 'soft-q-learning' produces a SampledSolution"
    )
    estimators, solvers = advice.split("; ")
    assert "'sobirl'" in estimators
    assert "'implicit'" not in estimators
    assert "'soft-policy-iteration'" in solvers
    assert "'soft-q-learning'" not in solvers


@pytest.mark.parametrize(("member", "value"), [("produces", 3), ("produces", None)])
def test_a_solver_that_does_not_say_what_it_produces_is_refused(member: str, value: Any) -> None:
    lower = type("Vague", (FaultySolver,), {member: value})({})
    with pytest.raises(bl.InputError, match=f"{member} of 'faulty-solver' is .*; expected a class or"):
        exact(lower=lower)


def test_a_component_that_lacks_a_member_is_refused_with_the_member_named() -> None:
    class Silent:
        name = "silent"
        requires = bl.mdp.SupportsModel
        tags = bl.Tags("exact")

        def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: Any) -> Any: ...

    with pytest.raises(bl.InputError, match=r"lower is a Silent without .*produces.*; expected a LowerLevelSolver"):
        exact(lower=Silent())


def test_seconds_are_measured_around_the_calls_and_only_grow() -> None:
    states = list(itertools.islice(exact().iterate(small_problem()), 4))
    seconds = [state.seconds for state in states]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)


def test_the_best_iterate_is_the_one_with_the_smallest_objective() -> None:
    """A step size that is too long oscillates: the last x is not the best one."""
    run = exact(upper=bl.upper_level_optimizer("gradient-descent", step_size=1.9)).run(small_problem(), iterations=12)
    objectives = run.history["objective"]
    assert run.best.iteration == int(np.argmin(objectives))
    assert run.best.objective == objectives.min() == run.best.bound
    assert exact().evaluate(small_problem(), run.best.x).hyper.objective == pytest.approx(run.best.objective, rel=1e-12)


def test_an_objective_with_an_error_counts_with_twice_that_error() -> None:
    state = exact().start(small_problem())
    better = attrs.evolve(state, hyper=attrs.evolve(state.hyper, objective=state.hyper.objective - 1.0))
    unsure = attrs.evolve(better, hyper=attrs.evolve(better.hyper, objective_error=1.0))
    unknown = attrs.evolve(better, hyper=attrs.evolve(better.hyper, objective_error=np.nan))
    best = bl.outer_loop.BestIterate.of(state)
    assert bl.outer_loop.BestIterate.of(unsure, best) is best
    assert bl.outer_loop.BestIterate.of(unknown, best) is best
    assert bl.outer_loop.BestIterate.of(unknown) is None
    assert bl.outer_loop.BestIterate.of(better, best).objective == best.objective - 1.0
