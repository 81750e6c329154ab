"""Maximum-entropy inverse reinforcement learning: the reward that explains demonstrations."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_problems.grid_picture import draw_grid_pair
from bilevelrl_problems.gridworld import grid_transitions
from bilevelrl_problems.soft_optimum import soft_optimal_policy
from bilevelrl_problems.statistics import correlation

# The demonstrator's reward for a step on each kind of ground; the goal, 1, is one cell in a corner.
GROUND = {"grass": 0.0, "mud": -0.5, "water": -1.0, "goal": 1.0}
SHARES = (0.6, 0.2, 0.2)


@attrs.frozen
class InverseRL:
    """Recover a reward from demonstrations on a gridworld.

    The demonstrator walks over grass (0 per step), mud (−0.5), water (−1) to a goal (1) in the corner, and is
    soft-optimal for that hidden reward; `instance` selects the ground. The follower, on the same grid and with
    the same temperature, maximises `r_sa = Σ_k φ_sk x_k`; the leader fits it to the demonstrations,

        f(x, π) = −(1−γ) Σ_sa d^E_sa log π_sa + ½ ridge ‖x‖²,

    with `d^E` the discounted occupancy of the demonstrator from a uniform start: a cross-entropy in nats per step. If
    d^E is exact, the hyper-gradient is feature matching, `(1−γ) Σ_sa φ_s (d^π*_sa − d^E_sa)/τ + ridge x`: at the
    optimum the follower's feature expectations equal the demonstrator's, up to `τ ridge x/(1−γ)`.

    Source: Ziebart, Maas, Bagnell and Dey, "Maximum entropy inverse reinforcement learning", AAAI 2008; for stochastic
    dynamics Ziebart, Bagnell and Dey, "Modeling interaction via the principle of maximum causal entropy", ICML 2010.

    Args:
        size: side of the grid, at least 2.
        slip: probability of an unintended move, in [0, 1].
        features: "cells", one parameter for each cell, or "ground", one for each kind of ground.
        demonstrations: the number of trajectories; 0 for the exact occupancy, as of infinitely many.
        horizon: H ≥ 1, steps of a demonstration.
        ridge: weight of ½‖x‖², ≥ 0. The likelihood alone determines x up to what leaves π* unchanged.
        discount: γ in [0, 1).
        temperature: τ > 0, in the units of the reward.
        instance: selects the random ground and demonstrations, an integer of at least 0.
    """

    name: ClassVar[str] = "inverse-rl"
    algorithm: ClassVar[str] = "m-sobirl"

    size: int = attrs.field(default=6, validator=bl.validation.is_integer(at_least=2))
    slip: float = attrs.field(default=0.1, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    features: str = attrs.field(default="cells", validator=bl.validation.is_choice("cells", "ground"))
    demonstrations: int = attrs.field(default=0, validator=bl.validation.is_integer(at_least=0))
    horizon: int = attrs.field(default=50, validator=bl.validation.is_integer(at_least=1))
    ridge: float = attrs.field(default=1e-3, validator=bl.validation.is_real(at_least=0.0))
    discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0))
    instance: int = attrs.field(default=0, validator=bl.validation.is_integer(at_least=0))

    def build(self) -> bl.BilevelProblem:
        """The problem; its demonstrator is the soft-optimal policy of the hidden reward."""
        # The features, one for each cell, have the same size.
        bl.validation.check_fits(f"the transitions of {self.name!r}", (self.size**2, 4, self.size**2))
        bl.validation.check_fits(f"the demonstrations of {self.name!r}", (self.demonstrations, self.horizon, 3))
        words, ground = self._ground()
        hidden = np.repeat(ground @ np.array(list(GROUND.values()))[:, None], 4, axis=1)
        features = ground if self.features == "ground" else np.eye(self.size**2)
        reward = bl.parametric.LinearReward(np.zeros((self.size**2, 4)), np.repeat(features[:, None, :], 4, axis=1))
        kernel = grid_transitions(self.size, self.slip)
        lower = bl.ParametricMDP(kernel, reward, self.discount, self.temperature)
        demonstrator = bl.SoftMDP(lower.transitions, hidden, self.discount, self.temperature)
        expert = soft_optimal_policy(demonstrator)
        exact = bl.mdp.discounted_occupancy(demonstrator, expert)
        shown = self._shown(demonstrator, expert) if self.demonstrations else exact
        likelihood = bl.objectives.LogLikelihoodObjective(shown, baseline=demonstrator)
        ridge = bl.objectives.QuadraticObjective(x_weight=1.0, policy_weight=0.0)

        def measures(x: bl.Array, solution: Any) -> dict[str, float]:
            return recovery(demonstrator, expert, shown, features, x, solution.policy)

        def picture(axes: Any, x: bl.Array, solution: Any) -> None:
            pairs = [("hidden", hidden[:, 0], expert), ("recovered", features @ x, solution.policy)]
            draw_grid_pair(axes, words, pairs, "reward minus its mean (colour), and policy (arrows)")

        return bl.BilevelProblem(
            lower=lower,
            objective=bl.objectives.WeightedSum([(1.0 - self.discount, likelihood), (self.ridge, ridge)]),
            measures=measures,
            picture=picture,
        )

    def _ground(self) -> tuple[Any, bl.Array]:
        """The kind of each cell, as a word (size, size) and as indicators (S, 4)."""
        rng = bl.randomness.stream(self.instance, f"{self.name} ground")
        index = rng.choice(len(SHARES), size=self.size**2, p=SHARES)
        index[0], index[-1] = 0, len(SHARES)
        words = np.array(["", *list(GROUND)[1:]])[index].reshape(self.size, self.size)
        return words, np.eye(len(GROUND))[index]

    def _shown(self, demonstrator: bl.SoftMDP, expert: bl.Array) -> bl.Array:
        """The mean discounted visits of the sampled demonstrations."""
        rng = bl.randomness.stream(self.instance, f"{self.name} demonstrations")
        paths = bl.sampling.TabularSimulator(demonstrator).rollout(expert, self.demonstrations, self.horizon, rng)
        weights = self.discount ** np.arange(self.horizon, dtype=np.float64) / self.demonstrations
        return paths.visits(np.broadcast_to(weights, paths.actions.shape), expert.shape)


def recovery(
    demonstrator: bl.SoftMDP, expert: bl.Array, shown: bl.Array, features: bl.Array, x: bl.Array, policy: bl.Array
) -> dict[str, float]:
    """How well the demonstrator was recovered.

    The distance of the policies is the total variation, `½Σ_a |π − π^E|`, averaged over the demonstrator's
    visits of states; the gap of features is `max_k |Σ_s φ_sk (d^π_s − d^E_s)|`.
    """
    visits = bl.mdp.discounted_occupancy(demonstrator, expert).sum(axis=1)
    apart = 0.5 * np.abs(policy - expert).sum(axis=1)
    gap = features.T @ (bl.mdp.discounted_occupancy(demonstrator, policy) - shown).sum(axis=1)
    earned, possible = (
        float(demonstrator.initial @ bl.mdp.policy_values(demonstrator, judged)) for judged in (policy, expert)
    )
    recovered, hidden = features @ x, demonstrator.rewards[:, 0]
    return {
        "distance to the demonstrator's policy": float(visits @ apart / visits.sum()),
        "gap of feature expectations": bl.validation.maximum_norm(gap),
        "demonstrator's value lost": possible - earned,
        "reward correlation": correlation(recovered, hidden),
    }
