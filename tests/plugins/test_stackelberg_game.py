"""stackelberg-game against games solved by hand, by a grid over the leader's policies, and in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize

import bilevelrl as bl
from bilevelrl_problems.stackelberg_game import markov_game
from plain_numpy import check_gradient, dense, discounted_visits, soft_policy

# A leader with up and down, a follower with left and right (Conitzer and Sandholm, EC 2006). Up is the leader's
# dominant choice; then the follower goes left, and she gets 2. Committed to up and down alike she gets 3.5.
LEADER = np.array([[2.0, 4.0], [1.0, 3.0]])
FOLLOWER = np.array([[1.0, 0.0], [0.0, 1.0]])


def matrix_game(temperature: float, discount: float = 0.6, leader_discount: float = 0.8) -> bl.BilevelProblem:
    """The game in one state, played for ever. r (B, S, A) is listed by the leader's choice."""
    return markov_game(
        bl.parametric.SoftmaxPolicy(1, 2),
        np.ones((2, 1, 2, 1)),
        FOLLOWER[:, None, :],
        LEADER[:, None, :],
        discount=discount,
        leader_discount=leader_discount,
        temperature=temperature,
    )


def by_hand(up: Any, temperature: float) -> Any:
    """The leader's mean payoff: the follower goes left with probability σ((2·up − 1)/τ), whatever the discount."""
    left = 1 / (1 + np.exp(-(2 * up - 1) / temperature))
    return up * (2 * left + 4 * (1 - left)) + (1 - up) * (1 * left + 3 * (1 - left))


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1])
def test_matrix_game_has_its_closed_form_at_any_commitment(temperature: float) -> None:
    """`f = −payoff/(1−γ_L)`, and its derivative by central differences of the closed form."""
    problem = matrix_game(temperature)
    for logit in np.linspace(-3, 3, 13):
        value, gradient = bl.value_and_gradient(problem, np.array([logit, 0.0]))
        up = 1 / (1 + np.exp(-logit))
        assert value == pytest.approx(-by_hand(up, temperature) / 0.2, rel=1e-12)
        step = 1e-5
        sides = [-by_hand(1 / (1 + np.exp(-(logit + sign * step))), temperature) / 0.2 for sign in (1, -1)]
        assert gradient[0] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-8)
        assert gradient[0] == pytest.approx(-gradient[1], abs=1e-12)  # only the difference of logits matters


@pytest.mark.parametrize("temperature", [0.3, 0.1, 0.03])
def test_optimum_of_the_matrix_game_is_that_of_a_grid_over_commitments(temperature: float) -> None:
    grid = np.linspace(0.0, 1.0, 100_001)
    best = grid[by_hand(grid, temperature).argmax()]
    problem = matrix_game(temperature)
    answer = scipy.optimize.minimize(
        lambda x: bl.value_and_gradient(problem, x), np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    assert bl.parametric.SoftmaxPolicy(1, 2)(answer.x)[0, 0] == pytest.approx(best, abs=2e-5)
    assert -answer.fun * 0.2 == pytest.approx(by_hand(best, temperature), abs=1e-8)


def test_commitment_is_worth_more_than_the_equilibrium() -> None:
    """As the follower's temperature falls the leader approaches 3.5, well above the 2 of the only equilibrium."""
    payoffs = []
    for temperature in (0.1, 0.03, 0.01):
        problem = matrix_game(temperature)
        answer = scipy.optimize.minimize(
            lambda x, p=problem: bl.value_and_gradient(p, x), np.zeros(2), jac=True, method="BFGS"
        )
        payoffs.append(-0.2 * answer.fun)
    assert 2.0 < payoffs[0] < payoffs[1] < payoffs[2] < 3.5
    # By hand: at up = ½ − δ the payoff is 3.5 − δ − 2·left, left ≈ exp(−2δ/τ): best at δ = τ log(4/τ)/2.
    assert payoffs[2] == pytest.approx(3.5 - 0.005 * (np.log(400) + 1), abs=1e-3)


def two_state_game(rng: np.random.Generator) -> tuple[bl.BilevelProblem, bl.Array, bl.Array, bl.Array]:
    """A random game of two states, two choices, two actions, in which x has one logit a state."""
    features = np.zeros((2, 2, 2))
    features[0, 0, 0] = features[1, 0, 1] = 1.0
    kernels = rng.dirichlet(np.ones(2), size=(2, 2, 2))
    follower, leader = rng.standard_normal((2, 2, 2, 2))
    problem = markov_game(
        bl.parametric.SoftmaxPolicy(2, 2, features),
        kernels,
        follower,
        leader,
        discount=0.7,
        leader_discount=0.8,
        temperature=0.2,
        initial=np.array([0.9, 0.1]),
    )
    return problem, kernels, follower, leader


def leaders_return(
    sigma: bl.Array,
    kernels: bl.Array,
    follower: bl.Array,
    leader: bl.Array,
    discounts: tuple[float, float] = (0.7, 0.8),
) -> float:
    """In plain NumPy: average the game, let the follower answer, add up what the leader earns."""
    kernel = np.einsum("sb,bsat->sat", sigma, kernels)
    policy = soft_policy(kernel, np.einsum("sb,bsa->sa", sigma, follower), discounts[0], 0.2)
    visits = discounted_visits(kernel, policy, discounts[1], np.array([0.9, 0.1]))
    return float((visits * np.einsum("sb,bsa->sa", sigma, leader)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_two_state_game_agrees_with_plain_numpy_and_with_a_grid_over_both_commitments(seed: int) -> None:
    problem, kernels, follower, leader = two_state_game(np.random.default_rng(seed))
    check_gradient(problem, np.array([0.4, -0.9]))
    levels = np.linspace(0.02, 0.98, 25)
    grid = np.array(
        [
            [leaders_return(np.array([[a, 1 - a], [b, 1 - b]]), kernels, follower, leader) for b in levels]
            for a in levels
        ]
    )
    logits = np.log(levels / (1 - levels))
    for i, j in ((0, 0), (3, 20), (12, 12), (24, 7)):
        value, _ = bl.value_and_gradient(problem, np.array([logits[i], logits[j]]))
        assert -value == pytest.approx(grid[i, j], abs=1e-10)
    # Descent from the best point of the grid, within the grid's range, gains at most what its mesh hides.
    i, j = np.unravel_index(grid.argmax(), grid.shape)
    answer = scipy.optimize.minimize(
        lambda x: bl.value_and_gradient(problem, x),
        np.array([logits[i], logits[j]]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(logits[0], logits[-1])] * 2,
    )
    assert grid.max() - 1e-9 <= -answer.fun <= grid.max() + 0.02 * np.ptp(grid)


@pytest.mark.parametrize("options", [{}, {"informed": True, "leader_discount": 0.7}], ids=str)
def test_hypergradient_agrees_with_central_differences(options: dict[str, Any]) -> None:
    problem = bl.problem("stackelberg-game", rows=3, columns=3, **options)
    check_gradient(problem, np.random.default_rng(0).standard_normal(problem.dimension))


def test_leaders_policy_enters_rewards_and_transitions() -> None:
    problem = bl.problem("stackelberg-game", rows=3, columns=3)
    low, high = (
        problem.lower.model(sign * np.ones(problem.dimension) * np.arange(problem.dimension)) for sign in (1, -1)
    )
    assert np.abs(dense(low) - dense(high)).max() > 0.1
    assert np.abs(low.rewards - high.rewards).max() > 0.1


def test_guard_in_the_only_way_catches_as_often_as_she_is_there() -> None:
    """Two rows, two columns: where σ puts the guard in a row, `catch` of those who enter it are caught and fined."""
    problem = bl.problem("stackelberg-game", rows=2, columns=2, catch=0.5, fine=2.0)
    x = np.log(np.array([0.2, 0.3, 0.5]))  # the upper row, the lower row, at home
    model = problem.lower.model(x)
    kernel = dense(model)
    # State 0 is the upper cell of the first column; up (or straight) leads to state 2, down to state 3.
    for action, row, waits in ((0, 2, 0.2), (1, 2, 0.2), (2, 3, 0.3)):
        expected = np.full(4, 0.0)
        expected[row] = 1 - 0.5 * waits
        expected[:2] = 0.5 * waits / 2
        np.testing.assert_allclose(kernel[0, action], expected, atol=1e-15)
        assert model.rewards[0, action] == pytest.approx(-2.0 * 0.5 * waits)
    # The last column sells, at 1 and 1/2, and starts anew.
    np.testing.assert_allclose(kernel[2:], np.broadcast_to([0.5, 0.5, 0.0, 0.0], (2, 3, 4)))
    np.testing.assert_allclose(model.rewards[2:], np.array([[1.0] * 3, [0.5] * 3]))


def test_smugglers_go_where_the_guard_is_not() -> None:
    """A guard who always waits in the upper market sends a cold smuggler to the lower one."""
    problem = bl.problem("stackelberg-game", rows=2, columns=2, temperature=0.01)
    solver = bl.lower_level_solver("soft-policy-iteration")
    for x, down in (([9.0, 0.0, 0.0], 1.0), ([0.0, 9.0, 0.0], 0.0)):
        policy = solver.solve(problem, np.array(x), None, np.random.default_rng(0)).policy
        assert policy[1, 2] + policy[1, 1] == pytest.approx(down, abs=1e-6)


def test_m_sobirl_improves_the_guards_return() -> None:
    run = bl.algorithm("m-sobirl", step_size=1.0).run(bl.problem("stackelberg-game"), iterations=200)
    before, after = ({label: row[i] for label, *row in run.comparison()} for i in (0, 1))
    assert before["guard's return"] < -0.94
    assert after["guard's return"] > -0.60
    value, _ = bl.value_and_gradient(run.problem, run.x)
    assert -value == pytest.approx(after["guard's return"], abs=1e-3)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"rows": 1}, "option 'rows' of 'stackelberg-game' is 1; expected an integer of at least 2"),
        ({"columns": 1.5}, "option 'columns' of 'stackelberg-game' is 1.5; expected an integer"),
        (
            {"catch": 1.5},
            "option 'catch' of 'stackelberg-game' is 1.5; expected a finite number at least 0 and at most",
        ),
        ({"fine": -1.0}, "option 'fine' of 'stackelberg-game' is -1.0; expected a finite number at least 0"),
        ({"informed": 1}, "option 'informed' of 'stackelberg-game' is 1; expected true or false"),
        ({"leader_discount": 1.0}, "option 'leader_discount' of 'stackelberg-game' is 1.0; expected a finite number"),
        ({"temperature": -0.1}, "option 'temperature' of 'stackelberg-game' is -0.1; expected a finite number above 0"),
    ],
)
def test_bad_options_are_told_in_one_sentence(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        bl.problem("stackelberg-game", **option)
