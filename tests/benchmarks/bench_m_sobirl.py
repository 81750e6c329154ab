"""One outer iteration of M-SoBiRL: the framework against a hand-written NumPy loop of the same arithmetic.

Run with `make bench`. The two are measured alternately in one process, so that the noise of the machine falls on both,
and the ratio of the medians is printed.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

import bilevelrl as bl

SWEEPS, STEP_SIZE, ADJOINT_STEP_SIZE = 10, 8e-3, 0.5
ITERATIONS, ROUNDS = 200, 30


class HandWritten:
    """M-SoBiRL line by line, for `f = ½‖x‖² + ½‖π‖²` and `r = scale · xᵀMx`: no checks, no records."""

    def __init__(self, problem: bl.BilevelProblem, x: bl.Array) -> None:
        lower = problem.lower
        self.scale, self.form = lower.rewards.scale, lower.rewards.form
        kernel = lower.model(x).transitions.probabilities
        self.kernel, (self.states, self.actions, _) = kernel, kernel.shape
        self.flat = kernel.reshape(-1, self.states)
        self.gamma, self.tau = lower.discount, lower.temperature
        self.x, self.w = x, np.zeros(self.states)
        self.values = np.zeros(self.states)
        self.backups()

    def backups(self) -> None:
        gamma, tau, shape = self.gamma, self.tau, (self.states, self.actions)
        rewards = self.scale * float(self.x @ (self.form @ self.x))
        scaled, values = rewards / tau, self.values
        for _ in range(SWEEPS):
            z = (self.flat @ values).reshape(shape)
            z *= gamma / tau
            z += scaled
            top = z.max(axis=1)
            z -= top[:, None]
            np.exp(z, out=z)
            values = np.log(z.sum(axis=1))
            values += top
            values *= tau
        self.values = values
        self.q = (self.flat @ values).reshape(shape)
        self.q *= gamma
        self.q += rewards
        z = self.q / tau
        z -= z.max(axis=1)[:, None]
        np.exp(z, out=z)
        z /= z.sum(axis=1)[:, None]
        self.policy = z

    def iterate(self) -> None:
        x, policy, gamma, tau = self.x, self.policy, self.gamma, self.tau
        chain = np.matmul(policy[:, None, :], self.kernel)[:, 0, :]
        weighted = policy * policy  # π ⊙ ∂f/∂π with ∂f/∂π = π
        b = weighted.sum(axis=1) - gamma * (weighted.reshape(-1) @ self.flat)
        flat_policy = policy.reshape(-1)
        self.objective = 0.5 * float(x @ x) + 0.5 * float(flat_policy @ flat_policy)
        mismatch = self.w - gamma * (chain.T @ self.w) - b
        self.w = self.w - ADJOINT_STEP_SIZE * (mismatch - gamma * (chain @ mismatch))
        occupancy = (weighted - policy * self.w[:, None]) / tau
        implicit = np.vdot(occupancy, self.scale) * (self.form @ x + x @ self.form)
        self.x = x - STEP_SIZE * (x + implicit)
        self.backups()


def _problem_and_algorithm() -> tuple[bl.BilevelProblem, bl.Algorithm]:
    problem = bl.problem("synthetic-quadratic")
    algorithm = bl.algorithm("m-sobirl", step_size=STEP_SIZE, adjoint_step_size=ADJOINT_STEP_SIZE, sweeps=SWEEPS)
    return problem, algorithm


def _framework_seconds(problem: bl.BilevelProblem, algorithm: bl.Algorithm, x: bl.Array) -> float:
    began = time.perf_counter()
    algorithm.run(problem, iterations=ITERATIONS, x=x)
    return (time.perf_counter() - began) / ITERATIONS


def _hand_written_seconds(problem: bl.BilevelProblem, x: bl.Array) -> float:
    began = time.perf_counter()
    loop = HandWritten(problem, x)
    for _ in range(ITERATIONS):
        loop.iterate()
    return (time.perf_counter() - began) / ITERATIONS


@pytest.mark.benchmark(group="outer iteration of M-SoBiRL, S=10, A=5, n=100")
def test_outer_iteration_against_hand_written_numpy(benchmark) -> None:
    problem, algorithm = _problem_and_algorithm()
    x = problem.initial_point(bl.randomness.stream(0, "start"))
    loop = HandWritten(problem, x)
    for _ in range(50):
        loop.iterate()
    run = algorithm.run(problem, iterations=50, x=x)
    np.testing.assert_allclose(run.x, loop.x, rtol=1e-10, atol=1e-12)  # the same arithmetic, or the ratio means nothing

    framework, hand_written = [], []
    for _ in range(ROUNDS):
        framework.append(_framework_seconds(problem, algorithm, x))
        hand_written.append(_hand_written_seconds(problem, x))
    ratio = float(np.median(framework) / np.median(hand_written))
    benchmark.extra_info.update(
        framework_us=1e6 * float(np.median(framework)),
        hand_written_us=1e6 * float(np.median(hand_written)),
        ratio=ratio,
    )
    print(
        f"\nouter iteration: framework {1e6 * np.median(framework):.1f} µs, "
        f"hand-written {1e6 * np.median(hand_written):.1f} µs, ratio {ratio:.2f} (target at most 1.25)"
    )
    benchmark.pedantic(_framework_seconds, args=(problem, algorithm, x), rounds=5)
