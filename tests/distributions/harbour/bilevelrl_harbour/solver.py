"""A lower-level solver: value iteration that is pulled back to where it began."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class AnchoredValueIteration:
    """`v_k = β_k v_0 + (1 − β_k) T v_{k−1}` with `1/β_k = Σ_{i=0}^k γ^{−2i}` (Halpern's iteration).

    Stops at `‖Tv − v‖∞ ≤ (1−γ)·tolerance`, which guarantees `‖v − V*‖∞ ≤ tolerance` since T is a γ-contraction.

    Source: Lee and Ryu, "Accelerating value iteration with anchoring", NeurIPS 2023.

    Args:
        tolerance: the guaranteed accuracy of V, in the units of the reward.
        maximum_sweeps: the most backups, the last one included.
    """

    name: ClassVar[str] = "anchored-value-iteration"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    tolerance: float = attrs.field(default=1e-8, validator=bl.validation.is_real(above=0.0))
    maximum_sweeps: int = attrs.field(default=10_000, validator=bl.validation.is_integer(at_least=1))

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        warm_start: bl.mdp.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.mdp.TabularSolution:
        """`V` with the policy and the residual of one backup from it; anchored at the last answer."""
        model = problem.lower.model(x)
        anchor = np.zeros(model.states) if warm_start is None else warm_start.values
        values, weight = anchor, 1.0
        status = bl.Status.BUDGET_SPENT
        for sweeps in range(1, self.maximum_sweeps + 1):
            backup = bl.mdp.soft_backup(model, values)
            residual = float(np.abs(backup.values - values).max())
            if not math.isfinite(residual):
                status = bl.Status.NON_FINITE
                break
            if residual <= (1.0 - model.discount) * self.tolerance:
                status = bl.Status.CONVERGED
                break
            if sweeps < self.maximum_sweeps:
                # 1/β_k = 1 + 1/(γ²β_{k−1}), written so that it tends to zero where the sum would overflow.
                weight *= model.discount**2
                weight /= 1.0 + weight
                values = weight * anchor + (1.0 - weight) * backup.values
        cost = bl.Cost(backups=sweeps)
        return bl.mdp.TabularSolution(
            model, backup.policy, values, backup.action_values, residual, sweeps, status, cost
        )
