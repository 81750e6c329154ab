"""A return of finitely many steps: one objective, computed from a model or sampled from trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import attrs
import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.objectives.judged_returns import JudgedReturn
from bilevelrl.objectives.trajectory_objectives import TrajectoryReturnObjective
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array, check_shape
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import is_flag, is_integer
from bilevelrl.validation.memory import check_fits


@attrs.frozen(eq=False, slots=False)
class FiniteHorizonReturnObjective:
    """Minus the true return of H steps: `f(π) = −E[Σ_{h<H} γ̄^h r̄_{s_h a_h}]` in an MDP M̄, s_0 ~ ρ̄.

    It is a `PolicyObjective` by two recursions over the horizon, and a `StepwiseObjective` of single trajectories, with
    the same f, so that exact and sampled algorithms can be compared on it. Sampled trajectories are the follower's own,
    so the follower must have M̄'s transitions and initial distribution; only the rewards may differ.

        V_H = 0,  Q_h = r̄ + γ̄ P̄ V_{h+1},  V_h = Σ_a π Q_h,        d_0 = ρ̄,  d_{h+1} = P̄_πᵀ d_h
        ∂f/∂π_sa = −Σ_h γ̄^h d_h(s) Q_h(s, a)                        (policy gradient; Sutton et al. 2000)

    Args:
        true_mdp: M̄, a `SoftMDP`. Its temperature and reference measure are not used, and it does not depend on x.
        horizon: H ≥ 1.
        baseline: subtract `V_h(s)` from `Q_h(s, a)`; see `ReturnObjective`.
    """

    trajectories: ClassVar[int] = 1

    true_mdp: SoftMDP = attrs.field()
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    baseline: bool = attrs.field(default=False, validator=is_flag())

    @true_mdp.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, SoftMDP):
            raise InputError("FiniteHorizonReturnObjective.true_mdp", kind_words(value), "a SoftMDP")

    def __attrs_post_init__(self) -> None:
        # The action values of every step are kept for the backward pass.
        check_fits("the steps of FiniteHorizonReturnObjective", (self.horizon, *self.true_mdp.rewards.shape))

    @cached_property
    def _sampled(self) -> TrajectoryReturnObjective:
        return TrajectoryReturnObjective(self.true_mdp.rewards, self.horizon, self.true_mdp.discount)

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, zero, `∂f/∂π`; 2H passes over P̄."""
        check_shape("the policy judged by FiniteHorizonReturnObjective", policy, self.true_mdp.rewards.shape)
        stages = list(self.stages(policy))
        by_policy = np.zeros_like(policy)
        for stage in stages:
            ahead = stage.action_values - stage.values[:, None] if self.baseline else stage.action_values
            by_policy -= stage.visits[:, None] * ahead
        return -float(self.true_mdp.initial @ stages[0].values), np.zeros_like(x), by_policy

    def stages(self, policy: Array) -> Iterator[JudgedReturn]:
        """`V_h`, `Q_h` and `d_h` for h = 0, …, H−1."""
        mdp, after, tables = self.true_mdp, np.zeros(self.true_mdp.states), []
        for _ in range(self.horizon):
            ahead = mdp.rewards + mdp.transitions.expectation(mdp.discount * after)
            after = (policy * ahead).sum(axis=1)
            tables.append((after, ahead))
        present = mdp.initial
        for values, ahead in reversed(tables):
            yield JudgedReturn(mdp, values, present, ahead)
            present = mdp.discount * mdp.transitions.transpose_expectation(present[:, None] * policy)

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """Minus the return of each trajectory, and zero."""
        return self._sampled.loss_and_gradient(x, trajectories, rng)

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """The loss of each step, and zero."""
        return self._sampled.step_losses_and_gradient(x, trajectories, rng)
