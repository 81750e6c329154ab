"""Problems with precise sample means: little noise relative to the gradient, few trajectories.

Laws about means use these instead of drawn problems, most of which are trivial or far too noisy.
"""

from __future__ import annotations

import numpy as np

from bilevelrl.objectives.policy_objectives import QuadraticObjective
from bilevelrl.parametric.parametric_mdp import ParametricMDP
from bilevelrl.parametric.parts import LinearReward
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.testing.drawn import DrawnBilevelProblem, TableLoss


def quiet_problem() -> BilevelProblem:
    """Two states, two actions, one step, quickly forgotten: a bias of 1 % in either part can be resolved."""
    kernel = np.array([[[0.5, 0.5], [0.75, 0.25]], [[0.25, 0.75], [0.5, 0.5]]])
    features = np.array([[[1.0], [0.0]], [[1.0], [0.0]]])
    lower = ParametricMDP(kernel, LinearReward(np.zeros((2, 2)), features), 0.25, 1.0)
    loss = TableLoss(np.array([[1.0, 0.5], [1.0, 0.5]]), np.array([1.0]), 1)
    return DrawnBilevelProblem(lower, loss, np.array([0.25]))


def fork_problem() -> BilevelProblem:
    """One choice, and then the reward x or none for ever: reveals a truncated or wrongly discounted tail."""
    kernel = np.zeros((3, 2, 3))
    kernel[0, 0, 1] = kernel[0, 1, 2] = kernel[1, :, 1] = kernel[2, :, 2] = 1.0
    features = np.zeros((3, 2, 1))
    features[1] = 1.0
    lower = ParametricMDP(kernel, LinearReward(np.zeros((3, 2)), features), 0.75, 2.0, np.array([1.0, 0.0, 0.0]))
    loss = TableLoss(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), np.array([1.0]), 1)
    return DrawnBilevelProblem(lower, loss, np.array([0.25]))


def rich_problem() -> BilevelProblem:
    """Pairs of trajectories of three steps, two parameters, τ = 1/2, γ = 0.8: coarser, but no parameter is one."""
    kernel = np.array([[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [0.0, 1.0]]])
    features = np.array([[[0.25, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.25, 0.0]]])
    base = np.array([[0.25, 0.0], [0.0, 0.5]])
    lower = ParametricMDP(kernel, LinearReward(base, features), 0.8, 0.5, np.array([1.0, 0.0]))
    loss = TableLoss(np.array([[0.0, 0.0], [1.0, 0.25]]), np.array([1.0, 0.5]), 3, 2)
    return DrawnBilevelProblem(lower, loss, np.array([0.25, 0.25]))


def learnable_problem() -> BilevelProblem:
    """One choice, between a state with two equal actions and one with a dominated action: the bonus and μ decide."""
    kernel = np.zeros((3, 2, 3))
    kernel[0, 0, 1] = kernel[0, 1, 2] = kernel[1, :, 0] = kernel[2, :, 0] = 1.0
    rewards = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, -2.5]])
    lower = ParametricMDP(
        kernel,
        LinearReward(rewards, np.ones((3, 2, 1))),
        0.875,
        0.5,
        reference=np.array([[1.0, 2.0], [1.0, 1.0], [1.0, 1.0]]),
    )
    return DrawnBilevelProblem(lower, QuadraticObjective(), np.zeros(1))


PRECISE = (
    fork_problem(),
    rich_problem(),
    quiet_problem(),
)  # in the order in which they are tried; the last has the least noise and takes longest
