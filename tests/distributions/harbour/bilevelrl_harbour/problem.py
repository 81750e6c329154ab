"""A problem: tolls that spread the boats of a harbour."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl

STEPS = (-1, 0, 1)
DRIFT = 0.1
"""How often the current takes a boat one berth on, whatever it meant to do."""


@attrs.frozen
class HarbourTolls:
    """A leader pays or charges boats for their berth; boats go round a ring of berths and seek profit.

    Berth 0 is the trader's, where a boat earns 1; the harbour master wants boats at the berth opposite, and pays for
    every toll: `f(x, π) = −return of π at the berth opposite + ½·effort·‖x‖²`, `r_sa(x) = base_s + x_s`, `|x_s| ≤ cap`.

    Args:
        berths: S ≥ 3, states in a ring; the actions are one berth back, stay, one berth on.
        cap: the largest toll or subsidy, in the units of the reward.
        effort: what a toll costs the harbour master.
        discount: γ in [0, 1).
        temperature: τ > 0.
    """

    name: ClassVar[str] = "harbour-tolls"

    berths: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=3))
    cap: float = attrs.field(default=2.0, validator=bl.validation.is_real(above=0.0))
    effort: float = attrs.field(default=0.1, validator=bl.validation.is_real(at_least=0.0))
    discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The harbour of these options."""
        transitions = self._transitions()
        goal = bl.SoftMDP(transitions, self._reward_at(self.berths // 2), self.discount, self.temperature)
        return bl.BilevelProblem(
            lower=bl.ParametricMDP(
                transitions, bl.parametric.StateReward(self._reward_at(0)), self.discount, self.temperature
            ),
            objective=bl.objectives.WeightedSum(
                (
                    (1.0, bl.objectives.ReturnObjective(goal)),
                    (self.effort, bl.objectives.QuadraticObjective(policy_weight=0.0)),
                )
            ),
            feasible_set=bl.Box(-self.cap, self.cap),
        )

    def _transitions(self) -> bl.Array:
        table = np.zeros((self.berths, len(STEPS), self.berths))
        for berth in range(self.berths):
            table[berth, :, (berth + 1) % self.berths] += DRIFT
            for action, step in enumerate(STEPS):
                table[berth, action, (berth + step) % self.berths] += 1.0 - DRIFT
        return table

    def _reward_at(self, berth: int) -> bl.Array:
        rewards = np.zeros((self.berths, len(STEPS)))
        rewards[berth] = 1.0
        return rewards
