"""Upper-level optimisers take the steps of their definitions."""

from __future__ import annotations

import numpy as np
import pytest

import bilevelrl as bl


def hyper(gradient: bl.Array) -> bl.HyperGradient:
    return bl.HyperGradient(gradient, np.zeros_like(gradient), 0.0, None, bl.Cost(), bl.Status.CONVERGED)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_gradient_descent_steps_by_beta_over_k_plus_one_to_the_p(power: float) -> None:
    optimizer = bl.upper_level_optimizer("gradient-descent", step_size=0.3, decay_power=power)
    x, gradient = np.array([1.0, -2.0]), np.array([0.5, 4.0])
    state = optimizer.init(x)
    for k in range(4):
        moved, state = optimizer.update(x, hyper(gradient), state)
        np.testing.assert_allclose(x - moved, 0.3 / (k + 1) ** power * gradient)
        x = moved


def test_adam_follows_the_published_algorithm() -> None:
    """Kingma and Ba 2015, algorithm 1, written out for a scalar over five noisy gradients."""
    step_size, b1, b2, epsilon = 0.02, 0.9, 0.999, 1e-8
    optimizer = bl.upper_level_optimizer("adam", step_size=step_size)
    x, state = np.array([1.0]), optimizer.init(np.array([1.0]))
    m = v = 0.0
    expected = 1.0
    for t, g in enumerate([0.3, -1.0, 2.0, 0.0, 0.5], start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        expected -= step_size * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        x, state = optimizer.update(x, hyper(np.array([g])), state)
        assert x[0] == pytest.approx(expected, rel=1e-12)


def test_adams_first_step_has_the_length_of_its_step_size_in_every_coordinate() -> None:
    optimizer = bl.upper_level_optimizer("adam", step_size=0.1)
    x = np.zeros(3)
    moved, _ = optimizer.update(x, hyper(np.array([1e-3, -5.0, 200.0])), optimizer.init(x))
    # ε = 1e-8 against a gradient of 1e-3 shortens the step by 1e-5 of itself.
    np.testing.assert_allclose(moved, [-0.1, 0.1, -0.1], rtol=2e-5)


@pytest.mark.parametrize("name", ["gradient-descent", "adam"])
def test_state_goes_in_and_out_and_nothing_else_changes(name: str) -> None:
    """The same (x, gradient, state) gives the same step, and none of them is written to."""
    optimizer = bl.upper_level_optimizer(name)
    x, gradient = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    _, state = optimizer.update(x, hyper(gradient), optimizer.init(x))
    before = {key: array.copy() for key, array in state.arrays.items()}
    first, _ = optimizer.update(x, hyper(gradient), state)
    second, _ = optimizer.update(x, hyper(gradient), state)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, [1.0, 2.0])
    np.testing.assert_array_equal(gradient, [3.0, 4.0])
    for key, array in before.items():
        np.testing.assert_array_equal(state.arrays[key], array)


@pytest.mark.parametrize("name", ["gradient-descent", "adam"])
def test_both_minimise_the_synthetic_problem_with_exact_gradients(name: str) -> None:
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-policy-iteration"),
        estimator=bl.hypergradient_estimator("implicit"),
        upper=bl.upper_level_optimizer(name, step_size=0.008 if name == "gradient-descent" else 0.05),
    )
    run = algorithm.run(bl.problem("synthetic-quadratic"), iterations=2000, tolerance=1e-4)
    assert run.status is bl.Status.CONVERGED
