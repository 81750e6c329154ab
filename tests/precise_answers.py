"""The hyper-gradient of a drawn problem in extended precision: what certificates are held against.

x86's long doubles have 64 bits of mantissa, eleven more than a double: rounding loses a two-thousandth of what it does
in double precision. The follower's tables are those that the library computed, to the last bit; all that is
made of them, and their derivatives, is computed anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bilevelrl as bl
from bilevelrl.testing.exact import dense_kernel
from strategies import DrawnProblem

Long = np.longdouble
EXTENDED = np.finfo(Long).eps < 1e-18
"""Whether this machine has such numbers."""


def long(array: Any) -> Any:
    """The same numbers, with more room behind them."""
    return np.asarray(array, dtype=Long)


def solved_system(matrix: Any, right_hand_side: Any) -> Any:
    """`M x = b`, by Gaussian elimination with row pivots."""
    size = matrix.shape[0]
    work = np.concatenate([matrix, right_hand_side.reshape(size, -1)], axis=1)
    for column in range(size):
        pivot = column + int(np.abs(work[column:, column]).argmax())
        work[[column, pivot]] = work[[pivot, column]]
        work[column] /= work[column, column]
        others = np.arange(size) != column
        work[others] -= work[others, column, None] * work[column]
    return work[:, size:].reshape(right_hand_side.shape)


def backed_up(rewards: Any, kernel: Any, mdp: Any, values: Any) -> tuple[Any, Any]:
    """`T v` and `π(v)`."""
    preferences = (rewards + long(mdp.discount) * np.einsum("sat,t->sa", kernel, values)) / long(mdp.temperature)
    if mdp.reference is not None:
        preferences = preferences + np.log(long(mdp.reference))
    largest = preferences.max(axis=1, keepdims=True)
    weights = np.exp(preferences - largest)
    total = weights.sum(axis=1, keepdims=True)
    return (long(mdp.temperature) * (np.log(total) + largest))[:, 0], weights / total


def optimum(mdp: bl.SoftMDP) -> tuple[Any, Any]:
    """`V*` and `π*`, by Newton's method until the residual has stopped falling, which at first it need not do."""
    rewards, kernel = long(mdp.rewards), long(dense_kernel(mdp))
    values, best, worse = long(np.zeros(mdp.states)), np.inf, 0
    while worse < 20:
        after, policy = backed_up(rewards, kernel, mdp, values)
        residual = float(np.abs(after - values).max())
        if residual < best:
            best, answer, worse = residual, (values, policy), 0
        worse += 1
        system = np.eye(mdp.states) - long(mdp.discount) * np.einsum("sa,sat->st", policy, kernel)
        values = values + solved_system(system, after - values)
    return answer


def objective_gradients(objective: Any, drawn: DrawnProblem, x: Any, policy: Any) -> tuple[Any, Any]:
    """`∂f/∂x` (n,) and `∂f/∂π` (S, A)."""
    if isinstance(objective, bl.objectives.QuadraticObjective):
        by_x = long(objective.x_weight) * (x - (0 if objective.x_target is None else objective.x_target))
        target = 0 if objective.policy_target is None else objective.policy_target
        return by_x, long(objective.policy_weight) * (policy - target)
    if isinstance(objective, bl.objectives.LogLikelihoodObjective):
        shown = objective.demonstrations > 0
        return np.zeros_like(x), -np.divide(objective.demonstrations, policy, out=np.zeros_like(policy), where=shown)
    if isinstance(objective, bl.objectives.WeightedSum):
        by_x, by_policy = np.zeros_like(x), np.zeros_like(policy)
        for weight, term in objective.terms:
            term_by_x, term_by_policy = objective_gradients(term, drawn, x, policy)
            by_x, by_policy = by_x + long(weight) * term_by_x, by_policy + long(weight) * term_by_policy
        return by_x, by_policy
    return return_gradients(objective, drawn, x, policy)


def return_gradients(objective: Any, drawn: DrawnProblem, x: Any, policy: Any) -> tuple[Any, Any]:
    """Those of minus the return, in a fixed MDP or in the follower's own."""
    fixed = isinstance(objective.true_mdp, bl.SoftMDP)
    mdp = objective.true_mdp if fixed else objective.true_mdp.model(np.asarray(x, dtype=np.float64))
    rewards, kernel, discount = long(mdp.rewards), long(dense_kernel(mdp)), long(mdp.discount)
    system = np.eye(mdp.states) - discount * np.einsum("sa,sat->st", policy, kernel)
    values = solved_system(system, (policy * rewards).sum(axis=1))
    visits = solved_system(system.T, long(mdp.initial))
    by_policy = -visits[:, None] * (rewards + discount * np.einsum("sat,t->sa", kernel, values))
    if fixed:
        return np.zeros_like(x), by_policy
    occupancy = visits[:, None] * policy
    slope = drawn.reward_jacobian(x) + discount * np.einsum("satn,t->san", drawn.kernel_jacobian(x), values)
    by_initial = np.einsum("sn,s->n", drawn.initial_jacobian(x), values)
    return -np.einsum("sa,san->n", occupancy, slope) - by_initial, by_policy


def hypergradient(drawn: DrawnProblem, objective: Any) -> Any:
    """`∇φ(x)` (n,), of the tables that the library's `lower.model(x)` has."""
    x, mdp = long(drawn.x), drawn.lower.model(drawn.x)
    values, policy = optimum(mdp)
    kernel, discount, temperature = long(dense_kernel(mdp)), long(mdp.discount), long(mdp.temperature)
    by_x, by_policy = objective_gradients(objective, drawn, x, policy)
    cotangent = policy * (by_policy - (policy * by_policy).sum(axis=1, keepdims=True)) / temperature
    system = np.eye(mdp.states) - discount * np.einsum("sa,sat->st", policy, kernel)
    target = discount * np.einsum("sat,sa->t", kernel, cotangent) - cotangent.sum(axis=1)
    occupancy = cotangent + policy * solved_system(system.T, target)[:, None]
    slope = drawn.reward_jacobian(x) + discount * np.einsum("satn,t->san", drawn.kernel_jacobian(x), values)
    return by_x + np.einsum("sa,san->n", occupancy, slope)
