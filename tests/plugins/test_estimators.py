"""The two model-based estimators by themselves: what they report beside the gradient, and when they give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl

PROBLEM = bl.problem("synthetic-quadratic", states=4, actions=3, dimension=5, discount=0.8, temperature=0.7)
X = np.linspace(-0.5, 1.0, 5)
RNG = bl.randomness.stream(0, "unused")
SOLVER = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-12)
SOLUTION = SOLVER.solve(PROBLEM, X, None, RNG)


def exact() -> bl.HyperGradient:
    """One call of the exact estimator."""
    return bl.hypergradient_estimator("implicit").estimate(PROBLEM, X, SOLUTION, None, RNG)


def track(
    previous: bl.HyperGradient | None = None, problem: bl.BilevelProblem = PROBLEM, **options: Any
) -> bl.HyperGradient:
    """One call of the estimator that tracks its adjoint."""
    return bl.hypergradient_estimator("warm-start-adjoint", **options).estimate(problem, X, SOLUTION, previous, RNG)


def matrix() -> bl.Array:
    """A = I − γP^π."""
    chain = np.asarray(SOLUTION.model.transitions.under(SOLUTION.policy))
    return np.eye(4) - 0.8 * chain


def target() -> bl.Array:
    """`γPᵀc − Σ_a c` with c = π ⊙ ∂f/∂π / τ."""
    cotangent = SOLUTION.policy * SOLUTION.policy / 0.7
    return 0.8 * np.einsum("sa,sat->t", cotangent, SOLUTION.model.transitions.probabilities) - cotangent.sum(axis=1)


@attrs.frozen
class Broken:
    """An objective that answers with what it is given."""

    value: float
    by_policy: bl.Array

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        return self.value, np.arange(5.0), self.by_policy


def broken(value: float, entry: float) -> bl.BilevelProblem:
    table = np.full((4, 3), 0.5)
    table[2, 1] = entry
    return attrs.evolve(PROBLEM, objective=Broken(value, table))


def test_exact_estimate_reports_its_solve_and_nothing_else() -> None:
    hyper = exact()
    assert hyper.status is bl.Status.CONVERGED
    assert (hyper.cost.linear_solves, hyper.cost.products) == (1, 1)
    assert (hyper.cost.backups, hyper.cost.samples) == (0, 0)
    assert hyper.objective == pytest.approx(0.5 * X @ X + 0.5 * (SOLUTION.policy**2).sum(), rel=1e-14)
    assert hyper.carry == {}
    np.testing.assert_array_equal(hyper.direct, X)


def test_exact_estimate_reports_how_well_its_equation_is_solved() -> None:
    """Four unknowns, of order one: rounding."""
    assert 0.0 <= exact().residual < 1e-14


def test_exact_estimate_is_the_pullback_of_its_occupancy() -> None:
    hyper = exact()
    np.testing.assert_array_equal(hyper.implicit, PROBLEM.lower.pullback(X, hyper.occupancy))
    # Flow: what a signed occupancy carries into a state it carries out of it, so that it sums to zero.
    np.testing.assert_allclose(hyper.occupancy.weights.sum(), 0.0, atol=1e-14)


class Iterative:
    """The solution's system, solved as if by iteration: seven products a solve, after five of somebody else's."""

    def __init__(self, *, products: int = 7, fell_back: bool = False) -> None:
        self.products, self.fell_back, self.iterated = products, fell_back, 5
        self.tolerances: list[float | None] = []

    def solve_transpose(self, right_hand_side: bl.Array, tolerance: float | None = None) -> bl.Array:
        self.tolerances.append(tolerance)
        self.iterated += self.products
        return SOLUTION.linearization.solve_transpose(right_hand_side)

    def apply_transpose(self, values: bl.Array) -> bl.Array:
        return SOLUTION.linearization.apply_transpose(values)


def solved_by(system: Iterative, **options: float) -> bl.HyperGradient:
    solution = attrs.evolve(SOLUTION, linearization=system)
    return bl.hypergradient_estimator("implicit", **options).estimate(PROBLEM, X, solution, None, RNG)


def test_solve_by_iteration_is_counted_in_products_and_is_no_factorised_solve() -> None:
    """Its own products and the one that measures the residual; not those that the solver made before."""
    hyper = solved_by(Iterative())
    assert (hyper.cost.linear_solves, hyper.cost.products) == (0, 8)
    assert hyper.status is bl.Status.CONVERGED
    np.testing.assert_array_equal(hyper.gradient, exact().gradient)
    hyper = solved_by(Iterative(products=0))
    assert (hyper.cost.linear_solves, hyper.cost.products) == (1, 1)


def test_solver_that_fell_back_is_told() -> None:
    assert solved_by(Iterative(fell_back=True)).status is bl.Status.FELL_BACK


def test_tolerance_reaches_the_solver() -> None:
    system = Iterative()
    solved_by(system, tolerance=1e-5)
    assert system.tolerances == [1e-5]


@pytest.mark.parametrize("name", ["implicit", "warm-start-adjoint"])
def test_the_pass_of_the_right_hand_side_is_counted(name: str) -> None:
    hyper = bl.hypergradient_estimator(name).estimate(PROBLEM, X, SOLUTION, None, RNG)
    assert hyper.cost.passes == 1


@pytest.mark.parametrize(("value", "entry"), [(np.nan, 0.5), (np.inf, 0.5), (1.0, np.nan), (1.0, -np.inf)])
def test_objective_that_is_not_finite_is_told_without_a_solve(value: float, entry: float) -> None:
    with np.errstate(invalid="ignore"):
        hyper = bl.hypergradient_estimator("implicit").estimate(broken(value, entry), X, SOLUTION, None, RNG)
    assert hyper.status is bl.Status.NON_FINITE
    assert hyper.objective == value or np.isnan(value)
    np.testing.assert_array_equal(hyper.direct, np.arange(5.0))
    assert np.isnan(hyper.implicit).all()
    assert hyper.implicit.shape == (5,)
    assert hyper.occupancy is None
    assert hyper.residual is None
    assert hyper.cost.linear_solves == hyper.cost.products == 0


def test_tracked_estimate_reports_its_products_and_nothing_else() -> None:
    hyper = track()
    assert hyper.status is bl.Status.BUDGET_SPENT
    assert hyper.cost.products == 3
    assert (hyper.cost.backups, hyper.cost.linear_solves, hyper.cost.samples) == (0, 0, 0)
    assert hyper.objective == exact().objective
    np.testing.assert_array_equal(hyper.direct, X)
    np.testing.assert_array_equal(hyper.implicit, PROBLEM.lower.pullback(X, hyper.occupancy))


@pytest.mark.parametrize("step_size", [0.3, 1.0])
def test_tracked_adjoint_takes_one_gradient_step_on_its_equation(step_size: float) -> None:
    """`λ ← λ − ξ A (Aᵀλ − b)`, from zero and from where it stood; four numbers, to rounding."""
    first = track(step_size=step_size)
    expected = step_size * matrix() @ target()
    np.testing.assert_allclose(first.carry["adjoint"], expected, rtol=1e-12, atol=1e-15)
    second = track(first, step_size=step_size)
    expected = expected - step_size * matrix() @ (matrix().T @ expected - target())
    np.testing.assert_allclose(second.carry["adjoint"], expected, rtol=1e-12, atol=1e-15)
    assert second.residual == pytest.approx(np.abs(matrix().T @ expected - target()).max(), rel=1e-10)


def test_step_size_is_safe_where_none_is_given() -> None:
    """`1/((1 + γ)(1 + γ max_s' Σ_s P^π_ss'))`."""
    inflow = np.asarray(SOLUTION.model.transitions.under(SOLUTION.policy)).sum(axis=0).max()
    expected = track(step_size=1.0 / (1.8 * (1.0 + 0.8 * inflow))).carry["adjoint"]
    np.testing.assert_allclose(track().carry["adjoint"], expected, rtol=1e-14)
    assert 1.0 / (1.8 * (1.0 + 0.8 * inflow)) <= 1.0 / np.linalg.norm(matrix(), 2) ** 2


def test_tracked_gradient_becomes_the_exact_one() -> None:
    hyper = track()
    for _ in range(1000):
        hyper = track(hyper)
    # The miss shrinks by a factor of about 0.99 a call: by 1e-5 and more in a thousand.
    np.testing.assert_allclose(hyper.gradient, exact().gradient, rtol=1e-4)
    assert hyper.residual < 1e-4 * np.abs(target()).max()


# DIVERGENCE in the plugin: a miss a million times the right-hand side.
BEYOND = 2e6


def far_away(factor: float) -> bl.HyperGradient:
    """A carry whose adjoint misses by about so many right-hand sides."""
    adjoint = np.linalg.solve(matrix().T, target() * factor)
    return attrs.evolve(exact(), carry={"adjoint": adjoint}, residual=0.0)


def outcome(previous: bl.HyperGradient | None, step_size: float = 1e-9) -> bl.Status:
    """The status of a call that hardly moves the adjoint."""
    return track(previous, step_size=step_size).status


def standing_still() -> bl.HyperGradient:
    """Far away, with the very residual that the next call will have."""
    there = far_away(BEYOND)
    return attrs.evolve(there, residual=track(there, step_size=1e-9).residual)


STATUSES: dict[str, tuple[Callable[[], bl.HyperGradient | None], bl.Status]] = {
    "from zero": (lambda: None, bl.Status.BUDGET_SPENT),
    "growing, far beyond": (lambda: far_away(BEYOND), bl.Status.DIVERGED),
    "growing, not beyond": (lambda: far_away(BEYOND / 4), bl.Status.BUDGET_SPENT),
    "far beyond, but coming back": (
        lambda: attrs.evolve(far_away(BEYOND), residual=1e12),
        bl.Status.BUDGET_SPENT,
    ),
    "far beyond, and nothing to compare with": (
        lambda: attrs.evolve(far_away(BEYOND), residual=None),
        bl.Status.BUDGET_SPENT,
    ),
    "far beyond, and standing still": (standing_still, bl.Status.BUDGET_SPENT),
    "not a number": (
        lambda: attrs.evolve(exact(), carry={"adjoint": np.full(4, np.nan)}),
        bl.Status.NON_FINITE,
    ),
}


@pytest.mark.parametrize("what", STATUSES)
def test_adjoint_that_runs_away_is_told_and_no_other(what: str) -> None:
    """It must have left the right-hand side behind and still be growing; to be large by itself is no fault."""
    previous, expected = STATUSES[what]
    assert outcome(previous()) is expected


def test_objective_that_is_not_finite_is_told_by_the_tracked_estimate_too() -> None:
    with np.errstate(invalid="ignore"):
        assert track(problem=broken(np.nan, 0.5)).status is bl.Status.NON_FINITE
        assert track(problem=broken(1.0, np.nan)).status is bl.Status.NON_FINITE
    assert track(problem=broken(1.0, 0.5)).status is bl.Status.BUDGET_SPENT
