"""The exact implicit part of the hyper-gradient: one adjoint solve, which gives a signed occupancy measure."""

from __future__ import annotations

import attrs
import numpy as np

from bilevelrl.mdp.bellman import adjoint_occupancy, adjoint_right_hand_side, policy_cotangent
from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.validation.arrays import Array


@attrs.frozen(eq=False)
class Adjoint:
    """The solved adjoint equation `(I − γP^π)ᵀλ = b`.

    Args:
        occupancy: `r̄ = c + π ⊙ λ` with its continuation γV.
        adjoint: λ (S,).
        right_hand_side: `b = γPᵀc − Σ_a c` (S,).
        iterated: the number of products with the chain in an iterative solve; 0 for a factorisation.
    """

    occupancy: DenseOccupancy
    adjoint: Array
    right_hand_side: Array
    iterated: int


def solve_adjoint(
    model: SoftMDP, policy: Array, values: Array, system: Linearization, policy_gradient: Array, *, tolerance: float
) -> Adjoint | None:
    """The signed occupancy whose pullback is the implicit part `∇φ(x) − ∂f/∂x`; None if `∂f/∂π` is not finite.

        c              = π ⊙ ∂f/∂π / τ
        (I − γP^π)ᵀ λ  = γPᵀc − Σ_a c
        r̄              = c + π ⊙ λ

    Adding a constant per state to ∂f/∂π does not change the result. The constants that make Σ_a c vanish lose the
    fewest digits. Source: Yang, Gao and Yuan, AISTATS 2025, section 3 (arXiv 2405.19697).

    Args:
        model: the follower's MDP.
        policy: π (S, A).
        values: V (S,).
        system: `I − γP^π`.
        policy_gradient: `∂f/∂π` (S, A).
        tolerance: relative, in the Euclidean norm, if the system is solved by iteration.
    """
    centred = policy_gradient - (policy * policy_gradient).sum(axis=1, keepdims=True)
    cotangent = policy_cotangent(model, policy, centred)
    right_hand_side = adjoint_right_hand_side(model, cotangent)
    if not np.isfinite(right_hand_side).all():
        return None
    before = system.iterated
    adjoint = system.solve_transpose(right_hand_side, tolerance=tolerance)
    occupancy = adjoint_occupancy(model, policy, values, cotangent, adjoint)
    return Adjoint(occupancy, adjoint, right_hand_side, system.iterated - before)
