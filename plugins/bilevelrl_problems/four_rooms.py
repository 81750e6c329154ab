"""Incentive design in four rooms: a leader's small penalties lead a follower through the leader's paid cell.

Source: Thoma, Pasztor, Krause, Ramponi and Hu, "Contextual Bilevel Reinforcement Learning for Incentive Alignment",
NeurIPS 2024 (arXiv 2406.01575), whose experiment this is.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import attrs
import numpy as np
import scipy.sparse

import bilevelrl as bl
from bilevelrl_problems.grid_picture import draw_incentives

SIDE = 13
START = (4, 1)
PAID = (8, 4)
GOALS = ((1, 9), (11, 11))
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
ACTIONS = len(MOVES)
BUDGET = 0.2
DISCOUNT = 0.99
START_DEVIATION = 0.01


def floor_plan() -> Any:
    """(13, 13) True where a cell is free: four rooms, four doors, 104 cells."""
    free = np.ones((SIDE, SIDE), dtype=bool)
    free[[0, -1], :] = free[:, [0, -1]] = False
    free[:, 6] = False
    free[[3, 10], 6] = True
    free[6, 1:6] = False
    free[6, 2] = True
    free[7, 7:12] = False
    free[7, 9] = True
    return free


FREE = floor_plan()
CELLS = [(int(row), int(column)) for row, column in np.argwhere(FREE)]
INDEX = {cell: index for index, cell in enumerate(CELLS)}
ABSORBED = len(CELLS)
STATES = len(CELLS) + 1


def incentives(w: bl.Array) -> bl.Array:
    """(105,) `−0.2 softmax(w)`: the incentive of every cell, in row-major order, and last the unspent part."""
    weights = np.exp(w - w.max())
    return np.asarray(-BUDGET * weights / weights.sum())


def incentives_pullback(w: bl.Array, cotangent: bl.Array) -> bl.Array:
    """(105,) `Jᵀ c` of `incentives`: `x ⊙ (c − ⟨p, c⟩)` with `p = −x/0.2` the softmax."""
    x = incentives(w)
    return np.asarray(x * (cotangent + (x @ cotangent) / BUDGET))


def incentive_norms(w: bl.Array) -> bl.certificates.RowNorms:
    """(105,) `‖∇x_s‖₂ = 0.2 p_s ‖e_s − p‖₂`, with p the softmax, which multiplies the rounding of w."""
    x = np.abs(incentives(w))
    p = x / BUDGET
    return bl.certificates.RowNorms(
        x * np.sqrt((1.0 - p) ** 2 + p @ p), x * 2.0 * (1.0 + bl.validation.maximum_norm(w))
    )


@attrs.frozen
class FollowerReward:
    """(105, 4) the follower's reward in the state before the move: 1 at the goal, `x_s` elsewhere, 0 when absorbed."""

    goal: int
    dimension: ClassVar[int] = STATES

    def __call__(self, w: bl.Array) -> bl.Array:
        """The table at w."""
        by_state = incentives(w)
        by_state[self.goal], by_state[ABSORBED] = 1.0, 0.0
        return np.repeat(by_state[:, None], ACTIONS, axis=1)

    def pullback(self, w: bl.Array, cotangent: bl.Array) -> bl.Array:
        """(105,); the entry of the goal and the unspent one have no effect."""
        by_state = cotangent.sum(axis=1)
        by_state[self.goal] = by_state[ABSORBED] = 0.0
        return incentives_pullback(w, by_state)

    def row_norms(self, w: bl.Array) -> bl.certificates.RowNorms:
        """The incentives' bounds, in the states where they have an effect."""
        felt = np.ones((STATES, ACTIONS))
        felt[[self.goal, ABSORBED]] = 0.0
        norms = incentive_norms(w)
        return bl.certificates.RowNorms(norms.norms[:, None] * felt, norms.sizes[:, None] * felt)


@attrs.frozen
class LeaderReward:
    """(105, 4) the leader's reward: 1 per step at the paid cell, and `−ρ‖x‖₁` at the goal, which is visited once."""

    goal: int
    penalty: float
    dimension: ClassVar[int] = STATES

    def __call__(self, w: bl.Array) -> bl.Array:
        """The table at w."""
        rewards = np.zeros((STATES, ACTIONS))
        rewards[INDEX[PAID]] = 1.0
        rewards[self.goal] = self.penalty * incentives(w)[:ABSORBED].sum()
        return rewards

    def pullback(self, w: bl.Array, cotangent: bl.Array) -> bl.Array:
        """(105,)."""
        spent = np.full(STATES, self.penalty * cotangent[self.goal].sum())
        spent[ABSORBED] = 0.0
        return incentives_pullback(w, spent)

    def row_norms(self, w: bl.Array) -> bl.certificates.RowNorms:
        """At the goal ρ times the bound of the unspent entry, since all entries sum to a constant."""
        own, norms, sizes = incentive_norms(w), np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
        norms[self.goal], sizes[self.goal] = self.penalty * own.norms[ABSORBED], self.penalty * own.sizes.sum()
        return bl.certificates.RowNorms(norms, sizes)


def kernel(goal: int, intended: float) -> Any:
    """P (105·4, 105) as CSR. The intended move happens with the given probability, each other with a third of the rest.

    A move into a wall has no effect. From the goal every move leads to the absorbing state.
    """
    absorbed = np.arange(ABSORBED * ACTIONS, STATES * ACTIONS)
    rows, targets, chances = [*absorbed], [ABSORBED] * ACTIONS, [1.0] * ACTIONS
    for index, (row, column) in enumerate(CELLS):
        for action, (move, (down, right)) in itertools.product(range(ACTIONS), enumerate(MOVES)):
            rows.append(index * ACTIONS + action)
            targets.append(ABSORBED if index == goal else INDEX.get((row + down, column + right), index))
            chances.append(intended if move == action else (1.0 - intended) / (ACTIONS - 1))
    # Moves that end in the same cell are summed.
    return scipy.sparse.csr_array((chances, (rows, targets)), shape=(STATES * ACTIONS, STATES))


@attrs.frozen
class FourRooms:
    """A follower walks from (4, 1) to a goal, (1, 9) or (11, 11) with equal probability; the leader prices the cells.

    The leader spreads costs of at most 0.2 over the 104 cells, `x = −0.2 softmax(w)`, w in R^105; the last entry is
    the part that it keeps. x is the same for both goals. The leader earns, discounted, 1 for each step that begins at
    (8, 4), which lies on no direct path, and pays `ρ‖x‖₁` at the step in which the follower is at the goal, where the
    leader's episode ends: `f = −Σ_c ½ U_c(4, 1)`.

    The follower earns 1 at the goal and `x_s` at any other state from which it moves, with γ = 0.99. The goal is
    terminal, with `Q = 1` for every action, so that `V = 1 + λ log 4`. It leads to an additional absorbing state, which
    pays nothing and whose reference measure is the uniform policy, so that its entropy bonus is always zero.

    Runs start at `w ~ N(0, 0.01²)`.

    Source: Thoma et al., NeurIPS 2024 (arXiv 2406.01575).

    Args:
        temperature: λ > 0, the follower's entropy weight; the paper's are 0.001, 0.003 and 0.005.
        penalty: ρ at least 0, the leader's price of a unit of incentive; the paper's are 1 to 5.
        intended: the probability of the intended move, in [0, 1]; each other direction has a third of the rest.
    """

    name: ClassVar[str] = "four-rooms"
    algorithm: ClassVar[str] = "m-sobirl"

    temperature: float = attrs.field(default=0.003, validator=bl.validation.is_real(above=0.0))
    penalty: float = attrs.field(default=1.0, validator=bl.validation.is_real(at_least=0.0))
    intended: float = attrs.field(default=0.56, validator=bl.validation.is_real(at_least=0.0, at_most=1.0))

    def build(self) -> bl.BilevelProblem:
        """The expectation over the two goals."""
        problem = bl.problems.contextual_problem(
            [self._context(goal) for goal in GOALS],
            start=lambda rng: START_DEVIATION * rng.standard_normal(STATES),
        )

        def picture(axes: Any, w: bl.Array, solution: Any) -> None:
            policies = [problem.lower.restrict(w, solution, index).policy[:ABSORBED] for index in range(len(GOALS))]
            draw_incentives(axes, FREE, incentives(w)[:ABSORBED], policies, {"start": START, "paid": PAID}, GOALS)

        return attrs.evolve(problem, picture=picture)

    def _context(self, goal: tuple[int, int]) -> bl.BilevelProblem:
        """The problem with one goal."""
        end = INDEX[goal]
        transitions = bl.mdp.SparseTransitions(kernel(end, self.intended))
        start = np.eye(STATES)[INDEX[START]]
        reference = np.ones((STATES, ACTIONS))
        reference[ABSORBED] = 1.0 / ACTIONS
        follower = bl.ParametricMDP(transitions, FollowerReward(end), DISCOUNT, self.temperature, start, reference)
        leader = bl.ParametricMDP(transitions, LeaderReward(end, self.penalty), DISCOUNT, self.temperature, start)

        def measures(w: bl.Array, solution: Any) -> dict[str, float]:
            spent = -float(incentives(w)[:ABSORBED].sum())
            values = bl.mdp.policy_values(leader.model(w), solution.policy, regularized=False)
            return {"leader's value": float(start @ values), "incentives spent": spent}

        return bl.BilevelProblem(follower, bl.objectives.ReturnObjective(leader, baseline=True), measures=measures)
