"""The evaluation of a policy by its return, which objectives differentiate and certificates bound."""

from __future__ import annotations

import attrs

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.validation.arrays import Array


@attrs.frozen(eq=False)
class JudgedReturn:
    """The evaluation of a policy π in an MDP M̄ without regularisation; its arrays need not be exact.

    Args:
        mdp: M̄.
        values: `V̂` (S,), near `V̄^π`.
        visits: `d̂` (S,), near `d^π`.
        action_values: `Q̂ = r̄ + γ̄P̄V̂` (S, A).
    """

    mdp: SoftMDP
    values: Array
    visits: Array
    action_values: Array
