"""The follower's answer in tables, and the lower level that has a transition model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import Occupancy
from bilevelrl.validation.arrays import Array

if TYPE_CHECKING:
    pass

from bilevelrl.protocols import Cost, Status


@attrs.frozen(eq=False, slots=False)
class TabularSolution:
    """The follower's answer in tables: `V`, and the policy and action values of one backup from it.

    Args:
        model: the `SoftMDP` that was solved; a handle, never saved, rebuilt from x.
        policy: `π(V)` (S, A).
        values: `V` (S,).
        action_values: `q(V)` (S, A).
        residual: `‖T V − V‖∞`; bounds the error by `‖V − V*‖∞ ≤ residual/(1−γ)`.
        iterations: sweeps or Newton steps.
        status: how the solver ended.
        cost: what it cost.
        linearization: solves with `I − γP^π` and its transpose; may hold a factorisation that the solver paid for.
            A handle, never saved; built on demand where the solver gives none.
    """

    model: SoftMDP
    policy: Array
    values: Array
    action_values: Array
    residual: float
    iterations: int
    status: Status
    cost: Cost
    linearization: Linearization = attrs.field(
        default=attrs.Factory(
            lambda self: Linearization(self.model.transitions, self.model.discount, self.policy),
            takes_self=True,
        )
    )

    @property
    def error_bound(self) -> float:
        """`‖V − V*‖∞ ≤ ‖T V − V‖∞/(1−γ)`, in the units of the reward."""
        return self.residual / (1.0 - self.model.discount)


@runtime_checkable
class SupportsModel(Protocol):
    """A lower level whose MDP can be written down at any x."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def model(self, x: Array) -> SoftMDP:
        """`M_τ(x)`."""

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄ + J_Pᵀ P̄ + J_ρᵀ ρ̄` at x: one vector-Jacobian product, never a Jacobian."""
