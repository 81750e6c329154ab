"""The hyper-gradient from trajectories: score weights on visits, continuations, one pullback.

For `f(x, π) = E[l(d_1, …, d_I; x)]` over trajectories of H steps,

    ∇φ = E[∂l/∂x] + τ⁻¹ E[ l · Σ_i Σ_h (∇Q − ∇V)(s^i_h, a^i_h) ]

and `∇Q − ∇V` at (s, a) is the pullback of `d_(s,a) − d_s` (Yang, Gao and Yuan, AISTATS 2025, section 4).

The batch is divided into blocks, each with a random stream of its own. Each block is a task twice: first its
trajectories are drawn and their losses computed; then, with the baseline of all blocks, they are continued and pulled
back. If another process runs the second task, the trajectories are not sent: they are drawn again from the block's
stream.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import attrs
import numpy as np

from bilevelrl.execution.workers import parallel_map
from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy
from bilevelrl.protocols import Cost, HyperGradient, Policy, Problem, Status
from bilevelrl.randomness import Key, keyed, split
from bilevelrl.sampling.occupancies import first_visit_occupancy, restarted_occupancy
from bilevelrl.sampling.simulators import Simulator, SupportsRestart, Trajectories, draw_groups, joined
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import IncompatibleError

# The most bytes of weighted samples that an estimate keeps; of more samples it keeps only the pullback.
LARGEST_KEPT = 1 << 26


def trajectory_gradient(
    problem: Problem,
    x: Array,
    policy: Array | Policy,
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

    The implicit part is one pullback per block: of a table (S, A), if the lower level accepts one and the follower's
    observations and actions are its indices; otherwise of the weighted visits, up to `2·H·I·T` per group. Samples of
    more than 64 MiB are pulled back and not kept: `occupancy` is then None.

    Args:
        problem: its objective is a `TrajectoryObjective`, or a `StepwiseObjective` for `reward_to_go`; only its
            simulator and reward pullback are used.
        x: (n,).
        policy: the follower's answer: an array (S, A), or a `Policy`.
        rng: the generator.
        groups: G ≥ 1, the number of losses drawn.
        truncation: T, steps of a continuation; None for a geometric random length.
        restarts: True: two new continuations from each visit. False: remainders of other trajectories of the batch,
            which requires observations that recur, as in a table.
        baseline: subtract from each loss the mean of the others: no bias, less variance.
        common_random_numbers: see `restarted_occupancy`.
        blocks: the number of blocks of the batch, whose spread gives the standard error. Each is a task for the current
            workers (see `use_jobs`): for many workers, use more blocks than workers.
        label: the estimator's name in messages.
        reward_to_go: weight a visit with what its own step and the later steps add to the loss, without the earlier
            steps: no bias, less variance (Sutton et al. 2000). There is then one baseline for each step.

    Raises:
        IncompatibleError: if the simulator must be restarted and cannot, or the lower level accepts no form of
            occupancy that can be made of its observations.
    """
    horizon, size = int(problem.objective.horizon), int(problem.objective.trajectories)
    sampling = _Sampling(
        x, policy, horizon, size, groups, truncation, restarts, common_random_numbers, reward_to_go, label
    )
    sampling.form(problem)  # it may raise, so it comes before any draw
    edges = np.linspace(0, groups, min(blocks, groups) + 1).round().astype(int)
    counts = [int(high - low) for low, high in itertools.pairwise(edges)]
    keys = iter(split(rng, 2 * len(counts)))
    cut = [_Block(count, next(keys), next(keys)) for count in counts]
    drawn = parallel_map(_draw, (problem, sampling), cut)
    losses = np.concatenate([part.losses for part in drawn])
    to_go = np.cumsum(losses[:, ::-1], axis=1)[:, ::-1] if reward_to_go else losses[:, None]
    advantages = _leave_one_out(to_go) if baseline and groups > 1 else to_go
    spans = [slice(int(low), int(high)) for low, high in itertools.pairwise(edges)]
    if restarts:
        weighed = [(block, part.batch, advantages[span]) for block, part, span in zip(cut, drawn, spans, strict=True)]
        parts = parallel_map(_continue, (problem, sampling), weighed)
    else:
        parts = _compare_visits(problem, sampling, cut, drawn, advantages, spans)
    samples = sum(part.samples for part in drawn) + sum(part.samples for part in parts)
    shares = np.array(counts) / groups
    directs, implicits = np.array([part.direct for part in drawn]), np.array([part.implicit for part in parts])
    direct = np.asarray(shares @ directs)
    return HyperGradient(
        direct,
        implicits.sum(axis=0),
        float(to_go[:, 0].mean()),
        _total([part.occupancy for part in parts]),
        Cost(samples=samples),
        Status.BUDGET_SPENT if np.isfinite(losses).all() and np.isfinite(direct).all() else Status.NON_FINITE,
        standard_error=_standard_error(directs + implicits / shares[:, None], shares),
        objective_error=_mean_error(to_go[:, 0]),
    )


@attrs.frozen(eq=False, slots=False)
class _Sampling:
    """The data that the blocks of an estimate share, besides the problem; see `trajectory_gradient`."""

    x: Array
    policy: Array | Policy
    horizon: int
    size: int
    groups: int
    truncation: int | None
    restarts: bool
    common_random_numbers: bool
    reward_to_go: bool
    label: str
    _made: dict[Any, Simulator] = attrs.field(init=False, factory=dict, repr=False)

    def simulator(self, problem: Problem) -> Simulator:
        """The simulator at x; raises `IncompatibleError` if it must be restarted and cannot.

        A simulator that sums visits keeps no state between calls, and is made once per process. Any other is made once
        per thread, since its environments may be stepped.
        """
        for key in ("shared", threading.get_ident()):
            if key in self._made:
                return self._made[key]
        made: Simulator = problem.lower.simulator(self.x)
        if self.restarts and not isinstance(made, SupportsRestart):
            raise IncompatibleError(
                f"{self.label} needs a simulator that can be put into any state (SupportsRestart); that of problem "
                f"{problem.name!r} offers only reset and step. Use an estimator without restarts (restarts=False)"
            )
        self._made["shared" if hasattr(made, "signed_visits") else threading.get_ident()] = made
        return made

    def form(self, problem: Problem) -> type:
        """The form of occupancy to make; raises `IncompatibleError` if the lower level accepts no possible form."""
        taken, tabular = problem.lower.occupancy_forms, self.simulator(problem).spec.tabular
        if DenseOccupancy in taken and tabular:
            return DenseOccupancy
        if SampledOccupancy not in taken:
            raise IncompatibleError(
                f"the lower level of problem {problem.name!r} takes its occupancy as a table (S, A), and its simulator "
                f"shows observations or actions that are not its indices. Use rewards that are functions of "
                f"observations (ObservationReward)"
            )
        if not self.restarts:
            raise IncompatibleError(
                f"{self.label} with restarts=False needs a reward that is a table (S, A), whose observations recur; "
                f"that of problem {problem.name!r} is a function of observations. Use restarts=True with a simulator "
                f"that can be restarted (SupportsRestart)"
            )
        return SampledOccupancy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}

    def draw(self, problem: Problem, count: int, rng: np.random.Generator) -> Trajectories:
        """`count` groups of trajectories, with the steps of their continuations if these are parts of them."""
        length = self.horizon if self.restarts or self.truncation is None else self.horizon + self.truncation
        return draw_groups(self.simulator(problem), self.policy, count, self.size, length, rng)


@attrs.frozen
class _Block:
    """A part of the batch: its number of groups, and the keys of its streams, for trajectories and continuations."""

    groups: int
    trajectories: Key
    continuations: Key


@attrs.frozen(eq=False, slots=False)
class _Batch:
    """A block's trajectories, which are not pickled if they can be drawn again.

    Args:
        trajectories: None if another process drew them.
        travels: whether they are sent from one process to another.
    """

    trajectories: Trajectories | None
    travels: bool

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.travels else {**self.__dict__, "trajectories": None}


@attrs.frozen(eq=False)
class _Drawn:
    """A block's trajectories with their losses.

    Args:
        losses: the losses of its groups (B,), or of their steps (B, H).
        direct: (n,) the mean of `∂l/∂x`.
        samples: transitions drawn.
        batch: the trajectories.
    """

    losses: Array
    direct: Array
    samples: int
    batch: _Batch


@attrs.frozen(eq=False)
class _Part:
    """A block's share of the implicit part: signed occupancy, its pullback (n,), and the number of transitions drawn.

    The occupancy is None if it is too large to be kept.
    """

    occupancy: Occupancy | None
    implicit: Array
    samples: int


def _draw(shared: tuple[Problem, _Sampling], block: _Block) -> _Drawn:
    """Draw a block's trajectories and compute their losses."""
    problem, sampling = shared
    rng = keyed(block.trajectories)
    trajectories = sampling.draw(problem, block.groups, rng)
    objective = problem.objective
    judge = objective.step_losses_and_gradient if sampling.reward_to_go else objective.loss_and_gradient
    losses, direct = judge(sampling.x, trajectories.first_steps(sampling.horizon), rng)
    return _Drawn(losses, direct, trajectories.samples, _Batch(trajectories, travels=not sampling.restarts))


def _continue(shared: tuple[Problem, _Sampling], task: tuple[_Block, _Batch, Array]) -> _Part:
    """Continue a block's trajectories from every visit, weighted by their losses."""
    (problem, sampling), (block, batch, advantages) = shared, task
    drawn = batch.trajectories or sampling.draw(problem, block.groups, keyed(block.trajectories))
    simulator: Any = sampling.simulator(problem)
    visited, form = drawn.first_steps(sampling.horizon), sampling.form(problem)
    weights = _per_visit(sampling, simulator.spec.temperature, advantages)
    alive = visited.alive() if form is DenseOccupancy else visited.lived(weights) != 0.0
    measure, samples = restarted_occupancy(
        simulator,
        sampling.policy,
        visited.restart_states[:, :-1][alive],
        visited.actions[alive],
        weights[alive],
        keyed(block.continuations),
        truncation=sampling.truncation,
        common_random_numbers=sampling.common_random_numbers,
        form=form,
    )
    implicit = problem.lower.pullback(sampling.x, measure) if measure.weights.size else np.zeros_like(sampling.x)
    return _Part(_kept(measure, block.groups / sampling.groups), implicit, samples)


def _kept(measure: Occupancy, share: float) -> Occupancy | None:
    """A block's occupancy; None if its samples take more than their share of `LARGEST_KEPT`."""
    if not isinstance(measure, SampledOccupancy):
        return measure
    size = sum(array.nbytes for array in (measure.observations, measure.actions, measure.weights))
    return measure if size <= share * LARGEST_KEPT else None


def _total(parts: list[Occupancy | None]) -> Occupancy | None:
    """The sum of the blocks' occupancies, of one form; None if one was not kept."""
    measures: list[Any] = [part for part in parts if part is not None]
    if len(measures) < len(parts):
        return None
    if isinstance(measures[0], DenseOccupancy):
        total = np.zeros(measures[0].weights.shape)
        for measure in measures:
            total += measure.weights
        return DenseOccupancy(total)
    names = ("observations", "actions", "weights")
    return SampledOccupancy(*(np.concatenate([getattr(part, name) for part in measures]) for name in names))


def _per_visit(sampling: _Sampling, temperature: float, advantages: Array) -> Array:
    """The weight of each visit (N, H) of groups of `size` trajectories."""
    scale = 1.0 / (temperature * sampling.groups)
    weights: Array = np.repeat(advantages * scale, sampling.size, axis=0) * np.ones(sampling.horizon)
    return weights


def _compare_visits(
    problem: Problem,
    sampling: _Sampling,
    cut: list[_Block],
    drawn: list[_Drawn],
    advantages: Array,
    spans: list[slice],
) -> list[_Part]:
    """Without restarts: every block uses the remainders of all blocks' trajectories, so this runs in one process."""
    batch = joined([part.batch.trajectories for part in drawn if part.batch.trajectories is not None])
    spec, parts = sampling.simulator(problem).spec, []
    weights = _per_visit(sampling, spec.temperature, advantages)
    assert sampling.truncation is not None
    for block, span in zip(cut, spans, strict=True):
        own, rows = np.zeros_like(weights), slice(span.start * sampling.size, span.stop * sampling.size)
        own[rows] = weights[rows]
        measure = first_visit_occupancy(
            batch,
            own,
            (spec.states, spec.actions),
            keyed(block.continuations),
            discount=spec.discount,
            truncation=sampling.truncation,
        )
        parts.append(_Part(measure, problem.lower.pullback(sampling.x, measure), 0))
    return parts


def _leave_one_out(losses: Array) -> Array:
    """Each loss minus the mean of the others, by column; the mean is independent of the loss, so there is no bias."""
    return np.asarray((losses - losses.mean(axis=0)) * (losses.shape[0] / (losses.shape[0] - 1)))


def _mean_error(losses: Array) -> float:
    """The standard error of a mean of independent losses; NaN for a single one."""
    return float(losses.std(ddof=1)) / math.sqrt(losses.size) if losses.size > 1 else math.nan


def _standard_error(estimates: Array, shares: Array) -> Array | None:
    """The standard error of the weighted mean of independent blocks; None if there is only one block."""
    blocks = shares.size
    if blocks < 2:
        return None
    mean = shares @ estimates
    spread = (shares**2) @ (estimates - mean) ** 2
    return np.asarray(np.sqrt(spread * blocks / (blocks - 1)))
