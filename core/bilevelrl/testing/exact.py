"""Exact answers in plain NumPy for the laws: dense arrays, no code shared with the framework.

Only `problem.lower.model` and `problem.lower.pullback` are used of the problem. One pullback for every entry of r and P
gives the whole Jacobians, which nothing else in the framework computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import TabularSolution
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, Status
from bilevelrl.randomness import stream
from bilevelrl.testing.rounding import EPSILON, TINY, policy_error, solve_rounding, value_error
from bilevelrl.validation.arrays import Array

NEWTON_STEPS = 100
POLICY_ITERATION_SLACK = 1e-12  # relative: an action replaces another only if it is better by more than rounding
STEEPEST = 16.0  # of ∂log P, in the bound of rounding: the kit draws features of a few at most


def point_of(problem: BilevelProblem) -> Array:
    """The point at which a problem is examined: its start."""
    return problem.initial_point(stream(0, "start"))


def dense_kernel(mdp: SoftMDP) -> Array:
    """P (S, A, S), from dense or sparse storage."""
    rows, successors, probabilities = mdp.transitions.stored()
    kernel = np.zeros((mdp.states * mdp.actions, mdp.states))
    np.add.at(kernel, (rows, successors), probabilities)
    return kernel.reshape(mdp.states, mdp.actions, mdp.states)


def backed_up(mdp: SoftMDP, values: Array) -> tuple[Array, Array, Array]:
    """`T v` (S,), `π(v)` and `q(v)` (S, A)."""
    action_values = mdp.rewards + mdp.discount * np.einsum("sat,t->sa", dense_kernel(mdp), values)
    preferences = action_values / mdp.temperature
    if mdp.reference is not None:
        preferences = preferences + np.log(mdp.reference)
    largest = preferences.max(axis=1, keepdims=True)
    weights = np.exp(preferences - largest)
    total = weights.sum(axis=1, keepdims=True)
    return (mdp.temperature * (np.log(total) + largest))[:, 0], weights / total, action_values


def solved(mdp: SoftMDP) -> TabularSolution:
    """The follower's solution as exact as float64 allows: Newton's method until the residual stops falling."""
    kernel, values = dense_kernel(mdp), np.zeros(mdp.states)
    after, policy, action_values = backed_up(mdp, values)
    best = np.inf
    for step in range(NEWTON_STEPS):
        residual = float(np.abs(after - values).max())
        if not residual < best and step > 1:
            break
        best, answer = min(best, residual), (values, policy, action_values)
        system = np.eye(mdp.states) - mdp.discount * np.einsum("sa,sat->st", policy, kernel)
        values = values + np.linalg.solve(system, after - values)
        after, policy, action_values = backed_up(mdp, values)
    values, policy, action_values = answer
    return TabularSolution(mdp, policy, values, action_values, best, step, Status.CONVERGED, Cost())


def policy_values(mdp: SoftMDP, policy: Array) -> Array:
    """The regularised value (S,) of a policy."""
    log_policy = np.log(policy, out=np.zeros_like(policy), where=policy > 0)
    log_reference = 0.0 if mdp.reference is None else np.log(mdp.reference)
    paid = (policy * (mdp.rewards - mdp.temperature * (log_policy - log_reference))).sum(axis=1)
    chain = np.einsum("sa,sat->st", policy, dense_kernel(mdp))
    return np.asarray(np.linalg.solve(np.eye(mdp.states) - mdp.discount * chain, paid))


def occupancy_of(mdp: SoftMDP, policy: Array, initial: Array) -> Array:
    """`d_sa = Σ_t γ^t Pr(s_t = s, a_t = a)` (S, A)."""
    chain = np.einsum("sa,sat->st", policy, dense_kernel(mdp))
    visits = np.linalg.solve((np.eye(mdp.states) - mdp.discount * chain).T, initial)
    return np.asarray(visits[:, None] * policy)


def hard_optimum(mdp: SoftMDP) -> Array:
    """The value (S,) of the best policy without regularisation, by policy iteration."""
    kernel, states = dense_kernel(mdp), np.arange(mdp.states)
    chosen = np.zeros(mdp.states, dtype=int)
    for _ in range(1000):
        system = np.eye(mdp.states) - mdp.discount * kernel[states, chosen]
        values = np.linalg.solve(system, mdp.rewards[states, chosen])
        action_values = mdp.rewards + mdp.discount * kernel @ values
        slack = POLICY_ITERATION_SLACK * (1 + np.abs(action_values).max())
        better = action_values.max(axis=1) > action_values[states, chosen] + slack
        if not better.any():
            break
        chosen = np.where(better, action_values.argmax(axis=1), chosen)
    return np.asarray(values)


def scores(mdp: SoftMDP, policy: Array, slope: Array) -> Array:
    """`∇ log π* = (∇Q* − ∇V*)/τ` (S, A, n) from `∂_xq` (S, A, n), by solving for `∇V*` (S, n)."""
    kernel = dense_kernel(mdp)
    system = np.eye(mdp.states) - mdp.discount * np.einsum("sa,sat->st", policy, kernel)
    by_values = np.linalg.solve(system, np.einsum("sa,san->sn", policy, slope))
    by_action_values = slope + mdp.discount * np.einsum("sat,tn->san", kernel, by_values)
    return np.asarray((by_action_values - by_values[:, None]) / mdp.temperature)


class Jacobians:
    """`J_r` (S, A, n) and `J_P` (S, A, S, n) at x, entry by entry through the problem's own pullback."""

    def __init__(self, lower: Any, x: Array, mdp: SoftMDP) -> None:
        shape, n = (mdp.states, mdp.actions), int(lower.dimension)
        self.rewards = np.zeros((*shape, n))
        self.kernel = np.zeros((*shape, mdp.states, n))
        nowhere, places = np.zeros(mdp.states), np.eye(mdp.states)
        for s, a in np.ndindex(shape):
            weights = np.zeros(shape)
            weights[s, a] = 1.0
            of_reward = lower.pullback(x, DenseOccupancy(weights, nowhere))
            self.rewards[s, a] = of_reward
            if self._fixed_kernel(lower):
                continue
            for t in range(mdp.states):
                self.kernel[s, a, t] = lower.pullback(x, DenseOccupancy(weights, places[t])) - of_reward

    @staticmethod
    def _fixed_kernel(lower: Any) -> bool:
        from bilevelrl.parametric.parametric_mdp import ParametricMDP
        from bilevelrl.parametric.parts import ParametricTransitions

        return isinstance(lower, ParametricMDP) and not isinstance(lower.transitions, ParametricTransitions)

    def contracted(self, of_rewards: Array, of_kernel: Array) -> Array:
        """`J_rᵀ r̄ + J_Pᵀ P̄` (n,) with the whole P̄ (S, A, S)."""
        return np.asarray(
            np.einsum("sa,san->n", of_rewards, self.rewards) + np.einsum("sat,satn->n", of_kernel, self.kernel)
        )


class Exact:
    """The follower's solution and the leader's gradient at a problem's point, with natural sizes."""

    def __init__(self, problem: BilevelProblem) -> None:
        self.problem, self.x = problem, point_of(problem)
        self.mdp: SoftMDP = problem.lower.model(self.x)
        self.solution = solved(self.mdp)
        self.policy, self.values = self.solution.policy, self.solution.values
        self.kernel = dense_kernel(self.mdp)
        self.chain = np.einsum("sa,sat->st", self.policy, self.kernel)
        self.jacobians = Jacobians(problem.lower, self.x, self.mdp)
        self.objective, self.by_x, self.by_policy = problem.objective.value_and_gradients(self.x, self.policy)
        discount = self.mdp.discount
        self.slope = self.jacobians.rewards + discount * np.einsum("satn,t->san", self.jacobians.kernel, self.values)
        # The terms of |∂_x q| before anything cancels: rounding is relative to these.
        through_kernel = discount * np.einsum("satn,t->san", self._kernel_scale(), np.abs(self.values))
        steepness = float((np.abs(self.jacobians.rewards) + through_kernel).max(initial=0.0))
        self.strength = float((self.policy * np.abs(self.by_policy)).sum())
        per_strength = 2 / (self.mdp.temperature * (1 - discount))
        self.scale = self.strength * per_strength * steepness
        # The gradient's size for a ∂f/∂π of size one; q's dependence on x counts as a millionth at least.
        self.unit = float(per_strength * (steepness + 1e-6 * (1 + np.abs(self.values).max())))

    def _kernel_scale(self) -> Array:
        """|J_P| (S, A, S, n) before its own cancellation: `∂P = P ∂log P`, and in a row differences of log P count.

        In a nearly deterministic row `P_t (φ_t − Σ Pφ)` is a difference of large numbers for the likely t; the
        unlikely entries reveal their size.
        """
        kernel, slopes = self.kernel[..., None], np.abs(self.jacobians.kernel)
        relative = np.divide(slopes, kernel, where=kernel > 0, out=np.zeros_like(slopes))
        steepest = np.minimum(relative.max(axis=2, keepdims=True, initial=0.0), STEEPEST)
        return np.asarray(np.maximum(slopes, kernel * steepest))

    @property
    def system(self) -> Array:
        """`I − γP^π*` (S, S)."""
        return np.asarray(np.eye(self.mdp.states) - self.mdp.discount * self.chain)

    @property
    def size(self) -> float:
        """The largest size of the gradient: a bound on its implicit part, and its direct part."""
        return float(self.scale + np.abs(self.by_x).max(initial=0.0))

    @property
    def rough_size(self) -> float:
        """The largest size of the terms of an inexact method's gradient, before anything cancels.

        `(size + v + (max|J_r| + γ v max Σ|J_P|)/(1−γ)) (1 + v/τ)` with v the largest number in a backup: a method may
        differentiate whole values, through ρ or through q, and exponents of the size v/τ lose as many digits of π.
        """
        mdp, jacobians = self.mdp, self.jacobians
        log_reference = 0.0 if mdp.reference is None else float(np.abs(np.log(mdp.reference)).max())
        largest = np.abs(self.values).max() + np.abs(mdp.rewards).max() + mdp.temperature * (1 + log_reference)
        through_rewards = np.abs(jacobians.rewards).max(initial=0.0)
        through_kernel = mdp.discount * largest * np.abs(jacobians.kernel).sum(axis=2).max(initial=0.0)
        of_values = largest + (through_rewards + through_kernel) / (1 - mdp.discount)
        return float((self.size + of_values) * (1 + largest / mdp.temperature))

    @property
    def algebra(self) -> float:
        """The rounding of a gradient computed from the same V* and π*: that of one linear solve."""
        return solve_rounding(self.mdp) * self.size + TINY

    @property
    def error(self) -> float:
        """A bound on the difference of two gradients at two solutions, each as exact as float64 allows.

        The policies differ by `policy_error`; c is proportional to π, and an occupancy changes 1/(1−γ) times as much.
        """
        residual = self.solution.residual
        relative = policy_error(self.mdp, self.values, residual) / (1 - self.mdp.discount)
        error = value_error(self.mdp, self.values, residual)
        of_kernel = self.mdp.discount * error * float(np.abs(self.jacobians.kernel).sum(axis=2).max(initial=0.0))
        of_values = 2 * self.strength * 2 * of_kernel / (self.mdp.temperature * (1 - self.mdp.discount))
        return 4 * relative * self.size + of_values + self.algebra

    def forward(self) -> Array:
        """`∂f/∂x + Σ_sa G_sa dπ*_sa` (n,), by solving for `dV*` (S, n)."""
        by_policy = self.policy[..., None] * scores(self.mdp, self.policy, self.slope)
        return np.asarray(self.by_x + np.einsum("sa,san->n", self.by_policy, by_policy))

    def implicit(self, weights: Array) -> Array:
        """The pullback (n,) of an occupancy `r̄` (S, A), with P̄ = γ r̄ ⊗ V* as an array."""
        return self.jacobians.contracted(weights, self.mdp.discount * weights[:, :, None] * self.values)

    def papers_formula(self) -> Array:
        """`∂f/∂x + τ⁻¹ (∂_xq)ᵀ(π⊙G) − τ⁻¹ (∂_xT)ᵀ w` (n,), `(I − γP^π)ᵀ w = Uᵀ diag(π) G`."""
        weighted = self.policy * self.by_policy
        inflow = self.mdp.discount * np.einsum("sat,sa->t", self.kernel, weighted)
        w = np.linalg.solve(self.system.T, weighted.sum(axis=1) - inflow)
        through_q = np.einsum("sa,san->n", weighted, self.slope)
        through_v = np.einsum("s,sa,san->n", w, self.policy, self.slope)
        return np.asarray(self.by_x + (through_q - through_v) / self.mdp.temperature)

    def mixture(self) -> Array:
        """`r̄ = Σ_sa c_sa (d_(s,a) − d_s)` (S, A), with every occupancy computed separately."""
        cotangent = self.policy * self.by_policy / self.mdp.temperature
        visits = np.linalg.inv(self.system)
        from_state = visits[:, :, None] * self.policy
        from_pair = self.mdp.discount * np.einsum("sat,tuv->sauv", self.kernel, from_state)
        for s, a in np.ndindex(cotangent.shape):
            from_pair[s, a, s, a] += 1.0
        return np.asarray(np.einsum("sa,sauv->uv", cotangent, from_pair - from_state[:, None]))

    def unrolled(self, backups: int) -> Array:
        """Reverse-mode differentiation (n,) through N soft Bellman backups from v = 0."""
        mdp, tape, values = self.mdp, [], np.zeros(self.mdp.states)
        for _ in range(backups):
            after, policy, _ = backed_up(mdp, values)
            tape.append((values, policy))
            values = after
        _, policy, _ = backed_up(mdp, values)
        _, direct, gradient = self.problem.objective.value_and_gradients(self.x, policy)
        by_q = policy * (gradient - (policy * gradient).sum(axis=1, keepdims=True)) / mdp.temperature
        of_rewards = by_q.copy()
        of_kernel = mdp.discount * by_q[:, :, None] * values
        by_values = mdp.discount * np.einsum("sat,sa->t", self.kernel, by_q)
        for values, policy in reversed(tape):
            by_q = policy * by_values[:, None]
            of_rewards += by_q
            of_kernel += mdp.discount * by_q[:, :, None] * values
            by_values = mdp.discount * np.einsum("sat,sa->t", self.kernel, by_q)
        return np.asarray(direct + self.jacobians.contracted(of_rewards, of_kernel))

    def aid(self, smallest: float) -> Array:
        """`∂f/∂x − ∇²_xθ g · pinv(∇²_θθ g) · ∇_θf` (n,), softmax logits θ, `g(x, θ) = −V^{π_θ}_x(ρ)`.

        Args:
            smallest: eigenvalues of the Hessian below a thousandth of this share of the largest count as zero.
        """
        mdp, logits = self.mdp, np.log(self.policy).reshape(-1)
        log_reference = 0.0 if mdp.reference is None else np.log(mdp.reference)

        def gradient(theta: Any, rewards: Any, kernel: Any) -> Any:
            table = theta.reshape(mdp.rewards.shape)
            weights = np.exp(table - table.real.max(axis=1, keepdims=True))
            policy = weights / weights.sum(axis=1, keepdims=True)
            paid = rewards - mdp.temperature * (np.log(policy) - log_reference)
            matrix = np.eye(mdp.states) - mdp.discount * np.einsum("sa,sat->st", policy, kernel)
            values = np.linalg.solve(matrix, (policy * paid).sum(axis=1))
            visits = np.linalg.solve(matrix.T, mdp.initial)
            advantage = paid + mdp.discount * np.einsum("sat,t->sa", kernel, values) - values[:, None]
            return (visits[:, None] * policy * advantage).reshape(-1)

        step = 1e-30j  # exact to rounding: the function is holomorphic (Squire and Trapp 1998)
        directions = np.eye(logits.size)
        hessian = -np.array([gradient(logits + step * d, mdp.rewards, self.kernel).imag for d in directions]).T / 1e-30
        mixed = np.array(
            [
                -gradient(
                    logits,
                    mdp.rewards + step * self.jacobians.rewards[..., i],
                    self.kernel + step * self.jacobians.kernel[..., i],
                ).imag
                / 1e-30
                for i in range(self.x.size)
            ]
        )
        centred = self.by_policy - (self.policy * self.by_policy).sum(axis=1, keepdims=True)
        by_logits = (self.policy * centred).reshape(-1)
        inverse = np.linalg.pinv(hessian, rcond=1e-3 * smallest, hermitian=True)
        return np.asarray(self.by_x - mixed @ inverse @ by_logits)

    def value_at(self, x: Array) -> float:
        """`φ(x)` (a float), from a new solution."""
        policy = solved(self.problem.lower.model(x)).policy
        return float(self.problem.objective.value_and_gradients(x, policy)[0])

    def differences(self, direction: Array) -> tuple[float, float]:
        """The derivative of φ along a unit direction by central differences of fourth order, and its error.

        The error is estimated by halving the step, and bounded below by φ's own rounding divided by the step.
        """
        rate = 1 + float(np.abs(self.jacobians.rewards @ direction).max()) / self.mdp.temperature
        span = 1 + self.mdp.discount * float(np.ptp(self.values)) / self.mdp.temperature
        rate += float(np.abs(self.jacobians.kernel @ direction).sum(axis=2).max()) * span
        rate /= 1 - self.mdp.discount
        rounding = policy_error(self.mdp, self.values, self.solution.residual) * self.strength
        rounding += 64 * EPSILON * (abs(self.objective) + self.strength)
        quotients = [self._quotient(direction, step) for step in (0.05 / rate, 0.025 / rate)]
        return quotients[1], abs(quotients[0] - quotients[1]) + 2 * rounding * rate / 0.025

    def _quotient(self, direction: Array, step: float) -> float:
        near = self.value_at(self.x + step * direction) - self.value_at(self.x - step * direction)
        far = self.value_at(self.x + 2 * step * direction) - self.value_at(self.x - 2 * step * direction)
        return float((8 * near - far) / (12 * step))


def is_sparse(mdp: SoftMDP) -> bool:
    """Whether P is stored sparse."""
    stored = getattr(mdp.transitions, "probabilities", None)
    return bool(scipy.sparse.issparse(stored))
