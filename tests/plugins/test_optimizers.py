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


@pytest.mark.parametrize("name", ["gradient-descent", "adam", "basin-hopping"])
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


@pytest.mark.parametrize("name", ["gradient-descent", "adam", "basin-hopping"])
def test_both_minimise_the_synthetic_problem_with_exact_gradients(name: str) -> None:
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-policy-iteration"),
        estimator=bl.hypergradient_estimator("implicit"),
        upper=bl.upper_level_optimizer(name, step_size=0.008 if name == "gradient-descent" else 0.05),
    )
    run = algorithm.run(bl.problem("synthetic-quadratic"), iterations=2000, tolerance=1e-4)
    assert run.status is bl.Status.CONVERGED


# --- Basin hopping


def valleys(x: bl.Array) -> tuple[float, bl.Array]:
    """`¼x⁴ − ½x² + 0.1x` summed: a poor minimum near 0.95 and a good one near −1.05 in each coordinate."""
    return float((x**4 / 4 - x**2 / 2 + 0.1 * x).sum()), x**3 - x + 0.1


def descend(optimizer: bl.UpperLevelOptimizer, x: bl.Array, iterations: int) -> list[tuple[bl.Array, float]]:
    """The points that are tried, with their objectives."""
    state, tried = optimizer.init(x), []
    for _ in range(iterations):
        value, gradient = valleys(x)
        tried.append((x, value))
        hyper = bl.HyperGradient(gradient, np.zeros_like(x), value, None, bl.Cost(), bl.Status.CONVERGED)
        x, state = optimizer.update(x, hyper, state)
    return tried


def test_basin_hopping_finds_the_good_valley_where_adam_stays_in_the_poor_one() -> None:
    start = np.array([1.0, 1.0])
    poor = descend(bl.upper_level_optimizer("adam", step_size=0.05), start, 300)[-1]
    good = descend(bl.upper_level_optimizer("basin-hopping", step_size=0.05, period=20, hops=13), start, 300)[-1]
    assert (poor[0] > 0.9).all()
    assert (good[0] < -1.0).all()
    assert good[1] < poor[1] - 0.3


def test_basin_hopping_without_hops_is_adam_from_the_best_point_once_again() -> None:
    start = np.array([1.5, -0.3])
    adam = descend(bl.upper_level_optimizer("adam", step_size=0.05), start, 30)
    hopping = descend(bl.upper_level_optimizer("basin-hopping", step_size=0.05, period=30, hops=0), start, 60)
    for one, other in zip(adam, hopping, strict=False):
        np.testing.assert_array_equal(one[0], other[0])
    best = min(hopping[:31], key=lambda entry: entry[1])[0]
    again = descend(bl.upper_level_optimizer("adam", step_size=0.05), best, 29)
    for one, other in zip(again, hopping[31:], strict=False):
        np.testing.assert_array_equal(one[0], other[0])


def test_basin_hopping_hops_from_the_best_point_and_ends_at_it_or_below() -> None:
    optimizer = bl.upper_level_optimizer("basin-hopping", step_size=0.05, period=10, hops=4, spread=2.0, seed=7)
    tried = descend(optimizer, np.array([1.0, -1.0]), 120)
    for hop in range(1, 5):
        best = min(tried[: 10 * hop + 1], key=lambda entry: entry[1])[0]
        rng = bl.randomness.stream(7, "basin-hopping", hop)
        landing = best + 2.0 * rng.random() * rng.standard_normal(2)
        np.testing.assert_array_equal(tried[10 * hop + 1][0], landing)
    best = min(tried[:51], key=lambda entry: entry[1])
    np.testing.assert_array_equal(tried[51][0], best[0])
    assert tried[-1][1] <= best[1] + 1e-6  # Adam's last steps are of the size 1e-3 around the minimum


def test_basin_hopping_repeats_itself_bit_for_bit_and_differs_between_seeds() -> None:
    def last(seed: int) -> bl.Array:
        optimizer = bl.upper_level_optimizer("basin-hopping", period=5, hops=3, seed=seed)
        return descend(optimizer, np.array([1.0, -1.0]), 18)[-1][0]

    np.testing.assert_array_equal(last(0), last(0))
    assert (last(0) != last(1)).all()


@pytest.mark.parametrize("option", ["step_size", "period", "hops", "spread", "seed"])
def test_basin_hoppings_options_are_checked(option: str) -> None:
    with pytest.raises(bl.InputError, match=f"option '{option}' of 'basin-hopping'"):
        bl.upper_level_optimizer("basin-hopping", **{option: -1})
