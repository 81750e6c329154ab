"""HPGD's hyper-gradient: the score of the follower's policy, weighted with the leader's reward-to-go."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_stochastic.guarantees import truncation_tags


@attrs.frozen
class HyperPolicyGradient:
    """The hyper policy gradient of a leader's discounted return, from trajectories of the follower.

        ∇φ = E[ Σ_h ∂_x l_h ] + τ⁻¹ E[ Σ_h (l_h + l_{h+1} + …) · (∇Q* − ∇V*)(s_h, a_h) ]

    with `l_h = −γ̄^h r̄_{s_h a_h}(x)` the term of step h in the leader's loss: `∇ log π* = ∇A*/τ` is the score of the
    follower's optimal policy, and a step is credited only with the terms after it. `∇Q* − ∇V*`, the gradient of the
    follower's advantage, is sampled by two continuations from every visit, one from (s, a) and one from s.

    It needs: an objective that is a sum over the steps of one trajectory (`StepwiseObjective`, such as
    `TrajectoryReturnObjective`; a preference between two trajectories does not); a simulator of the follower that can
    be put into any state (`SupportsRestart`); ∇r; and a follower's policy near π*. It uses no transition model. If P
    depends on x it does not apply, since trajectories contain no information on ∇P.

    For such an objective it is `stoc-sobirl` with the reward-to-go in place of the whole loss: the same expectation
    from fewer terms. Visits count up to the objective's horizon H, and not from one random time as in the paper.

    Source: Thoma et al., "Contextual bilevel reinforcement learning for incentive alignment", NeurIPS 2024
    (arXiv 2406.01575).

    Args:
        batch: trajectories in each call, at least 1.
        truncation: T, steps of a continuation; None for a geometric random length of success probability 1−γ, without
            bias, as in the paper.
        baseline: subtract from each reward-to-go the mean of the others' at that step; no bias, less variance.
        common_random_numbers: the two continuations of a visit share their random numbers; no bias.
        blocks: the number of blocks whose means give the standard error.
    """

    name: ClassVar[str] = "hpgd"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    requires_objective: ClassVar[type] = bl.objectives.StepwiseObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution
    occupancy_forms: ClassVar[tuple[type, ...]] = (bl.occupancy.DenseOccupancy, bl.occupancy.SampledOccupancy)

    batch: int = attrs.field(default=32, validator=bl.validation.is_integer(at_least=1))
    truncation: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))
    baseline: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    common_random_numbers: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    blocks: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=1))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Unbiased with geometric lengths, biased with a truncation."""
        return truncation_tags(self.truncation)

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)` at the solution's policy, with a standard error."""
        return bl.sampling.trajectory_gradient(
            problem,
            x,
            solution.policy,
            rng,
            groups=self.batch,
            truncation=self.truncation,
            restarts=True,
            baseline=self.baseline,
            common_random_numbers=self.common_random_numbers,
            blocks=self.blocks,
            label=f"estimator {self.name!r}",
            reward_to_go=True,
        )
