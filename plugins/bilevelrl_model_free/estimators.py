"""SoBiRL's hyper-gradient: from the follower's trajectories alone."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class SoBiRL:
    """The model-free hyper-gradient of an expected trajectory loss.

        ∇φ ≈ E[∂l/∂x] + τ⁻¹ E[ l · Σ_i Σ_h (∇Q^π − ∇V^π)(s^i_h, a^i_h) ]

    The first part exploits (it fits the loss on the follower's trajectories), the second explores (it moves the
    follower to trajectories with a low loss); they are `direct` and `implicit` in every result. `∇Q − ∇V` is sampled as
    discounted visits of continuations, summed into one signed occupancy and pulled back once.

    With restarts two fresh continuations start from every visit, one from (s, a), one from s: the only bias is their
    truncation, at most `2‖c‖₁ γ^T/(1−γ) · max‖∇r‖`. Without restarts it uses the remainders of other trajectories (see
    `sampling.first_visit_occupancy`): visits that no other trajectory shares are left out, a second bias, which
    shrinks with more groups. The follower's own inaccuracy adds an error of O(ε) for a policy
    with `‖log π − log π*‖∞ ≤ ε`. The reported standard error includes sampling only.

    Source: Yang, Gao and Yuan, AISTATS 2025, section 4 and algorithm 2 (arXiv 2405.19697).

    Args:
        groups: G, groups of I trajectories in each call.
        truncation: T, steps of a continuation. 1 is the authors' Atari variant, `∇r(s,a) − E_a'[∇r(s,a')]`.
        restarts: whether the simulator may be put into any state that was visited (`SupportsRestart`). False needs
            rewards in a table (S, A).
        baseline: subtract from each loss the mean of the others; no bias, less variance.
        blocks: the number of blocks whose means give the standard error.
    """

    name: ClassVar[str] = "sobirl"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    requires_objective: ClassVar[type] = bl.objectives.TrajectoryObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution
    occupancy_forms: ClassVar[tuple[type, ...]] = (bl.occupancy.DenseOccupancy, bl.occupancy.SampledOccupancy)

    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))
    truncation: int = attrs.field(default=50, validator=bl.validation.is_integer(at_least=1))
    restarts: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    baseline: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    blocks: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=1))

    @property
    def tags(self) -> bl.Tags:
        """Biased by its truncation."""
        return bl.Tags("biased", deterministic=False, bias_bound=self._bias_bound)

    def _bias_bound(self, discount: float) -> float:
        """`γ^T` of an implicit part's largest size; infinite without restarts, where there is no bound."""
        return discount**self.truncation if self.restarts else math.inf

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
            groups=self.groups,
            truncation=self.truncation,
            restarts=self.restarts,
            baseline=self.baseline,
            common_random_numbers=False,
            blocks=self.blocks,
            label=f"estimator {self.name!r}",
        )
