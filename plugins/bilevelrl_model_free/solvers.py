"""The follower's answer learnt from transitions alone: soft Q-learning and a soft actor-critic.

Both draw transitions in rounds of parallel trajectories, learn from each transition once, and answer with the softmax
of an averaged Q,

    π_sa = μ_sa exp(Q̄_sa/τ) / Σ_a' μ_sa' exp(Q̄_sa'/τ),

so that `‖log π − log π*‖∞ ≤ 2‖Q̄ − Q*‖∞/τ`. They never ask for a transition probability.
"""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.define(eq=False)
class _Tables:
    """What a solve works on, all (S, A).

    Args:
        action_values: Q.
        preferences: L, the actor's: `π ∝ μ exp(L/τ)`.
        visits: n, the evidence behind Q.
        averages: the mean of Q since the burn-in.
        averaged: the number of terms of that mean.
    """

    action_values: bl.Array
    preferences: bl.Array
    visits: bl.Array
    averages: bl.Array
    averaged: bl.Array

    def answer(self) -> bl.Array:
        """Q̄: the average, or Q itself where nothing was averaged."""
        chosen: bl.Array = np.where(self.averaged > 0, self.averages, self.action_values)
        return chosen


@attrs.frozen
class _Learner:
    """Draws, learns, averages; a leaf says what the actor is. The leaves document the options."""

    name: ClassVar[str]
    requires: ClassVar[type] = bl.SupportsSampling

    samples: int = attrs.field(default=100_000, validator=bl.is_integer(at_least=1))
    trajectories: int = attrs.field(default=32, validator=bl.is_integer(at_least=1))
    horizon: int = attrs.field(default=32, validator=bl.is_integer(at_least=1))
    exploration: float = attrs.field(default=0.2, validator=bl.is_real(at_least=0.0, at_most=1.0))
    restarts: str = attrs.field(default="initial", validator=bl.is_choice("initial", "everywhere"))
    step_decay: float = attrs.field(default=0.75, validator=bl.is_real(above=0.5, at_most=1.0))
    averaging: float = attrs.field(default=0.5, validator=bl.is_real(at_least=0.0, at_most=1.0))
    memory: float = attrs.field(default=0.5, validator=bl.is_real(at_least=0.0, at_most=1.0))
    growth: float = attrs.field(default=0.0, validator=bl.is_real(at_least=0.0))

    def solve(
        self, problem: bl.BilevelProblem, x: bl.Array, warm_start: Any | None, rng: np.random.Generator
    ) -> bl.SampledSolution:
        """The follower's answer at x, learnt from new transitions only.

        The answer's `carry` holds `visits`, `preferences` and `calls`, what the next call warm-starts from besides
        Q̄. A warm start of another kind lends its action values, if it has any of the right shape.

        Raises:
            IncompatibleError: where `restarts` is "everywhere" and the simulator cannot be put into any state.
        """
        began = time.perf_counter()
        simulator: bl.Simulator = problem.lower.simulator(x)
        spec = simulator.spec
        if self.restarts == "everywhere" and not isinstance(simulator, bl.SupportsRestart):
            raise bl.IncompatibleError(
                f"lower-level solver {self.name!r} with restarts='everywhere' needs a simulator that can be put into "
                f"any state (SupportsRestart); that of problem {problem.name!r} offers only reset and step. "
                f"Use restarts='initial'"
            )
        tables, calls = self._begin(spec, warm_start)
        drawn, residual, status = self._learn(simulator, tables, self._budget(calls), rng)
        answer = tables.answer()
        return bl.SampledSolution(
            simulator,
            _softmax(answer, spec),
            answer,
            residual,
            status,
            bl.Cost(samples=drawn, seconds=time.perf_counter() - began),
            {"visits": tables.visits, "preferences": tables.preferences, "calls": np.array([calls + 1.0])},
        )

    def _begin(self, spec: bl.FollowerSpec, warm_start: Any | None) -> tuple[_Tables, float]:
        """The tables to start from, all of them copies, and the number of calls before this one."""
        shape = (spec.states, spec.actions)
        known = getattr(warm_start, "action_values", None)
        if known is None or known.shape != shape or not np.isfinite(known).all():
            return _Tables(*(np.zeros(shape) for _ in range(5))), 0.0
        carry = getattr(warm_start, "carry", {})
        preferences = np.array(carry.get("preferences", known))
        visits = self.memory * carry.get("visits", np.zeros(shape))
        tables = _Tables(np.array(known), preferences, visits, np.zeros(shape), np.zeros(shape))
        return tables, float(carry.get("calls", [0.0])[0])

    def _budget(self, calls: float) -> int:
        return math.ceil(self.samples * (calls + 1.0) ** self.growth)

    def _learn(
        self, simulator: bl.Simulator, tables: _Tables, budget: int, rng: np.random.Generator
    ) -> tuple[int, float, bl.Status]:
        """Rounds of drawing and learning: transitions drawn, mean |TD| after the burn-in, status."""
        from bilevelrl_model_free.kernels import learn

        spec = simulator.spec
        log_reference = np.zeros_like(tables.visits) if spec.reference is None else np.log(spec.reference)
        count = min(self.trajectories, budget)
        length = math.ceil(budget / count)
        # A mean needs a term: without averaging the residual is still that of the last transition.
        burn_in = min(round((1.0 - self.averaging) * count * length), count * length - 1)
        offset = int(rng.integers(spec.states * spec.actions))
        missed, done = 0.0, 0
        for round_start in range(0, length, self.horizon):
            horizon = min(self.horizon, length - round_start)
            paths = self._draw(simulator, tables, count, horizon, offset + done, rng)
            backup = attrs.evolve(tables, **{k: v.copy() for k, v in attrs.asdict(tables).items()})
            missed += learn(
                paths.observations,
                paths.actions,
                paths.rewards,
                self._followed(tables),
                log_reference,
                spec.discount,
                spec.temperature,
                self.step_decay,
                burn_in - done,
                tables.action_values,
                tables.visits,
                tables.averages,
                tables.averaged,
            )
            done += paths.samples
        return done, missed, bl.Status.BUDGET_SPENT
