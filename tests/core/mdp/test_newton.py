"""The exact solver and the exact gradient as functions, without a plugin."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

import bilevelrl as bl

REWARDS, DISCOUNT, TEMPERATURE = np.array([[0.3, -0.2, 0.1]]), 0.9, 0.5


def bandit() -> bl.SoftMDP:
    return bl.SoftMDP(np.ones((1, 3, 1)), REWARDS, DISCOUNT, TEMPERATURE)


@pytest.mark.parametrize("tolerance", [1e-10, 0.0])
def test_one_state_has_the_value_of_a_logarithm_of_a_sum(tolerance: float) -> None:
    """`V* = τ log Σ_a exp(r_a/τ) / (1−γ)`; a tolerance of 0 asks for rounding."""
    solution = bl.mdp.soft_policy_iteration(bandit(), tolerance=tolerance)
    expected = TEMPERATURE * np.log(np.exp(REWARDS / TEMPERATURE).sum()) / (1 - DISCOUNT)
    assert solution.values == pytest.approx([expected], rel=1e-13)
    assert solution.status in (bl.Status.CONVERGED, bl.Status.STAGNATED)
    assert solution.residual <= max((1 - DISCOUNT) * tolerance, bl.mdp.rounding_floor(bandit(), _backup(solution)))


def _backup(solution: bl.mdp.TabularSolution) -> bl.mdp.Backup:
    return bl.mdp.soft_backup(solution.model, solution.values)


def test_a_start_at_the_answer_takes_no_step() -> None:
    solution = bl.mdp.soft_policy_iteration(bandit())
    assert bl.mdp.soft_policy_iteration(bandit(), solution.values).iterations == 0


def test_too_few_steps_are_reported() -> None:
    solution = bl.mdp.soft_policy_iteration(bandit(), np.full(1, 100.0), maximum_iterations=0)
    assert solution.status is bl.Status.BUDGET_SPENT
    assert solution.residual > 1.0


@attrs.frozen
class Broken:
    """An objective whose value, or whose gradient in the policy, is not a number."""

    value: float
    slope: float

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        return self.value, np.zeros_like(x), np.full_like(policy, self.slope)


@pytest.mark.parametrize("objective", [Broken(np.nan, 0.0), Broken(0.0, np.nan)])
def test_an_objective_that_is_not_finite_is_a_status(objective: Broken) -> None:
    lower = bl.ParametricMDP(np.ones((1, 3, 1)), bl.parametric.TabularReward(REWARDS), DISCOUNT, TEMPERATURE)
    problem = bl.BilevelProblem(lower, objective)
    x = np.zeros(3)
    hyper = bl.problems.implicit_gradient(problem, x, bl.mdp.soft_policy_iteration(lower.model(x)))
    assert hyper.status is bl.Status.NON_FINITE
    assert hyper.occupancy is None
    with pytest.raises(bl.outer_loop.StepFailed, match="the exact gradient: non finite"):
        bl.value_and_gradient(problem, x)


def test_a_copy_with_other_rewards_works_its_scaled_rewards_out_anew() -> None:
    model = bandit()
    assert (model.scaled_rewards == REWARDS / TEMPERATURE).all()
    copy = model.replace(rewards=2 * REWARDS)
    assert (copy.scaled_rewards == 2 * REWARDS / TEMPERATURE).all()
    assert (model.scaled_rewards == REWARDS / TEMPERATURE).all()
