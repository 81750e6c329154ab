"""The follower's answer learnt from transitions alone: soft Q-learning and a soft actor-critic.

Both draw transitions in rounds of parallel trajectories, learn from each transition once, and answer with the softmax
of an averaged Q,

    π_sa = μ_sa exp(Q̄_sa/τ) / Σ_a' μ_sa' exp(Q̄_sa'/τ),

so that `‖log π − log π*‖∞ ≤ 2‖Q̄ − Q*‖∞/τ`. They use no transition probabilities. States that the trajectories
do not reach are not learnt: their Q̄ keeps its initial value.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl

# ε in ‖π − π*‖∞ ≤ ε (1 + span V*/τ), met by the default 100,000 samples if ρ reaches every state and γ ≤ 0.9.
TOLERANCE = 0.03
# Far more than any run makes, and few enough to be raised to a power.
MOST_CALLS = 1e15


@attrs.define(eq=False)
class _Tables:
    """The tables of a solve, all (S, A), updated in place.

    Args:
        action_values: Q.
        preferences: L, the actor's: `π ∝ μ exp(L/τ)`.
        visits: n, the number of visits.
        averages: the mean of Q(s, a) over its steps since the burn-in, and of the last answer.
        averaged: the number of steps in that mean.
    """

    action_values: bl.Array
    preferences: bl.Array
    visits: bl.Array
    averages: bl.Array
    averaged: bl.Array

    def answer(self) -> bl.Array:
        """Q̄: the average, or Q itself if there is none."""
        chosen: bl.Array = np.where(self.averaged > 0, self.averages, self.action_values)
        return chosen


@attrs.frozen
class _Learner(abc.ABC):
    """Draws, learns, averages; a subclass defines the actor, and documents the options."""

    name: ClassVar[str]
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    produces: ClassVar[type] = bl.sampling.SampledSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False, tolerance=TOLERANCE)

    samples: int = attrs.field(default=100_000, validator=bl.validation.is_integer(at_least=1))
    trajectories: int = attrs.field(default=32, validator=bl.validation.is_integer(at_least=1))
    horizon: int = attrs.field(default=32, validator=bl.validation.is_integer(at_least=1))
    exploration: float = attrs.field(default=0.3, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    restarts: str = attrs.field(default="initial", validator=bl.validation.is_choice("initial", "everywhere"))
    step_decay: float = attrs.field(default=0.75, validator=bl.validation.is_real(above=0.5, at_most=1.0))
    averaging: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0, at_most=1.0))
    memory: float = attrs.field(default=0.5, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    growth: float = attrs.field(default=0.0, validator=bl.validation.is_real(at_least=0.0))

    @abc.abstractmethod
    def _improved(self, preferences: bl.Array, action_values: bl.Array) -> bl.Array:
        """L after a round that ended with these Q."""

    def solve(
        self, problem: bl.Problem, x: bl.Array, warm_start: Any | None, rng: np.random.Generator
    ) -> bl.sampling.SampledSolution:
        """The follower's solution at x, from transitions drawn at x.

        A warm start of any solver gives its action values, and its `carry` their counts: `visits` and `averaged`
        (S, A), the numbers of steps in Q and Q̄, and `calls`, the number of solves so far.

        Raises:
            IncompatibleError: if `restarts` is "everywhere" and the simulator cannot be put into any state.
        """
        simulator: bl.sampling.Simulator = problem.lower.simulator(x)
        if self.restarts == "everywhere" and not isinstance(simulator, bl.sampling.SupportsRestart):
            raise bl.IncompatibleError(
                f"lower-level solver {self.name!r} with restarts='everywhere' needs a simulator that can be put into "
                f"any state (SupportsRestart); that of problem {problem.name!r} offers only reset and step. "
                f"Use restarts='initial'"
            )
        tables, calls = self._begin(simulator.spec, warm_start)
        budget = math.ceil(self.samples * (calls + 1.0) ** self.growth)
        with np.errstate(over="ignore", invalid="ignore"):
            drawn, residual, status = self._learn(simulator, tables, budget, rng)
            answer = tables.answer()
            policy = _softmax(answer, simulator.spec)
        cost = bl.Cost(samples=drawn)
        carry = {"visits": tables.visits, "averaged": tables.averaged, "calls": np.array([calls + 1.0])}
        return bl.sampling.SampledSolution(simulator, policy, answer, residual, status, cost, carry)

    def restore(
        self,
        problem: bl.Problem,
        x: bl.Array,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        figures: Mapping[str, Any],
    ) -> bl.sampling.SampledSolution:
        """The solution, with the evidence in its carry checked: compiled loops divide by it and take powers of it."""
        solution = bl.sampling.SampledSolution.restored(problem, x, arrays, figures)
        for name in ("visits", "averaged"):
            bl.validation.saved_array(solution.carry, name, solution.policy.shape, at_least=0.0)
        bl.validation.saved_array(solution.carry, "calls", (1,), at_least=1.0, at_most=MOST_CALLS)
        return solution

    def _begin(self, spec: bl.sampling.FollowerSpec, warm_start: Any | None) -> tuple[_Tables, float]:
        """New tables to start from, and the number of earlier calls."""
        shape = (spec.states, spec.actions)
        known = getattr(warm_start, "action_values", None)
        if known is None or known.shape != shape or not np.isfinite(known).all():
            known, warm_start = np.zeros(shape), None
        carry: Mapping[str, bl.Array] = getattr(warm_start, "carry", {})
        action_values = np.array(known)
        visits, averaged = (self.memory * carry.get(name, np.zeros(shape)) for name in ("visits", "averaged"))
        preferences = self._improved(action_values, action_values)
        tables = _Tables(action_values, preferences, visits, action_values.copy(), averaged)
        return tables, float(carry["calls"][0]) if "calls" in carry else 0.0

    def _learn(
        self, simulator: bl.sampling.Simulator, tables: _Tables, budget: int, rng: np.random.Generator
    ) -> tuple[int, float, bl.Status]:
        """Rounds of drawing and learning: the transitions drawn, the mean |TD| after the burn-in, the status."""
        count = min(self.trajectories, budget)
        length = math.ceil(budget / count)
        # The residual needs one transition at least.
        burn_in = min(round((1.0 - self.averaging) * count * length), count * length - 1)
        first_pair = int(rng.integers(tables.visits.size))
        done, drawn, missed, counted = 0, 0, 0.0, 0
        while done < count * length:
            steps = min(self.horizon, length - done // count)
            paths = self._draw(simulator, tables, count, steps, first_pair + done, rng)
            drawn += paths.samples
            if not np.isfinite(paths.rewards).all():
                return drawn, math.nan, bl.Status.NON_FINITE
            errors, number = self._learn_from(paths, simulator.spec, tables, burn_in - done)
            missed, counted = missed + errors, counted + number
            # What follows the end of an episode counts here, or a world whose episodes are short would take all day.
            done += count * steps
            if not np.isfinite(tables.action_values).all():
                return drawn, math.nan, bl.Status.NON_FINITE
            tables.preferences = self._improved(tables.preferences, tables.action_values)
        return drawn, missed / max(counted, 1), bl.Status.BUDGET_SPENT

    def _draw(
        self,
        simulator: Any,
        tables: _Tables,
        count: int,
        steps: int,
        pair: int,
        rng: np.random.Generator,
    ) -> bl.sampling.Trajectories:
        """`count · steps` transitions, of trajectories, or of all (s, a) in turn from a given one on."""
        policy = _softmax(tables.preferences, simulator.spec)
        actions = policy.shape[1]
        if self.restarts == "initial":
            behaviour = (1.0 - self.exploration) * policy + self.exploration / actions
            trajectories: bl.sampling.Trajectories = simulator.rollout(behaviour, count, steps, rng)
            return trajectories
        pairs = (pair + np.arange(count * steps)) % policy.size
        transitions: bl.sampling.Trajectories = simulator.rollout_from(
            pairs // actions, pairs % actions, policy, 1, rng
        )
        return transitions

    def _learn_from(
        self, paths: bl.sampling.Trajectories, spec: bl.sampling.FollowerSpec, tables: _Tables, burn_in: int
    ) -> tuple[float, int]:
        """See `kernels.learn`."""
        from bilevelrl_model_free.kernels import learn

        alive = paths.alive()
        missed: tuple[float, int] = learn(
            paths.observations,
            paths.actions,
            paths.rewards,
            alive,
            alive if paths.terminated is None else alive & ~paths.terminated,
            tables.preferences,
            _log_reference(spec),
            spec.discount,
            spec.temperature,
            self.step_decay,
            burn_in,
            tables.action_values,
            tables.visits,
            tables.averages,
            tables.averaged,
        )
        return missed


def _log_reference(spec: bl.sampling.FollowerSpec) -> bl.Array:
    """log μ (S, A), or zeros if μ = 1."""
    if spec.reference is None:
        return np.zeros((spec.states, spec.actions))
    logarithms: bl.Array = np.log(spec.reference)
    return logarithms


def _softmax(preferences: bl.Array, spec: bl.sampling.FollowerSpec) -> bl.Array:
    """`π ∝ μ exp(L/τ)` (S, A)."""
    logits = preferences / spec.temperature + _log_reference(spec)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    policy: bl.Array = weights / weights.sum(axis=1, keepdims=True)
    return policy


@attrs.frozen
class SoftQLearning(_Learner):
    """Soft Q-learning: one step towards the soft Bellman target for each transition, then an average of the last Q.

        Q(s,a) ← Q(s,a) + α_n (r + γ τ log Σ_a' μ_s'a' exp(Q(s',a')/τ) − Q(s,a)),    α_n = (1 + (1−γ) n)^(−ω)

    with n the visits to (s, a) so far. ω = 1 is the rescaled linear step of Wainwright (2019); smaller ω forgets the
    start sooner, and the average reduces the noise: the error falls as the square root of the samples,
    asymptotically with the smallest variance any regular method has (Li et al. 2023, for restarts everywhere).

    From one outer iteration to the next, Q and Q̄ start at the last Q̄, and a share `memory` of the evidence is kept:
    of the visits n and of the weight of the last Q̄ in the new one. 1 is best once x has stopped: all calls count as
    one long run. But while x moves, Q̄ lags behind by about half of them. 0 keeps only the starting values. With m in
    between and calls of equal size Q̄ lags m/(1−m) calls behind, and its noise falls by √((1−m)/(1+m)): for the default
    one call, and a factor of 0.58.

    Sources: Wainwright 2019, "Stochastic approximation with cone-contractive operators" (arXiv 1905.06265); Li, Yang,
    Liang, Zhang and Jordan, AISTATS 2023, "A statistical analysis of Polyak-Ruppert averaged Q-learning".

    Args:
        samples: transitions in the first call, rounded up to a multiple of `trajectories`.
        trajectories: the number drawn in parallel, or fewer if `samples` is less.
        horizon: steps of a trajectory, after which all restart; also of a round, between two updates of the
            behaviour policy. It should be as long as the follower's longest path.
        exploration: the probability of a uniform action in the behaviour policy, which is softmax(Q) otherwise.
        restarts: "initial" draws trajectories from the initial distribution, and learns only what they reach.
            "everywhere" draws single transitions from all (s, a) in turn, so that rare pairs are learnt as
            well as others. It needs a simulator that can be put into any state; exploration then has no effect, and
            `trajectories · horizon` is only the size of a round.
        step_decay: ω in (0.5, 1].
        averaging: the last share of the transitions, in (0, 1], over which Q(s, a) is averaged at each of its steps.
        memory: the share of the evidence that a warm start keeps, in [0, 1].
        growth: the k-th warm-started call (k = 0, 1, …) draws `samples · (k+1)^growth`, for accuracies ε_k that must
            fall: ε_k falls as `(k+1)^(−growth/2)`.
    """

    name: ClassVar[str] = "soft-q-learning"

    def _improved(self, preferences: bl.Array, action_values: bl.Array) -> bl.Array:
        """The array of Q itself: also within a round the target is the soft maximum of the current Q."""
        return action_values


@attrs.frozen
class SoftActorCritic(_Learner):
    """A tabular soft actor-critic: expected soft TD for the critic, natural policy gradient for the actor.

        critic, a transition:  Q(s,a) ← Q(s,a) + α_n (r + γ Σ_a' π(a'|s')(Q(s',a') − τ log π(a'|s')/μ(a'|s')) − Q(s,a))
        actor, a round:        π ∝ π^(1−δ) (μ exp(Q/τ))^δ

    The actor's step is natural policy gradient with entropy regularisation, at the step size η = δ(1−γ)/τ of Cen et
    al. (2022), there with the exact Q^π; δ = 1 is soft policy iteration. With the exact Q^π the error falls by
    1 − δ(1−γ) with each step. In logits, `π ∝ μ exp(L/τ)`, it is `L ← (1−δ) L + δ Q`. The answer is one full step from
    the averaged critic, softmax(Q̄), and the next call's actor starts there.

    Steps α_n, averaging and warm starts are those of `SoftQLearning`. A cold start takes more samples,
    since the target depends on the actor; afterwards the two are equally accurate.

    Source: Cen, Cheng, Chen, Wei and Chi, Operations Research 2022, "Fast global convergence of natural policy
    gradient methods with entropy regularization" (arXiv 2007.06558).

    Args:
        samples: transitions in the first call, rounded up to a multiple of `trajectories`.
        trajectories: the number drawn in parallel.
        horizon: steps of a trajectory, and of a round, after which the actor moves.
        exploration: the probability of a uniform action in the behaviour policy, which is the actor otherwise.
        restarts: "initial": trajectories from the initial distribution; "everywhere": single transitions from all
            (s, a) in turn, which needs a simulator that can be put into any state.
        step_decay: ω in (0.5, 1], of the critic.
        averaging: the last share of the transitions, in (0, 1], over which the critic is averaged.
        memory: the share of the evidence that a warm start keeps, in [0, 1].
        growth: the k-th warm-started call (k = 0, 1, …) draws `samples · (k+1)^growth`.
        actor_step: δ in (0, 1].
    """

    name: ClassVar[str] = "soft-actor-critic"

    actor_step: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0, at_most=1.0))

    def _improved(self, preferences: bl.Array, action_values: bl.Array) -> bl.Array:
        """`(1−δ) L + δ Q`, a new array."""
        moved: bl.Array = preferences + self.actor_step * (action_values - preferences)
        return moved
