"""The laws of a bilevel problem: correct derivatives, and a simulator that agrees with the model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective, TrajectoryObjective
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.testing.exact import point_of, solved
from bilevelrl.testing.law import law
from bilevelrl.testing.question import rng_of
from bilevelrl.testing.violation import NotApplicable, expect, expect_close, expect_same
from bilevelrl.validation.arrays import Array

PROBLEM = Kind.PROBLEM
CONFIDENCE = 5.0
STEP = 1e-3
NEIGHBOURS = 3
TRAJECTORIES, HORIZON = 2000, 50


def with_model(subject: Any) -> str:
    """Only for problems with a transition model."""
    return "" if isinstance(subject.lower, SupportsModel) else "it offers no transition model"


def with_simulator(subject: Any) -> str:
    """Only for problems that can be simulated."""
    return "" if isinstance(subject.lower, SupportsSampling) else "it offers no simulator"


def of_policies(subject: Any) -> str:
    """Only for objectives of the policy."""
    return "" if isinstance(subject.objective, PolicyObjective) else "its objective is not one of the policy"


def of_trajectories(subject: Any) -> str:
    """Only for objectives over trajectories."""
    return "" if isinstance(subject.objective, TrajectoryObjective) else "its objective is not one over trajectories"


def _points(problem: BilevelProblem) -> list[Array]:
    """The start, and feasible points around it."""
    start, rng = point_of(problem), rng_of(21)
    near = [problem.feasible_set.project(start + rng.normal(size=start.size)) for _ in range(NEIGHBOURS)]
    return [start, *near]


def _derivative(function: Any, x: Array, direction: Array) -> tuple[Any, Any]:
    """The derivative along a direction by central differences of fourth order, and its change with half the step."""

    def quotient(step: float) -> Any:
        near = function(x + step * direction) - function(x - step * direction)
        far = function(x + 2 * step * direction) - function(x - 2 * step * direction)
        return (8 * near - far) / (12 * step)

    coarse, fine = quotient(STEP), quotient(STEP / 2)
    return fine, np.abs(coarse - fine)


def _unit(rng: np.random.Generator, n: int) -> Array:
    direction = rng.normal(size=n)
    return np.asarray(direction / np.linalg.norm(direction))


@law(PROBLEM, with_model)
def model_is_valid(subject: Any, problem: Any = None) -> None:
    """At feasible points P's rows and ρ are distributions, r is finite, γ < 1 and τ > 0: a validated `SoftMDP`."""
    from bilevelrl.mdp.soft_mdp import SoftMDP

    for x in _points(subject):
        mdp = subject.lower.model(x)
        again = SoftMDP(  # validates everything again; raises InputError with the entry
            getattr(mdp.transitions, "probabilities", mdp.transitions),
            mdp.rewards,
            mdp.discount,
            mdp.temperature,
            mdp.initial,
            mdp.reference,
        )
        expect_same("the shape of rewards", again.rewards.shape, mdp.rewards.shape)


@law(PROBLEM, with_model)
def model_is_a_function_of_x(subject: Any, problem: Any = None) -> None:
    """Equal x give equal models, after any other calls, and x is not changed."""
    first, *others = _points(subject)
    kept = first.copy()
    expected = copy.deepcopy(_tables(subject.lower.model(first)))
    expect_same("x after model(x)", first, kept)
    for x in others:
        before = x.copy()
        subject.lower.model(x)
        expect_same("x after model(x)", x, before)
    came = _tables(subject.lower.model(kept.copy()))
    for name, array in expected.items():
        expect_same(f"{name} of a second model at the same x", came[name], array)


def _tables(mdp: Any) -> dict[str, Array]:
    rows, successors, probabilities = mdp.transitions.stored()
    stored = {"row": rows, "successor": successors, "probability": probabilities}
    tables = {"rewards": mdp.rewards, "initial": mdp.initial} | stored
    return {name: np.array(table) for name, table in tables.items()}


@law(PROBLEM, with_model)
def pullback_is_the_derivative(subject: Any, problem: Any = None) -> None:
    """`⟨pullback(x, r̄), d⟩ = d/dh Σ r̄_sa r_sa(x + hd) + Σ r̄_sa P_sa(x + hd)·γV`, by central differences."""
    rng = rng_of(22)
    for x in _points(subject):
        mdp = subject.lower.model(x)
        weights, continuation = rng.normal(size=mdp.rewards.shape), rng.normal(size=mdp.states)
        direction = _unit(rng, x.size)
        start = rng.normal(size=mdp.states)

        def paired(point: Array, weights: Array = weights, after: Array = continuation, start: Array = start) -> float:
            model = subject.lower.model(point)
            through_kernel = float((weights * model.transitions.expectation(after)).sum())
            return float((weights * model.rewards).sum()) + through_kernel + float(start @ model.initial)

        expected, error = _derivative(paired, x, direction)
        came = subject.lower.pullback(x, DenseOccupancy(weights, continuation, start))
        expect_same("the shape of pullback(x, r̄)", np.array(came.shape), np.array(x.shape))
        size = float(np.abs(came).sum()) + abs(paired(x))
        expect_close("pullback(x, r̄) along a direction", came @ direction, expected, 16 * error + 1e-9 * (1 + size))


@law(PROBLEM)
def pullback_is_linear(subject: Any, problem: Any = None) -> None:
    """`pullback(x, 2r̄ + r̄') = 2 pullback(x, r̄) + pullback(x, r̄')`."""
    rng, x = rng_of(23), point_of(subject)
    spec = _shape(subject, x)
    one, two = rng.normal(size=spec), rng.normal(size=spec)
    after = rng.normal(size=spec[0])

    def pulled(weights: Array) -> Array:
        return np.asarray(subject.lower.pullback(x, DenseOccupancy(weights, after)))

    expected = 2 * pulled(one) + pulled(two)
    expect_close("pullback", pulled(2 * one + two), expected, 1e-10 * (1 + float(np.abs(expected).max(initial=0.0))))


def _shape(subject: Any, x: Array) -> tuple[int, int]:
    if isinstance(subject.lower, SupportsModel):
        mdp = subject.lower.model(x)
        return mdp.states, mdp.actions
    spec = subject.lower.simulator(x).spec
    return spec.states, spec.actions


def policies_at(subject: Any, x: Array) -> list[Array]:
    """Policies inside the simplex, where f is smooth: the follower's own if there is a model, and a random one."""
    rng, shape = rng_of(24), _shape(subject, x)
    drawn = 0.5 * rng.dirichlet(np.ones(shape[1]), size=shape[0]) + 0.5 / shape[1]
    if not isinstance(subject.lower, SupportsModel):
        return [drawn]
    return [drawn, 0.9 * solved(subject.lower.model(x)).policy + 0.1 / shape[1]]


@law(PROBLEM, of_policies)
def objective_gradients_are_derivatives(subject: Any, problem: Any = None) -> None:
    """`∂f/∂x` and `∂f/∂π` are the derivatives of f, by central differences, π's entries taken as independent.

    An objective may have no value outside the simplex; then only directions within the simplex are checked.
    """
    rng = rng_of(25)
    for x in _points(subject)[:2]:
        for policy in policies_at(subject, x):
            value, by_x, by_policy = subject.objective.value_and_gradients(x, policy)
            direction = _unit(rng, x.size)

            def along_x(point: Array, policy: Array = policy) -> float:
                return float(subject.objective.value_and_gradients(point, policy)[0])

            expected, error = _derivative(along_x, x, direction)
            floor = 1e-8 * (1 + abs(value))
            expect_close("∂f/∂x along a direction", by_x @ direction, expected, 16 * error + floor)
            tangent = rng.normal(size=policy.shape) * policy
            tangent -= policy * tangent.sum(axis=1, keepdims=True)
            tangent *= 0.1 / max(1e-300, float(np.abs(tangent).max()))

            def along_policy(moved: Array, x: Array = x) -> float:
                return float(subject.objective.value_and_gradients(x, moved)[0])

            expected, error = _derivative(along_policy, policy, tangent)
            came = float((by_policy * tangent).sum())
            expect_close("∂f/∂π along a direction in the simplex", came, expected, 16 * error + floor)


@law(PROBLEM, of_trajectories, with_simulator)
def loss_gradient_is_the_derivative(subject: Any, problem: Any = None) -> None:
    """The gradient of `loss_and_gradient` is that of the mean loss of the same trajectories, by central differences."""
    objective, x = subject.objective, point_of(subject)
    groups = 7
    policy = policies_at(subject, x)[0]
    drawn = subject.lower.simulator(x).rollout(policy, groups * objective.trajectories, objective.horizon, rng_of(26))

    def mean_loss(point: Array) -> float:
        losses, _ = objective.loss_and_gradient(point, drawn, rng_of(27))
        expect_same("the number of losses", np.array(losses.shape), np.array([groups]))
        return float(losses.mean())

    _, came = objective.loss_and_gradient(x, drawn, rng_of(27))
    direction = _unit(rng_of(28), x.size)
    expected, error = _derivative(mean_loss, x, direction)
    expect_close("∂l/∂x along a direction", came @ direction, expected, 16 * error + 1e-8 * (1 + abs(mean_loss(x))))


@law(PROBLEM)
def projection_is_a_projection(subject: Any, problem: Any = None) -> None:
    """`Π(Π(x)) = Π(x)` and `⟨x − Π(x), y − Π(x)⟩ ≤ 0` for every y in X: the nearest point of a closed convex set."""
    rng, n, project = rng_of(29), subject.dimension, subject.feasible_set.project
    points = [scale * rng.normal(size=n) for scale in (5.0, 5.0, 5.0, 0.5, 0.5, 0.05)] + [point_of(subject)]
    images = [project(point) for point in points]
    for point, image in zip(points, images, strict=True):
        expect_close("Π(Π(x))", project(image), image, 1e-9 * (1 + np.abs(point)))
        for other in images:
            gain, size = float((point - image) @ (other - image)), 1 + float(np.abs(point).sum()) ** 2
            expect("⟨x − Π(x), y − Π(x)⟩", gain <= 1e-9 * size, expected="at most 0", came=gain)


@law(PROBLEM)
def start_is_feasible(subject: Any, problem: Any = None) -> None:
    """The initial point is finite, of length n, in X, and the same for the same random stream."""
    first, again = subject.initial_point(rng_of(30)), subject.initial_point(rng_of(30))
    expect_same("the initial point drawn again", again, first)
    if subject.start is not None and not callable(subject.start):
        given = np.asarray(subject.start, float)
        expect_close("the start's own projection", subject.feasible_set.project(given), given, 1e-9)
    expect_close("the projection of the initial point", subject.feasible_set.project(first), first, 1e-9)
    expect_same("the shape of the initial point", np.array(first.shape), np.array([subject.dimension]))


def _asked(subject: Any, x: Array, policy: Array, weights: Array, after: Array) -> dict[str, Array]:
    """Everything that a problem returns at x and a policy."""
    pulled = subject.lower.pullback(x, DenseOccupancy(weights, after))
    answers = {"pullback": pulled, "Π(x)": subject.feasible_set.project(x)}
    if isinstance(subject.objective, PolicyObjective):
        value, by_x, by_policy = subject.objective.value_and_gradients(x, policy)
        answers |= {"f": np.array(value), "∂f/∂x": by_x, "∂f/∂π": by_policy}
    return {name: np.array(array) for name, array in answers.items()}


@law(PROBLEM)
def inputs_are_not_mutated(subject: Any, problem: Any = None) -> None:
    """`pullback`, the objective and the projection do not change x, π and the occupancy."""
    rng, x = rng_of(34), 3 * point_of(subject) + 1.0
    policy = policies_at(subject, point_of(subject))[0]
    policy = 0.01 * policy + 0.99 * np.eye(policy.shape[1])[policy.argmax(axis=1)]
    weights = rng.normal(size=policy.shape)
    after = np.asarray(rng.normal(size=policy.shape[0]))
    inputs: dict[str, Array] = {"x": x, "π": policy, "r̄": weights, "γV": after}
    before = {name: array.copy() for name, array in inputs.items()}
    _asked(subject, x, policy, weights, after)
    for name, array in inputs.items():
        expect_same(f"{name} after the calls", array, before[name])


@law(PROBLEM)
def calls_are_independent(subject: Any, problem: Any = None) -> None:
    """The problem's results do not depend on earlier calls."""
    rng, (x, other, *_) = rng_of(35), _points(subject)
    policy = policies_at(subject, x)[0]
    weights, after = rng.normal(size=policy.shape), np.asarray(rng.normal(size=policy.shape[0]))
    expected = _asked(subject, x, policy, weights, np.asarray(after))
    _asked(subject, other, np.roll(policy, 1, axis=0), -weights, np.asarray(after + 1.0))
    for name, array in _asked(subject, x, policy, weights, after).items():
        expect_same(f"{name} of a second call", array, expected[name])


@law(PROBLEM)
def memory_layout_does_not_matter(subject: Any, problem: Any = None) -> None:
    """Column-major and strided arrays of the same numbers give the same answers, to rounding."""
    rng, x = rng_of(36), point_of(subject)
    policy = policies_at(subject, x)[0]
    weights, after = rng.normal(size=policy.shape), np.asarray(rng.normal(size=policy.shape[0]))
    expected = _asked(subject, x, policy, weights, after)
    strided = np.repeat(x, 2)[::2]
    came = _asked(subject, strided, np.asfortranarray(policy), np.asfortranarray(weights), np.repeat(after, 2)[::2])
    for name, array in came.items():
        size = 1 + float(np.abs(expected[name]).max(initial=0.0))
        expect_close(f"{name} with another memory layout", array, expected[name], 1e-9 * size)


@law(PROBLEM, with_model)
def measures_are_finite(subject: Any, problem: Any = None) -> None:
    """The problem's measures for reports, if it has any, are finite numbers at the start."""
    if subject.measures is None:
        raise NotApplicable("it has no measures")
    x = point_of(subject)
    figures = subject.measures(x, solved(subject.lower.model(x)))
    for label, figure in figures.items():
        expect(f"measure {label!r}", bool(np.isfinite(figure)), expected="a finite number", came=figure)
