"""The rivals before the public kit, with options that tests/kit/test_first_party.py does not try."""

import numpy as np
from hypothesis import settings

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl_rivals.aid import ApproximateImplicit
from bilevelrl_rivals.pbrl import ValuePenalty
from bilevelrl_stochastic.hpgd import HyperPolicyGradient


@testing.parametrize_with_checks(
    [
        lambda: ApproximateImplicit(damping=0.0),
        lambda: HyperPolicyGradient(truncation=2),
    ],
    examples=max(3, min(50, settings.default.max_examples)),
)
def test_the_law_holds(check):
    check()


def test_a_larger_objective_needs_a_larger_penalty():
    """Why `scaling_the_objective_scales_the_gradient` is not for pbrl.

    4f with σ has the gradient of f with σ/4, four times; with 4σ all is scaled.
    """
    rewards = bl.parametric.TabularReward(np.zeros((2, 2)))
    lower = bl.ParametricMDP(np.full((2, 2, 2), 0.5), rewards, 0.5, 1.0)
    target, x = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.3, 0.0, -0.2, 0.1])
    gradients = {}
    for weight, penalty in ((1.0, 10.0), (4.0, 10.0), (4.0, 40.0)):
        problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(0.0, weight, policy_target=target))
        solution = bl.lower_level_solver("soft-policy-iteration").solve(
            problem, x, None, bl.randomness.stream(0, "lower")
        )
        hyper = None
        for _ in range(20):
            hyper = ValuePenalty(penalty=penalty).estimate(
                problem, x, solution, hyper, bl.randomness.stream(0, "estimator")
            )
        gradients[weight, penalty] = hyper.gradient
    np.testing.assert_allclose(gradients[4.0, 40.0], 4 * gradients[1.0, 10.0], rtol=1e-8)
    assert np.linalg.norm(gradients[4.0, 10.0] - 4 * gradients[1.0, 10.0]) > 0.01 * np.linalg.norm(gradients[4.0, 10.0])
