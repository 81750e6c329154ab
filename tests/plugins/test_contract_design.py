"""contract-design against the textbook's contract in one state, a grid over payments, and optimality conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize

import bilevelrl as bl
from plain_numpy import check_gradient, dense

# One state, idle or full effort, failure or success: success has probability LOW or HIGH and is worth 1.
LOW, HIGH, COST = 0.2, 0.8, 0.15


def textbook(temperature: float, cap: float = 1.0, **options: Any) -> bl.BilevelProblem:
    return bl.problem(
        "contract-design",
        conditions=1,
        efforts=2,
        outcomes=2,
        cost=COST,
        easy=LOW,
        skill=HIGH - LOW,
        cap=cap,
        temperature=temperature,
        **options,
    )


def by_hand(failure: Any, success: Any, temperature: float) -> Any:
    """The principal's profit a period: full effort has probability σ((Δ·(success − failure) − cost)/τ)."""
    full = 1 / (1 + np.exp(-((HIGH - LOW) * (success - failure) - COST) / temperature))
    chance = LOW + (HIGH - LOW) * full
    return chance * (1 - success) - (1 - chance) * failure


def optimum(problem: bl.BilevelProblem, x: bl.Array | None = None) -> Any:
    """L-BFGS-B on the problem's own box."""
    n = problem.dimension
    box = [tuple(float(b) for b in np.broadcast_arrays(problem.feasible_set.lower, problem.feasible_set.upper))] * n
    return scipy.optimize.minimize(
        lambda x: bl.value_and_gradient(problem, x),
        np.zeros(n) if x is None else x,
        jac=True,
        method="L-BFGS-B",
        bounds=box,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )


@pytest.mark.parametrize("discounts", [(0.0, 0.0), (0.9, 0.5)])
def test_one_state_has_its_closed_form_at_any_payments(discounts: tuple[float, float]) -> None:
    """Whatever the discounts, since f is the profit of an average period; and so is its gradient's closed form."""
    problem = textbook(0.1, discount=discounts[0], principal_discount=discounts[1])
    step = 1e-5
    for failure in np.linspace(0.0, 0.9, 4):
        for success in np.linspace(0.0, 0.9, 4):
            value, gradient = bl.value_and_gradient(problem, np.array([failure, success]))
            assert -value == pytest.approx(by_hand(failure, success, 0.1), abs=1e-13)
            slope = [
                (by_hand(failure + dx, success + dy, 0.1) - by_hand(failure - dx, success - dy, 0.1)) / (2 * step)
                for dx, dy in ((step, 0.0), (0.0, step))
            ]
            np.testing.assert_allclose(-gradient, slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.15, 0.1, 0.03])
def test_optimum_is_that_of_a_grid_over_both_payments_and_of_the_first_order_condition(temperature: float) -> None:
    """Failure is never paid for; success by `Δ² σ(1−σ)(1 − w)/τ = p(w)`."""
    grid = np.linspace(0.0, 1.0, 1001)
    profits = by_hand(grid[:, None], grid[None, :], temperature)
    i, j = np.unravel_index(profits.argmax(), profits.shape)
    assert grid[i] == 0.0
    answer = optimum(textbook(temperature), np.array([0.1, grid[j] + 0.05]))
    np.testing.assert_allclose(answer.x, [0.0, grid[j]], atol=1.001e-3)
    assert -answer.fun >= profits.max() - 1e-14

    def condition(success: float) -> float:
        full = 1 / (1 + np.exp(-((HIGH - LOW) * success - COST) / temperature))
        gained = (HIGH - LOW) ** 2 * full * (1 - full) * (1 - success) / temperature
        return float(gained - LOW - (HIGH - LOW) * full)

    assert answer.x[1] == pytest.approx(scipy.optimize.brentq(condition, 0.2, 0.9, xtol=1e-14), abs=1e-6)


def test_agent_who_hardly_listens_is_paid_nothing() -> None:
    """At τ = 0.4 no payment moves him enough: the grid's best point is the corner, and the gradient holds it there."""
    grid = np.linspace(0.0, 1.0, 101)
    profits = by_hand(grid[:, None], grid[None, :], 0.4)
    assert np.unravel_index(profits.argmax(), profits.shape) == (0, 0)
    _, gradient = bl.value_and_gradient(textbook(0.4), np.zeros(2))
    assert (gradient > 0).all()
    np.testing.assert_array_equal(optimum(textbook(0.4), np.array([0.2, 0.2])).x, [0.0, 0.0])


def test_contract_of_the_textbook_is_the_limit_of_a_cold_agent() -> None:
    """As τ → 0 success pays `cost/Δ`, and the agent keeps the rent `LOW·cost/Δ` that limited liability leaves him.

    Laffont and Martimort 2002, chapter 4. For τ > 0 the payment is above it by O(τ log 1/τ).
    """
    least, first_best = COST / (HIGH - LOW), HIGH - COST
    for temperature in (0.03, 0.01, 0.003, 0.001):
        answer = optimum(textbook(temperature), np.array([0.0, least + 0.05]))
        # The agent works with probability 1 − δ at `(cost + τ log(1/δ))/Δ`; the principal picks δ of the order of τ.
        excess = answer.x[1] - least
        assert 0 < excess < 2 * temperature * np.log(1 / temperature) / (HIGH - LOW)
        missing = first_best - LOW * least - -answer.fun
        assert 0 < missing < 3 * temperature * np.log(1 / temperature)


def test_payment_stops_at_the_cap_where_it_would_be_more() -> None:
    problem = textbook(0.1, cap=0.25)
    answer = optimum(problem)
    np.testing.assert_array_equal(answer.x, [0.0, 0.25])
    _, gradient = bl.value_and_gradient(problem, answer.x)
    assert gradient[0] > 0 > gradient[1]
    assert bl.problems.stationarity(problem.feasible_set, answer.x, gradient) == 0.0


def test_optimum_of_the_machine_meets_the_conditions_of_karush_kuhn_and_tucker() -> None:
    """At the floor the profit falls, at the cap it rises, between it is flat; all three occur, from any start."""
    problem = bl.problem("contract-design")
    rng = np.random.default_rng(0)
    answers = [optimum(problem, 0.3 * rng.random(problem.dimension)) for _ in range(3)]
    for answer in answers:
        _, gradient = bl.value_and_gradient(problem, answer.x)
        floor, cap = answer.x <= 0.0, answer.x >= 0.3
        between = ~floor & ~cap
        assert floor.any()
        assert cap.any()
        assert between.any()
        assert (gradient[floor] > 0).all()
        assert (gradient[cap] < 0).all()
        np.testing.assert_allclose(gradient[between], 0.0, atol=1e-5)
        assert answer.fun == pytest.approx(answers[0].fun, abs=1e-9)
    # No payments in a dense sample, nor any single change on a grid, do better.
    for x in 0.3 * rng.random((200, problem.dimension)):
        assert bl.value_and_gradient(problem, x)[0] > answers[0].fun
    for k in range(problem.dimension):
        for level in np.linspace(0.0, 0.3, 7):
            changed = answers[0].x.copy()
            changed[k] = level
            assert bl.value_and_gradient(problem, changed)[0] >= answers[0].fun - 1e-9


def test_no_contract_earns_more_than_the_first_best() -> None:
    """Profit is welfare less the agent's share: at most the hard optimum of welfare, plus `τ log A`.

    Idle, the agent has at least 0; his softmax costs him at most `τ log A` a period.
    """
    problem = bl.problem("contract-design", discount=0.9, principal_discount=0.9, cap=1.0)
    model = problem.lower.model(np.zeros(problem.dimension))
    worth = problem.objective.terms[0][1].true_mdp.rewards.base
    welfare, values = worth + model.rewards, np.zeros(model.states)
    for _ in range(1000):
        values = (welfare + 0.9 * dense(model) @ values).max(axis=1)
    best = 0.1 * values.mean()
    rng = np.random.default_rng(1)
    profits = [-bl.value_and_gradient(problem, rng.random(problem.dimension) ** 2)[0] for _ in range(50)]
    assert max(profits) <= best + 0.05 * np.log(3)
    assert -optimum(problem).fun <= best + 0.05 * np.log(3)


@pytest.mark.parametrize("options", [{}, {"by_condition": False, "outcomes": 4, "principal_discount": 0.7}], ids=str)
def test_hypergradient_agrees_with_central_differences(options: dict[str, Any]) -> None:
    problem = bl.problem("contract-design", temperature=0.1, **options)
    check_gradient(problem, 0.3 * np.random.default_rng(0).random(problem.dimension))


def test_machine_is_as_its_page_says() -> None:
    """Two conditions, efforts idle and full, three outcomes: chances, wear and repair by hand."""
    problem = bl.problem(
        "contract-design", conditions=2, efforts=2, outcomes=3, easy=0.2, skill=0.6, wear=0.5, repair=0.4, cost=0.3
    )
    pay = np.arange(6) / 20
    model = problem.lower.model(pay)
    success = np.array([[0.2, 0.2 + 0.6 / 2], [0.2, 0.2 + 0.6]])
    chances = np.stack([(1 - success) ** 2, 2 * success * (1 - success), success**2], axis=-1)
    costs = np.array([[0.0, 0.3], [0.0, 0.3]])
    np.testing.assert_allclose(model.rewards, np.einsum("say,sy->sa", chances, pay.reshape(2, 3)) - costs, atol=1e-15)
    expected = np.array([[[1.0, 0.0], [0.6, 0.4]], [[0.5, 0.5], [0.0, 1.0]]])
    np.testing.assert_allclose(dense(model), expected, atol=1e-15)
    principal = problem.objective.terms[0][1].true_mdp.model(pay)
    np.testing.assert_allclose(principal.rewards + model.rewards, chances @ [0.0, 0.5, 1.0] - costs, atol=1e-15)


def test_one_contract_for_all_conditions_earns_no_more_than_one_for_each() -> None:
    same, each = (-optimum(bl.problem("contract-design", by_condition=flag)).fun for flag in (False, True))
    assert same < each


def test_m_sobirl_finds_the_optimal_contract() -> None:
    problem = bl.problem("contract-design")
    run = bl.algorithm("m-sobirl").run(problem, iterations=200)
    answer = optimum(problem, run.x)
    assert run.objective == pytest.approx(answer.fun, abs=1e-4)
    np.testing.assert_allclose(run.x, answer.x, atol=0.01)
    before, after = ({label: row[i] for label, *row in run.comparison()} for i in (0, 1))
    assert before["principal's profit a period"] < 0.18
    assert after["principal's profit a period"] > 0.41


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"efforts": 1}, "option 'efforts' of 'contract-design' is 1; expected an integer of at least 2"),
        ({"conditions": 0}, "option 'conditions' of 'contract-design' is 0; expected an integer of at least 1"),
        ({"cap": 0.0}, "option 'cap' of 'contract-design' is 0.0; expected a finite number above 0"),
        ({"easy": 1.5}, "option 'easy' of 'contract-design' is 1.5; expected a finite number at least 0 and at most 1"),
        ({"cost": -1.0}, "option 'cost' of 'contract-design' is -1.0; expected a finite number at least 0"),
        ({"by_condition": "yes"}, "option 'by_condition' of 'contract-design' is 'yes'; expected true or false"),
        ({"principal_discount": 1.0}, "option 'principal_discount' of 'contract-design' is 1.0; expected a finite"),
    ],
)
def test_bad_options_are_told_in_one_sentence(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(bl.InputError, match=sentence):
        bl.problem("contract-design", **option)
