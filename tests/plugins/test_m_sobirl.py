"""M-SoBiRL on the paper's synthetic problem: it is the algorithm of the paper, and it does what the paper proves."""

from __future__ import annotations

import numpy as np
import pytest

import bilevelrl as bl
from slowness import slow_unless

PAPER = {"step_size": 8e-3, "adjoint_step_size": 0.5, "sweeps": 10}


def literal_m_sobirl(problem: bl.BilevelProblem, x: bl.Array, iterations: int) -> tuple[bl.Array, bl.Array]:
    """The paper's algorithm 1 written out with explicit matrices: returns the final x and the final w."""
    kernel, scale, form = (
        np.array(problem.lower.model(x).transitions.probabilities),
        problem.lower.rewards.scale,
        problem.lower.rewards.form,
    )
    gamma, tau = problem.lower.discount, problem.lower.temperature
    states, actions, _ = kernel.shape

    def backups(x: bl.Array, values: bl.Array) -> tuple[bl.Array, bl.Array]:
        rewards = scale * (x @ form @ x)
        for _ in range(PAPER["sweeps"]):
            values = tau * np.log(np.exp((rewards + gamma * kernel @ values) / tau).sum(axis=1))
        q = rewards + gamma * kernel @ values
        backed_up = tau * np.log(np.exp(q / tau).sum(axis=1))
        return values, np.exp((q - backed_up[:, None]) / tau)

    values, policy = backups(x, np.zeros(states))
    w = np.zeros(states)
    for _ in range(iterations):
        chain = np.einsum("sa,sat->st", policy, kernel)
        matrix = np.eye(states) - gamma * chain
        # U (S·A, S): U_(sa),s' = 1{s = s'} − γ P_sas'
        u = np.repeat(np.eye(states), actions, axis=0) - gamma * kernel.reshape(-1, states)
        weighted = (policy * policy).reshape(-1)  # diag(π) ∇_π f with ∇_π f = π
        b = u.T @ weighted
        w = w - PAPER["adjoint_step_size"] * (matrix @ matrix.T @ w - matrix @ b)
        reward_jacobian = scale.reshape(-1, 1) * ((form + form.T) @ x)
        operator_jacobian = np.einsum("sa,san->sn", policy, reward_jacobian.reshape(states, actions, -1))
        g = x + reward_jacobian.T @ weighted / tau - operator_jacobian.T @ w / tau
        x = x - PAPER["step_size"] * g
        values, policy = backups(x, values)
    return x, w


def test_recipe_is_the_papers_algorithm_line_by_line() -> None:
    """K updates of the framework equal K literal iterations; its carry holds λ = −w/τ, one estimate ahead."""
    problem = bl.problem("synthetic-quadratic", temperature=0.7)
    start = problem.initial_point(bl.randomness.stream(0, "start")) / 4
    run = bl.algorithm("m-sobirl", **PAPER).run(problem, iterations=60, x=start)
    x, _ = literal_m_sobirl(problem, start, iterations=60)
    _, w = literal_m_sobirl(problem, start, iterations=61)
    # Sixty iterations of rounding in another order of summation.
    np.testing.assert_allclose(run.x, x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-0.7 * run.last.hyper.carry["adjoint"], w, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module", params=slow_unless((0).__eq__, [0, 1, 2]))
def trajectory(request: pytest.FixtureRequest) -> tuple[bl.Run, list[int], bl.Array, bl.Array]:
    """A run of the paper's length, with the exact gradient and the tracked one at some iterations."""
    problem = bl.problem("synthetic-quadratic", instance=request.param)
    sampled = sorted({round(k) for k in np.geomspace(1, 3000, 60)})
    exact: list[bl.Array] = []
    tracked: list[bl.Array] = []

    def observe(state: bl.outer_loop.OuterState) -> None:
        if state.iteration in sampled:
            exact.append(bl.value_and_gradient(problem, state.x)[1])
            tracked.append(state.hyper.gradient)

    run = bl.algorithm("m-sobirl", **PAPER).run(problem, iterations=3000, seed=request.param, callback=observe)
    return run, sampled, np.array(exact), np.array(tracked)


def test_smallest_squared_gradient_falls_at_least_as_fast_as_one_over_k(trajectory) -> None:
    """The paper proves min_k ‖∇φ(x_k)‖² = O(1/K): on log–log axes the slope is −1 or steeper."""
    run, iterations, exact, _ = trajectory
    smallest = np.minimum.accumulate((exact**2).sum(axis=1))
    slope = np.polyfit(np.log(iterations), np.log(smallest), 1)[0]
    assert slope <= -1.0
    # And no K is above the bound of gradient descent with exact gradients, K·min_k ‖∇φ‖² ≤ 2(φ(x_0) − min φ)/β.
    drop = run.history["objective"][0] - run.history["objective"].min()
    assert np.all(np.array(iterations) * smallest <= 2 * drop / PAPER["step_size"])


def test_tracked_gradient_approaches_the_exact_one(trajectory) -> None:
    """w starts at zero and is never solved for, yet the gradient's error falls, absolutely and relatively."""
    _, _, exact, tracked = trajectory
    distance = np.linalg.norm(tracked - exact, axis=1)
    relative = distance / np.linalg.norm(exact, axis=1)
    assert distance[-1] <= 1e-3 * distance[0]
    assert relative[-1] <= 1e-3 * relative[0]


def test_objective_never_ends_above_where_it_began(trajectory) -> None:
    run, *_ = trajectory
    assert run.status is bl.Status.BUDGET_SPENT
    value_at_start, _ = bl.value_and_gradient(run.problem, run.first.x)
    value_at_end, _ = bl.value_and_gradient(run.problem, run.x)
    assert value_at_end < value_at_start
    assert run.history["objective"][-1] < run.history["objective"][0]


def test_too_large_an_adjoint_step_is_reported_as_divergence() -> None:
    run = bl.algorithm("m-sobirl", step_size=1e-6, adjoint_step_size=50.0).run(
        bl.problem("synthetic-quadratic"), iterations=200
    )
    assert run.status is bl.Status.DIVERGED
    assert "warm-start-adjoint" in run.stopped_by
    assert np.isfinite(run.x).all()


def test_m_sobirl_improves_the_true_return_on_frozen_lake() -> None:
    """The demo's claim in a short form: shaping lifts the follower's true return more than tenfold."""
    run = bl.algorithm("m-sobirl").run(bl.problem("frozenlake-shaping"), iterations=300)
    before, after = run.problem.measures(run.first.x, run.first.solution), run.problem.measures(run.x, run.solution)
    assert after["follower's true return"] > 10 * before["follower's true return"]
    assert after["goal within 100 steps"] > 10 * before["goal within 100 steps"]
    assert np.abs(run.x).max() <= 1.0
