"""Contexts one by one: the joint answer from separate tasks, with everything that a run needs kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl.testing.rounding import TINY, solve_rounding
from bilevelrl_contexts.estimator import PerContextEstimator
from bilevelrl_contexts.inner import worst
from bilevelrl_contexts.solver import PerContextSolver
from slowness import slow_unless
from strategies import OBJECTIVES, drawn_contexts, drawn_objective, policy_error, seeds, value_error

kinds = st.sampled_from([kind for kind in OBJECTIVES if kind != "log-likelihood"])


def whole_of(drawn: tuple[list[Any], bl.Array], kind: str, seed: int) -> bl.BilevelProblem:
    rng = np.random.default_rng(seed)
    contexts, weights = drawn
    parts = [bl.BilevelProblem(context.lower, drawn_objective(context, kind, rng)) for context in contexts]
    return bl.problems.contextual_problem(parts, weights)


def idle() -> np.random.Generator:
    return bl.randomness.stream(0, "test")


# --- Agreement with the joint treatment


@given(drawn_contexts(), kinds, seeds)
def test_the_answers_are_those_of_the_direct_sum(drawn: Any, kind: str, seed: int) -> None:
    """Both within their guarantees of the one V*; the per-context one says no less than what is true of it."""
    problem, x = whole_of(drawn, kind, seed), drawn[0][0].x
    together = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, idle())
    apart = PerContextSolver().solve(problem, x, None, idle())
    allowed = value_error(together) + value_error(apart)
    assert apart.values == pytest.approx(together.values, rel=0, abs=allowed)
    bound = policy_error(together) + policy_error(apart)
    assert np.abs(apart.policy / together.policy - 1.0).max() <= np.expm1(bound)
    assert apart.model.rewards.tobytes() == together.model.rewards.tobytes()


@given(drawn_contexts(), kinds, seeds)
def test_the_hypergradient_is_that_of_the_direct_sum(drawn: Any, kind: str, seed: int) -> None:
    """From the same answer: what may differ is the rounding of the linear solves. The occupancy has its pullback."""
    problem, (contexts, weights), x = whole_of(drawn, kind, seed), drawn, drawn[0][0].x
    answer = PerContextSolver().solve(problem, x, None, idle())
    together = bl.hypergradient_estimator("implicit").estimate(problem, x, answer, None, idle())
    apart = PerContextEstimator().estimate(problem, x, answer, None, idle())
    size = 0.0
    for index, context in enumerate(contexts):
        own = problem.lower.restrict(x, answer, index)
        _, by_x, by_policy = problem.objective.objectives[index].value_and_gradients(x, own.policy)
        strength = float((own.policy * np.abs(by_policy)).sum()) * 2 * context.action_value_slope(x, own.values)
        size += weights[index] * (strength / (own.model.temperature * (1 - own.model.discount)) + np.abs(by_x).sum())
    rounding = 8 * solve_rounding(answer.model) * (size + abs(together.objective)) + TINY
    for part in ("direct", "implicit", "objective"):
        assert getattr(apart, part) == pytest.approx(getattr(together, part), rel=0, abs=rounding), part
    pulled = problem.lower.pullback(x, apart.occupancy)
    assert pulled == pytest.approx(apart.implicit, rel=0, abs=rounding)


@pytest.mark.parametrize("name", slow_unless("pbrl".__ne__, ["exact-gradient", "m-sobirl", "amd", "pbrl"]))
def test_a_recipe_context_by_context_takes_the_same_steps(name: str) -> None:
    """Warm starts included, of the followers and of what an estimator tracks: without them x would part at once."""
    problem = bl.problem("four-rooms")
    together = bl.algorithm(name).run(problem, iterations=12)
    apart = bl.algorithm("per-context", algorithm=name).run(problem, iterations=12)
    moved = np.abs(together.x - together.first.x).max()
    # An ulp of V*/τ = 10³ in a policy, over a dozen steps; exact followers may stop a Newton step apart, at 1e-10.
    assert np.abs(apart.x - together.x).max() <= 1e-7 * moved
    assert apart.status is together.status


def test_workers_change_nothing() -> None:
    problem, algorithm = bl.problem("four-rooms"), bl.algorithm("per-context")
    alone = algorithm.run(problem, iterations=4)
    there = algorithm.run(problem, iterations=4, jobs=2)
    assert there.x.tobytes() == alone.x.tobytes()
    for name in ("policy", "values", "action_values"):
        assert getattr(there.solution, name).tobytes() == getattr(alone.solution, name).tobytes()
    assert there.cost == alone.cost


# --- The kit, in one context


class InOneContext:
    """A component that sees every problem as one of a single context, so that the kit's own problems will do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name, self.requires, self.tags = inner.name, inner.requires, inner.tags

    def of(self, problem: Any) -> Any:
        lower = bl.problems.ContextualMDP([problem.lower])
        objective = problem.objective
        if hasattr(self.inner, "estimate"):
            kind = bl.problems.ContextualObjective if isinstance(objective, bl.objectives.PolicyObjective) else None
            objective = (kind or bl.problems.ContextualTrajectoryObjective)(lower, [objective])
        return attrs.evolve(problem, lower=lower, objective=objective)


class Solver(InOneContext):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.produces = inner.produces

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: np.random.Generator) -> Any:
        return self.inner.solve(self.of(problem), x, warm_start, rng)

    def restore(self, problem: Any, x: bl.Array, arrays: Any, figures: Any) -> Any:
        return self.inner.restore(self.of(problem), x, arrays, figures)


class Estimator(InOneContext):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.requires_objective, self.accepts = inner.requires_objective, inner.accepts

    def estimate(self, problem: Any, x: bl.Array, solution: Any, previous: Any, rng: np.random.Generator) -> Any:
        return self.inner.estimate(self.of(problem), x, solution, previous, rng)


REFUSED = dict.fromkeys(
    ("failure_is_reported", "non_finite_never_converges"), "a direct sum refuses what is not finite when it is made"
)


@testing.parametrize_with_checks(
    [
        lambda: Solver(PerContextSolver()),
        lambda: Solver(PerContextSolver("soft-value-iteration", {"sweeps": 3})),
        lambda: Estimator(PerContextEstimator()),
        lambda: Estimator(PerContextEstimator("warm-start-adjoint")),
    ],
    examples=max(3, min(8, settings.default.max_examples // 4)),
    expected_failed_checks=lambda subject: REFUSED if isinstance(subject, Solver) else {},
)
def test_laws_in_one_context(check: Any) -> None:
    check()


# --- What is told


def two_rooms(**changes: Any) -> bl.BilevelProblem:
    return bl.problem("four-rooms", **changes)


def test_counts_are_added_and_the_worst_is_told() -> None:
    """Two contexts solved with three sweeps each: six backups and the two that judge them."""
    problem = two_rooms()
    x = problem.initial_point(idle())
    solver = PerContextSolver("soft-value-iteration", {"sweeps": 3})
    answer = solver.solve(problem, x, None, idle())
    parts = [
        bl.lower_level_solver("soft-value-iteration", sweeps=3).solve(part, x, None, idle())
        for part in (attrs.evolve(problem, lower=lower) for lower in problem.lower.contexts)
    ]
    assert answer.cost.backups == sum(part.cost.backups for part in parts)
    assert answer.residual == max(part.residual for part in parts)
    hyper = PerContextEstimator().estimate(problem, x, answer, None, idle())
    assert (hyper.cost.linear_solves, hyper.cost.products) == (2, 2)
    assert hyper.cost.passes == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_one_context_that_fails_is_enough(bad: int) -> None:
    """Its status is that of the whole, also where the others have converged."""

    def context(scale: float) -> bl.BilevelProblem:
        reward = bl.parametric.CallableReward(
            lambda x: np.full((2, 2), scale * x[0]), lambda x, r: np.array([r.sum()]), 1
        )
        lower = bl.ParametricMDP(np.full((2, 2, 2), 0.5), reward, 0.9, 1.0)
        return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())

    scales = [1.0, 1.0]
    scales[bad] = 1e308
    problem = bl.problems.contextual_problem([context(scale) for scale in scales])
    with np.errstate(over="ignore", invalid="ignore"):
        answer = PerContextSolver().solve(problem, np.array([100.0]), None, idle())
    assert answer.status is bl.Status.NON_FINITE


def test_a_context_without_weight_is_not_asked() -> None:
    problem = two_rooms()

    class Refuses:
        def value_and_gradients(self, x: Any, policy: Any) -> Any:
            raise AssertionError("asked")

    lower = bl.problems.ContextualMDP(problem.lower.contexts, [1.0, 0.0])
    objective = bl.problems.ContextualObjective(lower, [problem.objective.objectives[0], Refuses()])
    apart = attrs.evolve(problem, lower=lower, objective=objective)
    x = apart.initial_point(idle())
    answer = PerContextSolver().solve(apart, x, None, idle())
    first = PerContextEstimator("warm-start-adjoint").estimate(apart, x, answer, None, idle())
    again = PerContextEstimator("warm-start-adjoint").estimate(apart, x, answer, first, idle())
    together = bl.hypergradient_estimator("implicit").estimate(apart, x, answer, None, idle())
    assert np.linalg.norm(again.gradient - together.gradient) < np.linalg.norm(first.gradient - together.gradient)


def compared() -> bl.BilevelProblem:
    """Two contexts judged by trajectories."""
    return bl.problems.contextual_problem(
        [bl.problem("gridworld-preferences", size=3, horizon=4, slip=slip) for slip in (0.1, 0.3)], [0.25, 0.75]
    )


def test_batches_of_contexts_are_strata() -> None:
    """Each context's estimate with a stream of its own, weighted; errors of independent parts add in squares."""
    problem = compared()
    x = np.zeros(problem.dimension)
    answer = PerContextSolver("soft-q-learning", {"samples": 500}).solve(
        problem, x, None, bl.randomness.stream(1, "lower")
    )
    assert type(answer) is bl.sampling.SampledSolution
    inner = bl.hypergradient_estimator("stoc-sobirl", batch=32)
    hyper = PerContextEstimator("stoc-sobirl", {"batch": 32}).estimate(
        problem, x, answer, None, bl.randomness.stream(1, "e")
    )
    parts = []
    for index, stream in enumerate(bl.randomness.stream(1, "e").spawn(2)):
        own = attrs.evolve(
            problem, lower=problem.lower.contexts[index], objective=problem.objective.objectives[index], measures=None
        )
        parts.append(inner.estimate(own, x, problem.lower.restrict(x, answer, index), None, stream))
    assert hyper.gradient == pytest.approx(0.25 * parts[0].gradient + 0.75 * parts[1].gradient, rel=1e-12)
    squares = 0.25**2 * parts[0].standard_error ** 2 + 0.75**2 * parts[1].standard_error ** 2
    assert hyper.standard_error == pytest.approx(np.sqrt(squares), rel=1e-12)
    assert hyper.cost.samples == sum(part.cost.samples for part in parts)
    assert hyper.carry["0/calls"] == hyper.carry["1/calls"] == 1


def test_a_sampling_recipe_goes_on_bit_for_bit_wherever_it_is_done(tmp_path: Path) -> None:
    problem = compared()
    algorithm = bl.algorithm("per-context", algorithm="stoc-sobirl", options={"batch": 8, "samples": 300})
    whole = algorithm.run(problem, iterations=4)
    algorithm.run(problem, iterations=2, out=tmp_path, jobs=2)
    assert algorithm.resume(problem, tmp_path, iterations=4).x.tobytes() == whole.x.tobytes()


def test_an_objective_that_is_no_sum_is_differentiated_as_a_whole() -> None:
    """As is a problem without contexts: what the inside makes of it, to the last bit."""
    lower = two_rooms().lower
    states, actions = int(lower.starts[-1]), 4
    whole = bl.BilevelProblem(
        lower, bl.objectives.QuadraticObjective(0.1, 1.0, policy_target=np.full((states, actions), 0.25))
    )
    for problem in (whole, bl.problem("synthetic-quadratic", states=4, dimension=3)):
        x = problem.initial_point(idle())
        answer = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, idle())
        inside = bl.hypergradient_estimator("implicit").estimate(problem, x, answer, None, idle())
        hyper = PerContextEstimator().estimate(problem, x, answer, None, idle())
        assert hyper.gradient.tobytes() == inside.gradient.tobytes()
        assert hyper.cost == inside.cost


# --- Configuration


def test_what_it_requires_is_what_the_inside_requires() -> None:
    assert (PerContextSolver.requires, PerContextEstimator.requires) == (bl.mdp.SupportsModel, bl.mdp.SupportsModel)
    assert PerContextSolver("soft-q-learning").requires is bl.sampling.SupportsSampling
    sampled = PerContextEstimator("sobirl", {"truncation": 7})
    assert (sampled.requires, sampled.requires_objective) == (
        bl.sampling.SupportsSampling,
        bl.objectives.TrajectoryObjective,
    )
    assert sampled.tags.bias_bound(0.5) == 0.5**7
    assert PerContextEstimator().tags.bias_bound is None
    assert PerContextSolver(options={"tolerance": 1e-3}).tags.tolerance == 1e-3
    message = "estimator 'per-context' needs an objective over trajectories"
    with pytest.raises(bl.IncompatibleError, match=message):
        attrs.evolve(bl.algorithm("per-context"), estimator=sampled).check_compatible(two_rooms())


def test_contexts_that_offer_too_little_are_told_by_number() -> None:
    problem = two_rooms()

    class OnlyModel:
        dimension = problem.dimension
        model, pullback = problem.lower.contexts[1].model, problem.lower.contexts[1].pullback

    mixed = attrs.evolve(problem, lower=bl.problems.ContextualMDP([problem.lower.contexts[0], OnlyModel()]))
    with pytest.raises(
        bl.IncompatibleError, match=r"SupportsSampling of each context for 'soft-q-learning'; context 1"
    ):
        PerContextSolver("soft-q-learning").solve(mixed, problem.initial_point(idle()), None, idle())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: bl.lower_level_solver("per-context", solver="soft-policy"), "did you mean 'soft-policy-iteration'"),
        (lambda: bl.lower_level_solver("per-context", options={"sweep": 3}), "'sweep'"),
        (lambda: bl.hypergradient_estimator("per-context", options=3), "options"),
        (lambda: bl.algorithm("per-context", algorithm="m-sobril"), "did you mean 'm-sobirl'"),
        (lambda: bl.algorithm("per-context", step_size=-1.0), "step_size"),
    ],
    ids=range(5),
)
def test_bad_configuration_is_one_sentence(make: Any, complaint: str) -> None:
    with pytest.raises(bl.InputError) as caught:
        make()
    assert complaint in str(caught.value)


def test_it_is_written_down_and_composed_again(tmp_path: Path) -> None:
    """Names and options, those of the inside too; so that the command line and `resume` can take it."""
    problem = two_rooms()
    algorithm = bl.algorithm("per-context", algorithm="m-sobirl", step_size=0.02, options={"sweeps": 4})
    run = algorithm.run(problem, iterations=2, out=tmp_path)
    _, again = bl.compose(bl.storage.Experiment.read(tmp_path / "experiment.toml"))
    assert again == algorithm
    assert (again.lower.inner.sweeps, again.upper.step_size) == (4, 0.02)
    assert bl.resume_run(tmp_path, iterations=3).last.iteration == 3
    assert run.last.iteration == 2


@pytest.mark.parametrize("status", bl.Status)
def test_the_worst_of_several_contexts_is_told_whatever_it_is(status: bl.Status) -> None:
    """An unsuccessful status has priority over `FELL_BACK`, which has priority over `CONVERGED`."""
    assert worst([bl.Status.CONVERGED, status, bl.Status.CONVERGED]) is status
    told = worst([bl.Status.FELL_BACK, status])
    assert told is (bl.Status.FELL_BACK if status is bl.Status.CONVERGED else status)
