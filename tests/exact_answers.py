"""The exact hyper-gradient of a drawn problem, and independent ways to it that share no code with the library."""

import numpy as np

import bilevelrl as bl
from bilevelrl.testing.rounding import TINY, solve_rounding
from strategies import policy_error, solved, value_error


def largest(array):
    return float(np.abs(array).max(initial=0.0))


class Exact:
    """The follower's answer and the library's exact hyper-gradient for a drawn problem, with their natural sizes."""

    def __init__(self, drawn, objective):
        self.drawn, self.objective = drawn, objective
        self.problem = bl.BilevelProblem(drawn.lower, objective)
        self.solution = solved(self.problem.lower.model(drawn.x))
        estimator = bl.hypergradient_estimator("implicit")
        self.hyper = estimator.estimate(self.problem, drawn.x, self.solution, None, np.random.default_rng(0))
        self.policy, self.values = self.solution.policy, self.solution.values
        _, self.direct, self.by_policy = objective.value_and_gradients(drawn.x, self.policy)
        # |∇φ's implicit part| is at most this: Σ π|G| · |dlog π|, with |dlog π| ≤ 2|∂_x q|/(τ(1−γ)).
        self.strength = float((self.policy * np.abs(self.by_policy)).sum())
        slope = drawn.action_value_slope(drawn.x, self.values)
        self.scale = self.strength * 2 * slope / (drawn.temperature * (1 - drawn.discount))

    @property
    def algebra(self):
        """Rounding of an answer computed from the same V* and π*: that of one linear solve."""
        return solve_rounding(self.solution.model) * (self.scale + largest(self.direct)) + TINY


def implicit_part(exact, reward_cotangent, kernel_cotangent):
    """`J_rᵀ r̄ + J_Pᵀ P̄` with the whole Jacobians and the whole P̄ (S, A, S) written out."""
    drawn = exact.drawn
    rewards = np.einsum("sa,san->n", reward_cotangent, drawn.reward_jacobian(drawn.x))
    return rewards + np.einsum("sat,satn->n", kernel_cotangent, drawn.kernel_jacobian(drawn.x))


def unrolled_gradient(exact, backups):
    """Reverse-mode differentiation through N soft Bellman backups from v = 0, written out on dense arrays."""
    drawn, x = exact.drawn, exact.drawn.x
    rewards, kernel = drawn.rewards(x), drawn.kernel(x)
    flat = kernel.reshape(-1, kernel.shape[2])
    log_measure = np.log(drawn.measure)

    def act(values):
        preferences = (rewards + drawn.discount * (flat @ values).reshape(rewards.shape)) / drawn.temperature
        preferences = preferences + log_measure
        top = preferences.max(axis=1, keepdims=True)
        weights = np.exp(preferences - top)
        total = weights.sum(axis=1, keepdims=True)
        return (drawn.temperature * (np.log(total) + top))[:, 0], weights / total

    tape = [(np.zeros(rewards.shape[0]), None)]
    for _ in range(backups):
        values, policy = act(tape[-1][0])
        tape[-1] = (tape[-1][0], policy)
        tape.append((values, None))
    last = tape.pop()[0]
    _, policy = act(last)
    _, direct, gradient = exact.objective.value_and_gradients(x, policy)
    # Through the softmax of the last q: q̄ = π ⊙ (G − Σ π G)/τ.
    by_q = policy * (gradient - (policy * gradient).sum(axis=1, keepdims=True)) / drawn.temperature
    by_rewards, by_kernel = by_q.copy(), drawn.discount * by_q.reshape(-1, 1) * last
    by_values = drawn.discount * by_q.reshape(-1) @ flat
    for values, policy in reversed(tape):
        by_q = policy * by_values[:, None]  # v⁺ = T v, ∂T/∂q = π
        by_rewards += by_q
        by_kernel += drawn.discount * by_q.reshape(-1, 1) * values
        by_values = drawn.discount * by_q.reshape(-1) @ flat
    return direct + implicit_part(exact, by_rewards, by_kernel.reshape(kernel.shape))


def gradient_error(exact):
    """How far two gradients at two answers, each as exact as float64 allows, can be apart.

    The policies differ by `policy_error`; c is proportional to π and an occupancy moves by 1/(1−γ) of what π does. The
    values differ by `value_error`, and P's part of the gradient is proportional to them, however small they are.
    """
    relative = policy_error(exact.solution) / (1 - exact.drawn.discount)
    of_policy = 4 * relative * (exact.scale + largest(exact.direct))
    error = np.full(exact.values.size, value_error(exact.solution))
    slope = float(exact.drawn.kernel_slope(exact.drawn.x, error).max())
    of_values = 2 * exact.strength * 2 * slope / (exact.drawn.temperature * (1 - exact.drawn.discount))
    return of_policy + of_values + exact.algebra


def lower_level_gradient(drawn, x, logits):
    """`∇_θ V^{π_θ}_x(ρ) = d_ρ(s) π (Q − τ log(π/μ) − V)` (S·A,), the regularised policy gradient.

    Holomorphic in x and θ: with a complex step it gives exact second derivatives.
    """
    logits = logits.reshape(drawn.base_rewards.shape)
    weights = np.exp(logits - logits.real.max(axis=1, keepdims=True))
    policy = weights / weights.sum(axis=1, keepdims=True)
    kernel = drawn.kernel(x)
    rewards = drawn.rewards(x) - drawn.temperature * (np.log(policy) - np.log(drawn.measure))
    matrix = np.eye(policy.shape[0]) - drawn.discount * np.einsum("sa,sat->st", policy, kernel)
    values = np.linalg.solve(matrix, (policy * rewards).sum(axis=1))
    visits = np.linalg.solve(matrix.T, drawn.base_initial)
    advantage = rewards + drawn.discount * np.einsum("sat,t->sa", kernel, values) - values[:, None]
    return (visits[:, None] * policy * advantage).reshape(-1)


def complex_step(function, point):
    """The Jacobian (m, n) of a holomorphic function, to rounding (Squire and Trapp 1998)."""
    steps = 1e-30j * np.eye(point.size)
    return np.array([function(point + step).imag / 1e-30 for step in steps]).T
