"""A Stackelberg Markov game: the leader commits to a mixed policy, the follower answers, both act at once.

At a leader's policy `σ_x(b|s)` the follower's MDP is the average over the leader's choices,

    r_sa(x) = Σ_b σ_x(b|s) r^F_bsa,    P_sas'(x) = Σ_b σ_x(b|s) P^b_sas',

so x enters rewards and transitions. The leader minimises minus its own discounted return,
`f(x, π) = −E[Σ_t γ_L^t r^L(s_t, a_t, b_t)]`, with the same averages. Commitment is an advantage for the leader, since
the follower must respond to a policy that cannot be changed (von Stackelberg 1934).

Source: von Stengel and Zamir, "Leadership games with convex strategy sets", Games and Economic Behavior 2010; for
stochastic games Letchford, MacDermed, Conitzer, Parr and Isbell, "Computing optimal strategies to commit to in
stochastic games", AAAI 2012.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_problems.grid_picture import rule

# The change of row with each column: up, straight, down.
TURNS = (-1, 0, 1)


def markov_game(
    policy: bl.parametric.SoftmaxPolicy,
    kernels: Any,
    follower_rewards: bl.Array,
    leader_rewards: bl.Array,
    *,
    discount: float,
    leader_discount: float,
    temperature: float,
    initial: bl.Array | None = None,
) -> bl.BilevelProblem:
    """The bilevel problem of any such game.

    Args:
        policy: σ, the leader's mixed policy over B choices in S states, a function of x.
        kernels: P^b, one kernel for each choice: an array (B, S, A, S), or a sequence of B kernels, dense or sparse.
        follower_rewards: r^F (B, S, A).
        leader_rewards: r^L (B, S, A).
        discount: γ of the follower, in [0, 1).
        leader_discount: γ_L, in [0, 1).
        temperature: τ > 0 of the follower.
        initial: ρ (S,) of both. Default: uniform.
    """
    transitions = bl.parametric.MixtureTransitions(policy, kernels)
    follower = bl.ParametricMDP(
        transitions, bl.parametric.MixtureReward(policy, follower_rewards), discount, temperature, initial=initial
    )
    leader = bl.ParametricMDP(
        transitions, bl.parametric.MixtureReward(policy, leader_rewards), leader_discount, temperature, initial=initial
    )
    return bl.BilevelProblem(lower=follower, objective=bl.objectives.ReturnObjective(leader, baseline=True))


@attrs.frozen
class StackelbergGame:
    """A border guard commits to a patrol; smugglers choose routes around it.

    A smuggler crosses a grid from the left to the right, one column per step, straight on or one row up or down. On
    the right each row has a market: goods earn 1 in the top row, less in every row below, 1/rows in the last. The guard
    waits in one cell of the next column, or does not patrol (the last choice). If they meet, the smuggler is caught
    with probability `catch`, pays `fine` and starts again, in any row of the first column. After a sale the smuggler
    starts again too. The guard loses what the goods earn, and pays `patrol_cost` for each step of patrol. It sees the
    smuggler's column but not the row, unless it is `informed`. Its mixed policy is the softmax of x.

    Args:
        rows: R ≥ 2.
        columns: C ≥ 2.
        catch: probability that a smuggler who meets the guard is caught, in [0, 1].
        fine: paid by a smuggler who is caught, ≥ 0, in units of the best market's price.
        patrol_cost: paid by the guard for a step of patrol, ≥ 0, in the same units.
        informed: whether the guard sees the smuggler's row.
        discount: γ of the smuggler, in [0, 1).
        leader_discount: γ_L of the guard, in [0, 1).
        temperature: τ > 0 of the smuggler, in units of the best market's price.
    """

    name: ClassVar[str] = "stackelberg-game"
    algorithm: ClassVar[str] = "m-sobirl"

    rows: int = attrs.field(default=5, validator=bl.validation.is_integer(at_least=2))
    columns: int = attrs.field(default=6, validator=bl.validation.is_integer(at_least=2))
    catch: float = attrs.field(default=0.8, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))
    fine: float = attrs.field(default=0.5, validator=bl.validation.is_real(at_least=0.0))
    patrol_cost: float = attrs.field(default=0.02, validator=bl.validation.is_real(at_least=0.0))
    informed: bool = attrs.field(default=False, validator=bl.validation.is_flag())
    discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    leader_discount: float = attrs.field(default=0.9, validator=bl.validation.is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(default=0.05, validator=bl.validation.is_real(above=0.0))

    def build(self) -> bl.BilevelProblem:
        """The problem; states are cells, column by column."""
        cells, choices, blocks = self._sizes()
        bl.validation.check_fits(f"the transitions of {self.name!r}", (choices, cells, len(TURNS), cells))
        bl.validation.check_fits(f"the features of {self.name!r}", (cells, choices, blocks, choices))
        kernels, caught = self._world()
        sold = np.zeros(caught.shape)
        sold[:, -self.rows :, :] = self._prices()[None, :, None]
        outside = np.zeros(caught.shape)
        outside[: self.rows, : -self.rows] = 1.0
        initial = np.zeros(self.rows * self.columns)
        initial[: self.rows] = 1.0 / self.rows
        problem = markov_game(
            self._policy(),
            kernels,
            sold - self.fine * caught,
            -sold - self.patrol_cost * outside,
            discount=self.discount,
            leader_discount=self.leader_discount,
            temperature=self.temperature,
            initial=initial,
        )
        events = {"caught": caught, "sold": (sold > 0).astype(np.float64)}

        def measures(x: bl.Array, solution: Any) -> dict[str, float]:
            return self._measures(problem, events, x, solution.policy)

        def picture(axes: Any, x: bl.Array, solution: Any) -> None:
            self._draw(axes, problem, x, solution.policy)

        return attrs.evolve(problem, measures=measures, picture=picture)

    def _prices(self) -> bl.Array:
        return np.arange(self.rows, 0, -1) / self.rows

    def _sizes(self) -> tuple[int, int, int]:
        """The numbers of cells, of the guard's choices, and of places in which the guard chooses."""
        cells = self.rows * self.columns
        return cells, self.rows + 1, (cells - self.rows) if self.informed else self.columns - 1

    def _policy(self) -> bl.parametric.SoftmaxPolicy:
        """One parameter for each choice and column (or state) before the last, where the guard has no choice."""
        cells, choices, blocks = self._sizes()
        seen = np.arange(cells) if self.informed else np.arange(cells) // self.rows
        features = np.zeros((cells, choices, blocks, choices))
        for state in range(cells - self.rows):
            features[state, :, seen[state], :] = np.eye(choices)
        return bl.parametric.SoftmaxPolicy(cells, choices, features.reshape(cells, choices, blocks * choices))

    def _world(self) -> tuple[bl.Array, bl.Array]:
        """P^b (B, S, A, S), and the probability of being caught (B, S, A)."""
        cells = self.rows * self.columns
        kernels, caught = np.zeros((self.rows + 1, cells, 3, cells)), np.zeros((self.rows + 1, cells, 3))
        kernels[:, -self.rows :, :, : self.rows] = 1.0 / self.rows
        for state in range(cells - self.rows):
            column, row = divmod(state, self.rows)
            for action, turn in enumerate(TURNS):
                reached = min(max(row + turn, 0), self.rows - 1)
                kernels[:, state, action, (column + 1) * self.rows + reached] = 1.0
                kernels[reached, state, action, (column + 1) * self.rows + reached] = 1.0 - self.catch
                kernels[reached, state, action, : self.rows] += self.catch / self.rows
                caught[reached, state, action] = self.catch
        return kernels, caught

    def _measures(
        self, problem: bl.BilevelProblem, events: dict[str, bl.Array], x: bl.Array, policy: bl.Array
    ) -> dict[str, float]:
        model, sigma = problem.lower.model(x), self._policy()(x)
        visits = bl.mdp.discounted_occupancy(model, policy)
        counts = {name: float(np.einsum("sa,sb,bsa->", visits, sigma, table)) for name, table in events.items()}
        values = bl.mdp.policy_values(model, policy, regularized=False)
        leader = -float(problem.objective.value_and_gradients(x, policy)[0])
        return {
            "guard's return": leader,
            "smuggler's return": float(model.initial @ values),
            "share of trips that end caught": counts["caught"] / (counts["caught"] + counts["sold"]),
        }

    def _draw(self, axes: Any, problem: bl.BilevelProblem, x: bl.Array, policy: bl.Array) -> None:
        """The guard's positions as colours, the smugglers' routes as lines with thickness by frequency."""
        visits = bl.mdp.discounted_occupancy(problem.lower.model(x), policy)
        shape = (self.columns, self.rows)
        share = visits.sum(axis=1).reshape(shape) / visits.sum(axis=1).reshape(shape).sum(axis=1, keepdims=True)
        sigma = self._policy()(x).reshape(*shape, -1)
        waits = np.einsum("cr,crb->cb", share, sigma)[:-1, : self.rows]
        # The guard waits one column ahead of the smuggler, so never in the first.
        image = axes.imshow(np.vstack([np.zeros(self.rows), waits]).T, cmap="OrRd", vmin=0.0)
        for state, action in np.ndindex(visits.shape):
            column, row = divmod(state, self.rows)
            reached = min(max(row + TURNS[action], 0), self.rows - 1)
            used = visits[state, action] / visits.max()
            if column < self.columns - 1 and used > 0.02:
                axes.plot([column, column + 1], [row, reached], color="#0072B2", lw=6.0 * used, solid_capstyle="round")
        for row, price in enumerate(self._prices()):
            axes.text(self.columns - 0.42, row, f"{price:.2g}", va="center", fontsize=9)
        axes.text(self.columns - 0.42, -0.62, "price", va="bottom", fontsize=9)
        rule(axes, self.rows, self.columns)
        axes.set_title("the guard's positions (colour), the smugglers' routes (lines)", loc="left", fontsize=10)
        axes.figure.colorbar(image, ax=axes, shrink=0.7, label="probability that the guard waits there")
