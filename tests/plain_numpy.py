"""The follower and the leader's figures once more, in plain NumPy that shares no code with the library.

Loops and textbook iterations, for problems small enough to wait for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bilevelrl as bl


def soft_policy(kernel: Any, rewards: Any, discount: float, temperature: float, reference: Any = None) -> bl.Array:
    """`π* ∝ μ exp(Q*/τ)` (S, A), by value iteration until nothing changes by more than 1e-14 of the largest value."""
    measure = np.ones_like(rewards) if reference is None else reference
    values = np.zeros(rewards.shape[0])
    while True:
        action_values = rewards + discount * np.einsum("sat,t->sa", kernel, values)
        largest = action_values.max(axis=1, keepdims=True)
        weights = measure * np.exp((action_values - largest) / temperature)
        backed_up = largest[:, 0] + temperature * np.log(weights.sum(axis=1))
        if np.abs(backed_up - values).max() <= 1e-14 * (1 + np.abs(values).max()):
            return weights / weights.sum(axis=1, keepdims=True)
        values = backed_up


def discounted_visits(kernel: Any, policy: Any, discount: float, initial: Any) -> bl.Array:
    """`Σ_t γ^t Pr(s_t = s, a_t = a)` (S, A), summed term by term until the rest is below 1e-16."""
    states, total, weight = np.array(initial, dtype=float), np.zeros_like(policy), 1.0
    while weight > 1e-16 * (1 - discount):
        pairs = states[:, None] * policy
        total += weight * pairs
        states, weight = np.einsum("sa,sat->t", pairs, kernel), weight * discount
    return total


def dense(model: bl.SoftMDP) -> bl.Array:
    """P (S, A, S), row by row."""
    table = np.zeros((model.states, model.actions, model.states))
    for s, a in np.ndindex(model.states, model.actions):
        successors, probabilities = model.transitions.row(s, a)
        table[s, a, successors] = probabilities
    return table


def check_gradient(problem: bl.BilevelProblem, x: bl.Array, relative: float = 1e-6) -> None:
    """The exact hyper-gradient agrees with fourth-order central differences of φ in every coordinate.

    The step, 1e-3 of the scale on which the problems of the catalogue bend, leaves 1e-11 of truncation and 1e-12 of
    rounding; `relative` is far above both and far below any term of the gradient that could be missing.
    """
    _, gradient = bl.value_and_gradient(problem, x)
    expected, step = np.zeros_like(x), 1e-3

    def objective(point: bl.Array) -> float:
        return bl.value_and_gradient(problem, point)[0]

    for k, unit in enumerate(np.eye(x.size)):
        near = objective(x + step * unit) - objective(x - step * unit)
        far = objective(x + 2 * step * unit) - objective(x - 2 * step * unit)
        expected[k] = (8 * near - far) / (12 * step)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=relative * np.abs(expected).max())
