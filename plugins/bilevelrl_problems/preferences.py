"""Learning a reward from preferences: a labeller with a hidden reward compares the follower's trajectories."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_problems.grid_picture import draw_grid_policy
from bilevelrl_problems.gridworld import grid_transitions
from bilevelrl_problems.reward_shaping import make_environment
from bilevelrl_problems.statistics import correlation


@attrs.frozen
class GridworldPreferences:
    """Preferences on a small gridworld whose true reward only the labeller knows.

    The follower walks on a square grid with a row of traps beside the path to the goal. A move into the border has no
    effect. The intended move happens with probability 1 − slip, each other one with slip/3. The hidden reward is 1 in
    the goal's corner, −1 in a trap, 0 elsewhere, for each action taken there; no state is absorbing. The follower
    maximises `r_sa = x_s`; the leader minimises the expected Bradley–Terry loss of a labeller that compares two
    trajectories of the follower by the hidden reward.

    Args:
        size: side of the grid, at least 3.
        slip: probability of an unintended move, in [0, 1].
        discount: γ of the follower, in [0, 1).
        temperature: τ > 0.
        horizon: H ≥ 1, the number of steps compared.
        noisy: whether the labeller errs as in the Bradley–Terry model, or answers with the probability itself.
        steepness: how decided the labeller is, > 0.
    """

    name: ClassVar[str] = "gridworld-preferences"
    algorithm: ClassVar[str] = "sobirl"

    size: int = attrs.field(default=5, validator=bl.validation.is_integer(at_least=3))
    slip: float = attrs.field(default=0.1, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.2, validator=bl.validation.is_real(above=0.0))
    horizon: int = attrs.field(default=15, validator=bl.validation.is_integer(at_least=1))
    noisy: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    steepness: float = attrs.field(default=2.0, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The problem; its lower level offers a model too, for exact evaluation."""
        bl.validation.check_fits(f"the transitions of {self.name!r}", (self.size**2, 4, self.size**2))
        hidden, letters = self._hidden_reward()
        initial = np.zeros(self.size**2)
        initial[0] = 1.0
        reward = bl.parametric.StateReward(np.zeros((self.size**2, 4)))
        lower = bl.ParametricMDP(
            grid_transitions(self.size, self.slip), reward, self.discount, self.temperature, initial
        )
        true_mdp = bl.SoftMDP(lower.transitions, hidden, self.discount, self.temperature, initial)
        labeller = bl.objectives.RewardLabeller(hidden, noisy=self.noisy, steepness=self.steepness)

        def measures(x: bl.Array, solution: Any) -> dict[str, float]:
            return preference_measures(true_mdp, x, solution.policy)

        def picture(axes: Any, x: bl.Array, solution: Any) -> None:
            draw_grid_policy(axes, letters, x - x.mean(), solution.policy)

        return bl.BilevelProblem(
            lower=lower,
            objective=bl.objectives.PreferenceObjective(reward, labeller, self.horizon),
            measures=measures,
            picture=picture,
        )

    def _hidden_reward(self) -> tuple[bl.Array, Any]:
        letters = np.full((self.size, self.size), "F")
        letters[0, 0], letters[-1, -1] = "S", "G"
        # A row of traps across the middle, open at its right end only.
        letters[self.size // 2, : self.size - 1] = "T"
        values = np.where(letters == "G", 1.0, np.where(letters == "T", -1.0, 0.0))
        return np.repeat(values.reshape(-1, 1), 4, axis=1), letters


@attrs.frozen
class GymnasiumPreferences:
    """Preferences on a Gymnasium environment with discrete spaces, through its `step` alone.

    The labeller compares two trajectories by the environment's rewards. Leader and follower see trajectories and
    answers, but no transition table, and the simulator cannot be restarted in a chosen state.

    Args:
        environment: the environment's registered id, such as CliffWalking-v1 or FrozenLake-v1.
        discount: γ of the follower, in [0, 1).
        temperature: τ > 0.
        horizon: H ≥ 1, the number of steps compared.
        noisy: whether the labeller errs as in the Bradley–Terry model, or answers with the probability itself.
        steepness: how decided the labeller is, > 0, in 1/reward of the environment.
        bound: the largest learnt reward, > 0: `|x_s| ≤ bound`.
    """

    name: ClassVar[str] = "gymnasium-preferences"
    algorithm: ClassVar[str] = "sobirl"

    environment: str = attrs.field(default="CliffWalking-v1")
    discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0))
    horizon: int = attrs.field(default=15, validator=bl.validation.is_integer(at_least=1))
    noisy: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    steepness: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))
    bound: float = attrs.field(default=2.0, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The problem; needs the extra `gymnasium`."""
        world = bl.integrations.GymnasiumWorld(
            lambda: make_environment(self.environment, max_episode_steps=-1), self.discount, self.temperature
        )
        reward = bl.parametric.StateReward(np.zeros((world.spec.states, world.spec.actions)))
        labeller = bl.objectives.ReturnLabeller(noisy=self.noisy, steepness=self.steepness)
        return bl.BilevelProblem(
            lower=bl.parametric.SampledMDP(world, reward),
            objective=bl.objectives.PreferenceObjective(reward, labeller, self.horizon),
            feasible_set=bl.Box(-self.bound, self.bound),
        )


def preference_measures(mdp: bl.SoftMDP, x: bl.Array, policy: bl.Array) -> dict[str, float]:
    """Measures of the learnt reward: the follower's true return, the correlation with the hidden reward, coverage.

    Coverage is the exponential of the entropy of the discounted state visits, as a share of all states: 1 if all states
    are visited equally.
    """
    values = bl.mdp.policy_values(mdp, policy, regularized=False)
    visits = bl.mdp.discounted_occupancy(mdp, policy).sum(axis=1) * (1.0 - mdp.discount)
    entropy = -float(np.sum(visits * np.log(visits, out=np.zeros_like(visits), where=visits > 0)))
    hidden = mdp.rewards[:, 0]
    return {
        "follower's true return": float(mdp.initial @ values),
        "reward correlation": correlation(x, hidden),
        "state coverage": float(np.exp(entropy)) / mdp.states,
    }
