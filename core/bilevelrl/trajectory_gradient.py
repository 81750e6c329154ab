"""The hyper-gradient from trajectories: score weights on visits, continuations, one pullback.

For `f(x, π) = E[l(d_1, …, d_I; x)]` over trajectories of H steps,

    ∇φ = E[∂l/∂x] + τ⁻¹ E[ l · Σ_i Σ_h (∇Q − ∇V)(s^i_h, a^i_h) ]

and `∇Q − ∇V` at (s, a) is the pullback of `d_(s,a) − d_s` (Yang, Gao and Yuan, AISTATS 2025, section 4).
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.protocols import Cost, HyperGradient, Status
from bilevelrl.sampled_occupancy import first_visit_occupancy, restarted_occupancy
from bilevelrl.simulators import Simulator, SupportsRestart, Trajectories, draw_groups
from bilevelrl.validation import Array, IncompatibleError


def trajectory_gradient(
    problem: BilevelProblem,
    x: Array,
    policy: Array,
    rng: np.random.Generator,
    *,
    groups: int,
    truncation: int | None,
    restarts: bool,
    baseline: bool,
    common_random_numbers: bool,
    blocks: int,
    label: str,
    reward_to_go: bool = False,
) -> HyperGradient:
    """An estimate of `∇φ(x)` from `groups` groups of I trajectories, with a standard error.

    Args:
        problem: its objective is a `TrajectoryObjective`, a `StepwiseObjective` for `reward_to_go`; only its simulator
            and reward pullback are used.
        x: (n,).
        policy: (S, A) the follower's answer.
        rng: the generator.
        groups: G ≥ 1, losses drawn.
        truncation: T, steps of a continuation; None for a geometric random length.
        restarts: True: two fresh continuations from each visit. False: remainders of other trajectories of the batch.
        baseline: subtract from each loss the mean of the others: no bias, less variance.
        common_random_numbers: see `restarted_occupancy`.
        blocks: the batch is cut into this many blocks, whose spread gives the standard error.
        label: how messages call the estimator.
        reward_to_go: weigh a visit with what its own step and the later ones add to the loss, and not with what came
            before: no bias, less variance (Sutton et al. 2000). The baseline is then one for each step.
    """
    began = time.perf_counter()
    simulator: Simulator = problem.lower.simulator(x)
    if restarts and not isinstance(simulator, SupportsRestart):
        raise IncompatibleError(
            f"{label} needs a simulator that can be put into any state (SupportsRestart); that of problem "
            f"{problem.name!r} offers only reset and step. Use 'sobirl' with restarts=False"
        )
    objective = problem.objective
    horizon, size = int(objective.horizon), int(objective.trajectories)
    length = horizon if restarts or truncation is None else horizon + truncation
    batch = draw_groups(simulator, policy, groups, size, length, rng)
    judged = batch.first_steps(horizon)
    edges = np.linspace(0, groups, min(blocks, groups) + 1).round().astype(int)
    spans = [slice(int(low), int(high)) for low, high in itertools.pairwise(edges)]
    judge = objective.step_losses_and_gradient if reward_to_go else objective.loss_and_gradient
    losses, directs = _losses(judge, x, judged, spans, size, rng)
    to_go = np.cumsum(losses[:, ::-1], axis=1)[:, ::-1] if reward_to_go else losses[:, None]
    advantages = _leave_one_out(to_go) if baseline and groups > 1 else to_go
    scale = 1.0 / (simulator.spec.temperature * groups)
    per_visit = np.repeat(advantages * scale, size, axis=0) * np.ones(horizon)

    implicit_parts, total, drawn = [], np.zeros(policy.shape), 0
    for span in spans:
        rows = slice(span.start * size, span.stop * size)
        table, samples = _signed_occupancy(
            simulator, policy, batch, per_visit, rows, rng, truncation, restarts, common_random_numbers
        )
        total += table
        drawn += samples
        implicit_parts.append(problem.lower.pullback(x, DenseOccupancy(table)))
    shares = np.array([(span.stop - span.start) / groups for span in spans])
    direct = np.asarray(shares @ np.array(directs))
    implicit = np.sum(implicit_parts, axis=0)
    estimates = np.array(directs) + np.array(implicit_parts) / shares[:, None]
    return HyperGradient(
        direct,
        implicit,
        float(to_go[:, 0].mean()),
        DenseOccupancy(total),
        Cost(samples=batch.samples + drawn, seconds=time.perf_counter() - began),
        Status.BUDGET_SPENT if np.isfinite(losses).all() and np.isfinite(direct).all() else Status.NON_FINITE,
        standard_error=_standard_error(estimates, shares),
    )


def _losses(
    judge: Any, x: Array, judged: Trajectories, spans: list[slice], size: int, rng: np.random.Generator
) -> tuple[Array, list[Array]]:
    losses, directs = [], []
    for span in spans:
        part = judged.part(slice(span.start * size, span.stop * size))
        block_losses, direct = judge(x, part, rng)
        losses.append(block_losses)
        directs.append(direct)
    return np.concatenate(losses), directs


def _leave_one_out(losses: Array) -> Array:
    """Each loss minus the mean of the others, in each column: independent of its own trajectories, so without bias."""
    return np.asarray((losses - losses.mean(axis=0)) * (losses.shape[0] / (losses.shape[0] - 1)))


def _signed_occupancy(
    simulator: Any,
    policy: Array,
    batch: Trajectories,
    weights: Array,
    rows: slice,
    rng: np.random.Generator,
    truncation: int | None,
    restarts: bool,
    common_random_numbers: bool,
) -> tuple[Array, int]:
    if restarts:
        horizon = weights.shape[1]
        visited = batch.observations[rows, :horizon].reshape(-1)
        taken = batch.actions[rows, :horizon].reshape(-1)
        measure, drawn = restarted_occupancy(
            simulator,
            policy,
            visited,
            taken,
            weights[rows].reshape(-1),
            rng,
            truncation=truncation,
            common_random_numbers=common_random_numbers,
        )
        return measure.weights, drawn
    assert truncation is not None
    own = np.zeros_like(weights)
    own[rows] = weights[rows]
    measure = first_visit_occupancy(batch, own, policy, rng, discount=simulator.spec.discount, truncation=truncation)
    return measure.weights, 0


def _standard_error(estimates: Array, shares: Array) -> Array | None:
    """Of the weighted mean of independent blocks; None where there is one block only."""
    blocks = shares.size
    if blocks < 2:
        return None
    mean = shares @ estimates
    spread = (shares**2) @ (estimates - mean) ** 2
    return np.asarray(np.sqrt(spread * blocks / (blocks - 1)))
