"""Real input against another library: hard-optimal values of Gymnasium's tables by QuantEcon's `DiscreteDP`."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import bilevelrl as bl

TAXI = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
CLIFF = max(name for name in gymnasium.registry if name.startswith("CliffWalking-v"))
ENVIRONMENTS = {
    "FrozenLake 4x4": ("FrozenLake-v1", {"map_name": "4x4"}),
    "FrozenLake 8x8": ("FrozenLake-v1", {"map_name": "8x8"}),
    "Taxi": (TAXI, {}),
    "CliffWalking": (CLIFF, {}),
}


@pytest.mark.slow  # QuantEcon compiles for a quarter of a minute
@pytest.mark.parametrize("temperature", [1e-3, 1e-2])
@pytest.mark.parametrize("discount", [0.9, 0.99])
@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::numba.core.errors.NumbaWarning")
def test_soft_values_at_small_temperature_bracket_the_hard_optimum(
    name: str, discount: float, temperature: float
) -> None:
    """0 ≤ V*_τ − V*_0 ≤ τ log|A|/(1−γ): the entropy bonus never hurts, and never pays more than its maximum."""
    from quantecon.markov import DiscreteDP

    environment, options = ENVIRONMENTS[name]
    mdp = bl.integrations.from_gymnasium(
        gymnasium.make(environment, **options), discount=discount, temperature=temperature
    )
    rows, successors, probabilities = mdp.transitions.stored()
    kernel = np.zeros((mdp.states * mdp.actions, mdp.states))
    kernel[rows, successors] = probabilities
    hard = DiscreteDP(mdp.rewards, kernel.reshape(mdp.states, mdp.actions, mdp.states), discount)
    optimum = hard.solve(method="policy_iteration").v

    problem = bl.BilevelProblem(
        bl.ParametricMDP(mdp.transitions, bl.parametric.TabularReward(mdp.rewards), discount, temperature, mdp.initial),
        bl.objectives.ReturnObjective(mdp),
    )
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-9)
    soft = solver.solve(problem, np.zeros(problem.dimension), None, bl.randomness.stream(0, "lower"))
    assert soft.status is bl.Status.CONVERGED
    gap = soft.values - optimum
    # 2e-9 for the two solvers' own accuracy.
    assert gap.min() >= -2e-9
    assert gap.max() <= temperature * np.log(mdp.actions) / (1 - discount) + 2e-9
