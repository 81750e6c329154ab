"""Contract design: a principal pays for outcomes, since it cannot observe the agent's effort.

An agent runs a machine. Each period it chooses a hidden effort at a cost. Effort and the machine's condition determine
the probability of each outcome, and effort determines how the machine wears. The principal observes condition and
outcome, and pays x ≥ 0 for them: the agent has no wealth to lose (limited liability). Payments enter the agent's
reward and the principal's profit linearly, with opposite signs.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl

MOST_OUTCOMES = 1000


def _is_within_floats(instance: Any, attribute: Any, value: int) -> None:
    """The largest Y for which the binomial coefficients, about 2^Y, are finite floats."""
    if value > MOST_OUTCOMES:
        raise bl.InputError("outcomes", f"{value}", f"an integer of at most {MOST_OUTCOMES}")


@attrs.frozen
class ContractDesign:
    """Pay an agent for outcomes so that it runs a machine well.

    With condition s, effort a (of degree e_a = a/(A−1)) and outcome y (worth v_y = value·y/(Y−1)),

        q(y|s,a)  = Binomial(Y−1, θ_sa),   θ_sa = easy + skill·e_a·(s+1)/S,  at most 1
        r_sa(x)   = Σ_y q(y|s,a) x_sy − cost·e_a²
        f(x, π)   = −(1−γ_P) E[Σ_t γ_P^t (v_y − x_sy)],   0 ≤ x ≤ cap

    and the condition rises by one with probability `repair·e_a`, else falls by one with probability `wear·(1−e_a)`. The
    principal's discount is γ_P, the agent's γ; the start is uniform over conditions. The objective is minus the
    profit of an average period.

    Source: limited liability and hidden effort as in Innes, "Limited liability and incentive contracting with ex-ante
    action choices", Journal of Economic Theory 1990, and Laffont and Martimort, "The theory of incentives", 2002,
    chapter 4; the machine is our own.

    Args:
        conditions: S ≥ 1.
        efforts: A ≥ 2, from idle to full.
        outcomes: Y from 2 to 1000.
        value: the value of the best outcome to the principal, > 0.
        cost: the agent's cost of full effort, ≥ 0, in units of value.
        easy: θ without effort, in [0, 1].
        skill: what full effort adds to θ in the best condition, in [0, 1].
        wear: in [0, 1], see above.
        repair: in [0, 1], see above.
        cap: the largest payment, > 0, in units of value.
        by_condition: whether payments may depend on the condition; without it n = Y instead of S·Y.
        discount: γ of the agent, in [0, 1).
        principal_discount: γ_P, in [0, 1).
        temperature: τ > 0 of the agent, in units of value.
    """

    name: ClassVar[str] = "contract-design"
    algorithm: ClassVar[str] = "m-sobirl"

    conditions: int = attrs.field(default=4, validator=bl.validation.is_integer(at_least=1))
    efforts: int = attrs.field(default=3, validator=bl.validation.is_integer(at_least=2))
    outcomes: int = attrs.field(default=3, validator=[bl.validation.is_integer(at_least=2), _is_within_floats])
    value: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))
    cost: float = attrs.field(default=0.1, validator=bl.validation.is_real(at_least=0.0))
    easy: float = attrs.field(default=0.1, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    skill: float = attrs.field(default=0.7, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    wear: float = attrs.field(default=0.5, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    repair: float = attrs.field(default=0.4, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    cap: float = attrs.field(default=0.3, validator=bl.validation.is_real(above=0.0))
    by_condition: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    discount: float = attrs.field(default=0.8, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    principal_discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The problem; it starts without any payment."""
        pairs, paid = (self.conditions, self.efforts), self.conditions if self.by_condition else 1
        bl.validation.check_fits(f"the transitions of {self.name!r}", (*pairs, self.conditions))
        bl.validation.check_fits(f"the features of {self.name!r}", (*pairs, paid, self.outcomes))
        chances, kernel, costs = self._chances(), self._kernel(), np.tile(self._costs(), (self.conditions, 1))
        features, values = self._features(chances), chances @ self._values()
        agent = bl.ParametricMDP(kernel, bl.parametric.LinearReward(-costs, features), self.discount, self.temperature)
        principal = bl.ParametricMDP(
            agent.transitions,
            bl.parametric.LinearReward(values, -features),
            self.principal_discount,
            self.temperature,
        )

        def measures(x: bl.Array, solution: Any) -> dict[str, float]:
            return self._measures(principal, values, costs, x, solution.policy)

        def picture(axes: Any, x: bl.Array, solution: Any) -> None:
            self._draw(axes, x, solution.policy)

        return bl.BilevelProblem(
            lower=agent,
            objective=bl.objectives.WeightedSum(
                [(1.0 - self.principal_discount, bl.objectives.ReturnObjective(principal, baseline=True))]
            ),
            feasible_set=bl.Box(0.0, self.cap),
            measures=measures,
            picture=picture,
        )

    def _degrees(self) -> bl.Array:
        return np.linspace(0.0, 1.0, self.efforts)

    def _costs(self) -> bl.Array:
        return self.cost * self._degrees() ** 2

    def _values(self) -> bl.Array:
        return self.value * np.linspace(0.0, 1.0, self.outcomes)

    def _chances(self) -> bl.Array:
        """q (S, A, Y)."""
        health = np.arange(1, self.conditions + 1) / self.conditions
        success = np.minimum(self.easy + self.skill * health[:, None] * self._degrees(), 1.0)
        trials, hits = self.outcomes - 1, np.arange(self.outcomes)
        ways = np.array([float(math.comb(trials, hit)) for hit in hits])
        chances: bl.Array = ways * success[..., None] ** hits * (1.0 - success[..., None]) ** (trials - hits)
        return chances

    def _kernel(self) -> bl.Array:
        """P (S, A, S)."""
        kernel = np.zeros((self.conditions, self.efforts, self.conditions))
        for condition in range(self.conditions):
            for effort, degree in enumerate(self._degrees()):
                rise = self.repair * degree
                fall = (1.0 - rise) * self.wear * (1.0 - degree)
                row = kernel[condition, effort]
                row[min(condition + 1, self.conditions - 1)] += rise
                row[max(condition - 1, 0)] += fall
                row[condition] += 1.0 - rise - fall
        return kernel

    def _features(self, chances: bl.Array) -> bl.Array:
        """(S, A, n) the expected payment's derivative by x."""
        if not self.by_condition:
            return chances
        features = np.zeros((self.conditions, self.efforts, self.conditions, self.outcomes))
        for condition in range(self.conditions):
            features[condition, :, condition, :] = chances[condition]
        return features.reshape(self.conditions, self.efforts, -1)

    def _contract(self, x: bl.Array) -> bl.Array:
        """x as a table (S, Y)."""
        return x.reshape(self.conditions, self.outcomes) if self.by_condition else np.tile(x, (self.conditions, 1))

    def _measures(
        self, principal: bl.ParametricMDP, values: bl.Array, costs: bl.Array, x: bl.Array, policy: bl.Array
    ) -> dict[str, float]:
        model = principal.model(x)
        share = bl.mdp.discounted_occupancy(model, policy) * (1.0 - model.discount)
        earned, paid, suffered = (float((share * table).sum()) for table in (values, values - model.rewards, costs))
        return {
            "principal's profit a period": earned - paid,
            "agent's pay minus effort cost": paid - suffered,
            "both together": earned - suffered,
            "degree of effort": float((share @ self._degrees()).sum()),
            "machine's condition": float(share.sum(axis=1) @ np.arange(1, self.conditions + 1)) / self.conditions,
        }

    def _draw(self, axes: Any, x: bl.Array, policy: bl.Array) -> None:
        """Payments as a coloured table with numbers, and the agent's effort in each condition."""
        contract, conditions = self._contract(x), range(self.conditions)
        axes.axis("off")
        axes.set_title("payments (table) and the agent's effort (bars)", loc="left", fontsize=10)
        table = axes.inset_axes((0.08, 0.12, 0.5, 0.76))
        table.imshow(contract, cmap="Greens", vmin=0.0, vmax=self.cap, aspect="auto", origin="lower")
        for condition, outcome in np.ndindex(contract.shape):
            pay = float(contract[condition, outcome])
            ink = "white" if pay > 0.6 * self.cap else "black"
            words = f"{pay:.2f}" if 0.0 < pay < self.cap else f"{pay:g}"
            table.text(outcome, condition, words, ha="center", va="center", color=ink, fontsize=9)
        table.set_xticks(range(self.outcomes), [f"{worth:.2g}" for worth in self._values()])
        table.set_yticks(conditions, [str(condition + 1) for condition in conditions])
        table.tick_params(length=0)
        table.spines[:].set_visible(False)
        table.set(xlabel="value of the outcome", ylabel="condition of the machine")
        table.set_title(f"payment, at most {self.cap:g}", fontsize=9)
        bars = axes.inset_axes((0.64, 0.12, 0.34, 0.76), sharey=table)
        left = np.zeros(self.conditions)
        for effort, degree in enumerate(self._degrees()):
            style = {"color": str(0.9 - 0.8 * degree), "edgecolor": "white", "height": 0.7}
            bars.barh(conditions, policy[:, effort], left=left, label=f"{degree:.2g}", **style)
            left = left + policy[:, effort]
        bars.set_xlim(0.0, 1.0)
        bars.tick_params(labelleft=False, length=0)
        bars.spines[:].set_visible(False)
        bars.set_xlabel("probability")
        bars.legend(
            frameon=False,
            fontsize=8,
            ncols=self.efforts,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.98),
            title="degree of effort",
            title_fontsize=9,
        )
