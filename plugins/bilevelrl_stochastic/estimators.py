"""Stoc-SoBiRL's hyper-gradient: a batch of trajectories with truncated or randomised continuations."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_stochastic.guarantees import truncation_tags


@attrs.frozen
class StocSoBiRL:
    """The stochastic hyper-gradient: B losses, and two continuations from every visited (s, a) and s.

    It has the same expectation as `sobirl`, and is meant for small batches. Truncated at T the bias is at most
    `2‖c‖₁ γ^T/(1−γ) · max‖∇r‖`; with a geometric random length of success probability 1−γ there is none, at an expected
    1/(1−γ) steps. Batch and truncation may grow with the number k of calls so far:
    `B_k = B·(k+1)^batch_growth`, and `T_k = T + truncation_growth·log(k+1)/log(1/γ)`, so that the bias falls as
    `(k+1)^−truncation_growth`.

    Source: Yang, Gao and Yuan, AISTATS 2025, section 5 and algorithm 3 (arXiv 2405.19697).

    Args:
        batch: B, groups of I trajectories in the first call.
        truncation: T, steps of a continuation in the first call; None for the geometric length.
        batch_growth: the exponent of the batch's growth, at least 0.
        truncation_growth: the exponent with which the bias falls, at least 0.
        baseline: subtract from each loss the mean of the others; no bias, less variance.
        common_random_numbers: the two continuations of a visit share their random numbers; no bias, and less variance
            if they soon meet (noisy dynamics), but the same or more if the dynamics drive them apart.
        blocks: the number of blocks whose means give the standard error.
    """

    name: ClassVar[str] = "stoc-sobirl"
    requires: ClassVar[type] = bl.sampling.SupportsSampling
    requires_objective: ClassVar[type] = bl.objectives.TrajectoryObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution
    occupancy_forms: ClassVar[tuple[type, ...]] = (bl.occupancy.DenseOccupancy, bl.occupancy.SampledOccupancy)

    batch: int = attrs.field(default=16, validator=bl.validation.is_integer(at_least=1))
    truncation: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))
    batch_growth: float = attrs.field(default=0.0, validator=bl.validation.is_real(at_least=0.0))
    truncation_growth: float = attrs.field(default=0.0, validator=bl.validation.is_real(at_least=0.0))
    baseline: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    common_random_numbers: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    blocks: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=1))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Unbiased with geometric lengths, biased with a truncation; the bound is that of the first call."""
        return truncation_tags(self.truncation)

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)` at the solution's policy, with a standard error. `carry["calls"]` counts k."""
        calls = 0
        if previous is not None:
            calls = int(bl.validation.saved_array(previous.carry, "calls", (), np.int64, at_least=0))
        truncation = self.truncation
        if truncation is not None and self.truncation_growth:
            truncation += _added_steps(self.truncation_growth, calls, problem.lower.simulator(x).spec.discount)
        hyper = bl.sampling.trajectory_gradient(
            problem,
            x,
            solution.policy,
            rng,
            groups=math.ceil(self.batch * (calls + 1) ** self.batch_growth),
            truncation=truncation,
            restarts=True,
            baseline=self.baseline,
            common_random_numbers=self.common_random_numbers,
            blocks=self.blocks,
            label=f"estimator {self.name!r}",
        )
        return attrs.evolve(hyper, carry={"calls": np.array(calls + 1, np.int64)})


def _added_steps(growth: float, calls: int, discount: float) -> int:
    """Additional steps that reduce γ^T by the factor `(calls + 1)^growth`; none if γ = 0."""
    return math.ceil(growth * math.log(calls + 1) / -math.log(discount)) if discount else 0
