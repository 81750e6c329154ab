"""Reward shaping on Gymnasium's transition tables; the objective is the true return of the follower's policy.

The leader adds `x_s` to the follower's reward in every state that does not end the episode, within `|x_s| ≤ bound`.
The follower is entropy-regularised, often has a smaller discount factor than the leader, and acts optimally. The
leader's objective is minus the true, unshaped and unregularised return of that policy, `f = −V^π_{M̄}(ρ)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_problems.grid_picture import draw_grid_policy


@attrs.frozen
class GymnasiumShaping:
    """Shaping rewards for any Gymnasium environment with a transition table: FrozenLake, Taxi, CliffWalking.

    Args:
        environment: the environment's registered id.
        discount: γ of the follower, in [0, 1).
        true_discount: γ̄ of the true return, in [0, 1).
        temperature: τ > 0 of the follower, in the units of the environment's reward.
        bound: the largest shaping reward, > 0.
    """

    name: ClassVar[str] = "gymnasium-shaping"
    algorithm: ClassVar[str] = "m-sobirl"

    environment: str = attrs.field(default="CliffWalking-v1")
    discount: float = attrs.field(default=0.95, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    true_discount: float = attrs.field(default=0.99, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.5, validator=bl.validation.is_real(above=0.0))
    bound: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The problem; needs the extra `gymnasium`."""
        true_mdp = bl.integrations.from_gymnasium(
            make_environment(self.environment), discount=self.true_discount, temperature=self.temperature
        )
        return shaping_problem(true_mdp, self.discount, self.bound)


@attrs.frozen
class FrozenLakeShaping:
    """Shaping rewards for Gymnasium's FrozenLake, with a true reward of 1 at the goal and 0 elsewhere.

    Args:
        map_size: 4 or 8, the two maps of Gymnasium.
        slippery: whether a move slips to either side with probability 1/3 each.
        discount: γ of the follower, in [0, 1).
        true_discount: γ̄ of the true return, in [0, 1).
        temperature: τ > 0 of the follower.
        bound: the largest shaping reward, > 0.
        horizon: the number of steps of the true return, which trajectories can then estimate too, so that exact and
            sampled algorithms can be compared. None: the infinite-horizon return.
    """

    name: ClassVar[str] = "frozenlake-shaping"
    algorithm: ClassVar[str] = "m-sobirl"

    map_size: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=4))
    slippery: bool = attrs.field(default=True, validator=bl.validation.is_flag())
    discount: float = attrs.field(default=0.95, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    true_discount: float = attrs.field(default=0.99, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))
    bound: float = attrs.field(default=1.0, validator=bl.validation.is_real(above=0.0))
    horizon: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))

    def __attrs_post_init__(self) -> None:
        if self.map_size not in (4, 8):
            raise bl.InputError("map_size", repr(self.map_size), "4 or 8")

    def build(self) -> bl.BilevelProblem:
        """The problem; needs the extra `gymnasium`."""
        size = f"{self.map_size}x{self.map_size}"
        env = make_environment("FrozenLake-v1", map_name=size, is_slippery=self.slippery)
        true_mdp = bl.integrations.from_gymnasium(env, discount=self.true_discount, temperature=self.temperature)
        letters = np.array(env.unwrapped.desc, dtype="U1")
        problem = shaping_problem(true_mdp, self.discount, self.bound, self.horizon)
        goal = (letters == "G").reshape(-1)

        def measures(x: bl.Array, solution: bl.mdp.TabularSolution) -> dict[str, float]:
            return {
                **true_return(true_mdp, solution),
                "goal within 100 steps": _probability_within(true_mdp, solution.policy, goal, steps=100),
            }

        def picture(axes: Any, x: bl.Array, solution: bl.mdp.TabularSolution) -> None:
            shaping = problem.lower.rewards(x)[:, 0] - true_mdp.rewards[:, 0]
            draw_grid_policy(axes, letters, shaping, solution.policy)

        return attrs.evolve(problem, measures=measures, picture=picture)


def shaping_problem(
    true_mdp: bl.SoftMDP, discount: float, bound: float, horizon: int | None = None
) -> bl.BilevelProblem:
    """One shaping parameter for each state of `true_mdp` that is not absorbing, within `±bound`."""
    live = np.flatnonzero(~bl.integrations.absorbing_states(true_mdp))
    lower = bl.ParametricMDP(
        true_mdp.transitions,
        bl.parametric.StateReward(true_mdp.rewards, live),
        discount,
        true_mdp.temperature,
        true_mdp.initial,
    )
    return bl.BilevelProblem(
        lower=lower,
        # Without the baseline the first tracked gradients, from an adjoint that starts at zero, are far too long.
        # One such step moves x into a flat region where the follower avoids the goal.
        objective=(
            bl.objectives.ReturnObjective(true_mdp, baseline=True)
            if horizon is None
            else bl.objectives.FiniteHorizonReturnObjective(true_mdp, horizon, baseline=True)
        ),
        feasible_set=bl.Box(-bound, bound),
        measures=lambda x, solution: true_return(true_mdp, solution),
    )


def true_return(true_mdp: bl.SoftMDP, solution: bl.mdp.TabularSolution) -> Mapping[str, float]:
    """The unregularised return of the follower's policy in the unshaped MDP."""
    values = bl.mdp.policy_values(true_mdp, solution.policy, regularized=False)
    return {"follower's true return": float(true_mdp.initial @ values)}


def _probability_within(mdp: bl.SoftMDP, policy: bl.Array, goal: bl.Array, steps: int) -> float:
    """The probability of being in an (absorbing) goal state after this many steps."""
    distribution = mdp.initial
    for _ in range(steps):
        distribution = mdp.transitions.transpose_expectation(distribution[:, None] * policy)
    return float(distribution[goal].sum())


def make_environment(environment: str, **options: Any) -> Any:
    """`gymnasium.make`, for registered ids only: an id `module:Name` would import any module that a file names."""
    try:
        import gymnasium
    except ImportError:
        raise bl.InputError("gymnasium", "not installed", "pip install 'bilevelrl[gymnasium]'") from None
    if ":" in environment:
        raise bl.InputError("environment", repr(environment[:80]), "the id of a registered environment, without ':'")
    try:
        return gymnasium.make(environment, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise bl.InputError("environment", repr(environment[:80]), f"one that Gymnasium can make ({reason})") from error
