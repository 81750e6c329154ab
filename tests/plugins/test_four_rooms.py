"""Four rooms, against a rewrite of its own: a drawn map, loops over cells, the goal as a fixed value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import bilevelrl as bl
from slowness import slow_unless

MAP = [
    "#############",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#S....#.....#",
    "#.....#.....#",
    "##.####.....#",
    "#.....###.###",
    "#...$.#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#############",
]
FREE = [(row, column) for row, line in enumerate(MAP) for column, letter in enumerate(line) if letter != "#"]
PLACE = {cell: number for number, cell in enumerate(FREE)}
UP, RIGHT, DOWN, LEFT = MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]
GOALS = [(1, 9), (11, 11)]
GAMMA = 0.99
TEMPERATURES = (0.001, 0.003, 0.005)


def moved(cell: tuple[int, int], move: tuple[int, int]) -> tuple[int, int]:
    row, column = cell[0] + move[0], cell[1] + move[1]
    return cell if MAP[row][column] == "#" else (row, column)


def chances(cell: tuple[int, int], action: int, intended: float = 0.56) -> bl.Array:
    """(104,) where one move leads."""
    row = np.zeros(len(FREE))
    for number, move in enumerate(MOVES):
        row[PLACE[moved(cell, move)]] += intended if number == action else (1 - intended) / 3
    return row


def incentive(w: bl.Array) -> bl.Array:
    """(104,) `x_c = −0.2 p_c`."""
    return -0.2 * np.exp(w[:104]) / np.exp(w).sum()


def follower(w: bl.Array, goal: tuple[int, int], temperature: float, intended: float) -> tuple[bl.Array, bl.Array]:
    """V (104,) and π (104, 4) by soft value iteration; at the goal Q is 1, and stays it."""
    kernel = np.array([[chances(cell, action, intended) for action in range(4)] for cell in FREE])
    values, end = np.zeros(104), PLACE[goal]
    for _ in range(4000):  # 0.99⁴⁰⁰⁰ = 3e-18
        action_values = incentive(w)[:, None] + GAMMA * (kernel @ values)
        action_values[end] = 1.0
        largest = action_values.max(axis=1)
        weights = np.exp((action_values - largest[:, None]) / temperature)
        values = largest + temperature * np.log(weights.sum(axis=1))
    return values, weights / weights.sum(axis=1, keepdims=True)


def leader(w: bl.Array, policy: bl.Array, goal: tuple[int, int], penalty: float, intended: float) -> float:
    """U(4, 1): 1 a step at (8, 4), `−ρ‖x‖₁` at the goal and nothing after."""
    chain = np.array(
        [sum(policy[place, a] * chances(cell, a, intended) for a in range(4)) for place, cell in enumerate(FREE)]
    )
    end = PLACE[goal]
    chain[end] = 0.0
    pays = np.zeros(104)
    pays[PLACE[8, 4]] = 1.0
    pays[end] = -penalty * np.abs(incentive(w)).sum()
    return float(np.linalg.solve(np.eye(104) - GAMMA * chain, pays)[PLACE[4, 1]])


def exact(problem: bl.BilevelProblem, w: bl.Array, near: Any = None) -> bl.mdp.TabularSolution:
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13)
    return solver.solve(problem, w, near, bl.randomness.stream(0, "lower"))


def somewhere(seed: int = 0) -> bl.Array:
    """A w whose incentives differ by orders of magnitude."""
    return 1.5 * bl.randomness.stream(seed, "somewhere").standard_normal(105)


@pytest.mark.parametrize(
    ("temperature", "penalty", "intended"), [(0.001, 1.0, 0.56), (0.003, 3.0, 0.56), (0.005, 5.0, 0.9)]
)
def test_it_is_the_environment_of_the_rewrite(temperature: float, penalty: float, intended: float) -> None:
    """Values, policies and the leader's value of both contexts; 1e-9 is what 4000 sweeps and τ = 1e-3 leave."""
    problem = bl.problem("four-rooms", temperature=temperature, penalty=penalty, intended=intended)
    w = somewhere()
    solution = exact(problem, w)
    worth = []
    for context, goal in enumerate(GOALS):
        own = problem.lower.restrict(w, solution, context)
        values, policy = follower(w, goal, temperature, intended)
        assert own.values[:104] == pytest.approx(values, abs=1e-11)
        assert own.policy[:104] == pytest.approx(policy, abs=1e-8)
        worth.append(leader(w, policy, goal, penalty, intended))
    measures = problem.measures(w, solution)
    assert [measures[f"  leader's value, context {context}"] for context in range(2)] == pytest.approx(worth, abs=1e-9)
    assert measures["leader's value"] == pytest.approx(np.mean(worth), abs=1e-9)
    assert -bl.value_and_gradient(problem, w)[0] == pytest.approx(np.mean(worth), abs=1e-9)
    assert measures["incentives spent"] == pytest.approx(np.abs(incentive(w)).sum())


def test_there_are_104_cells_and_the_moves_of_the_map() -> None:
    assert len(FREE) == 104
    problem = bl.problem("four-rooms", intended=1.0)
    model = problem.lower.contexts[0].model(np.zeros(105))
    assert (model.states, model.actions, problem.dimension) == (105, 4, 105)
    for place, cell in enumerate(FREE):
        if cell == GOALS[0]:
            continue
        for action, move in enumerate(MOVES):
            assert model.transitions.row(place, action)[0].tolist() == [PLACE[moved(cell, move)]]


def test_a_move_into_a_wall_stays() -> None:
    """From (1, 1) up and left are walls: up stays with 0.56 for itself and a third of the rest for left."""
    lower = bl.problem("four-rooms").lower.contexts[0]
    successors, probabilities = lower.model(np.zeros(105)).transitions.row(0, MOVES.index(UP))
    expected = {PLACE[1, 1]: 0.56 + 0.44 / 3, PLACE[1, 2]: 0.44 / 3, PLACE[2, 1]: 0.44 / 3}
    assert dict(zip(successors.tolist(), probabilities.tolist(), strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_goal_is_worth_one_and_the_entropy_of_one_choice(temperature: float) -> None:
    problem = bl.problem("four-rooms", temperature=temperature)
    solution = exact(problem, somewhere())
    for context, goal in enumerate(GOALS):
        own = problem.lower.restrict(somewhere(), solution, context)
        assert own.values[PLACE[goal]] == pytest.approx(1.0 + temperature * np.log(4.0), abs=1e-14)
        assert own.action_values[PLACE[goal]] == pytest.approx(np.ones(4), abs=1e-14)
        assert own.policy[PLACE[goal]] == pytest.approx(np.full(4, 0.25), abs=1e-11)
        assert own.values[104] == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("temperature", slow_unless((0.003).__eq__, TEMPERATURES))
@pytest.mark.parametrize("place", ["start", "somewhere"])
def test_the_gradient_is_that_of_central_differences(temperature: float, place: str) -> None:
    """To 1e-6 of its length; differences of f over 2·10⁻⁴ are themselves wrong by about 1e-8 of it."""
    problem = bl.problem("four-rooms", temperature=temperature, penalty=3.0)
    w = problem.initial_point(bl.randomness.stream(0, "start")) if place == "start" else somewhere(1)
    _, gradient = bl.value_and_gradient(problem, w)
    near = exact(problem, w)

    def value(point: bl.Array) -> float:
        return float(problem.objective.value_and_gradients(point, exact(problem, point, near).policy)[0])

    step = 1e-4
    differences = np.array([(value(w + shift) - value(w - shift)) / (2 * step) for shift in step * np.eye(105)])
    assert np.linalg.norm(differences - gradient) < 1e-6 * np.linalg.norm(gradient)


def test_the_simulator_absorbs_at_the_goal_of_its_context() -> None:
    """What is drawn follows the map: everybody starts at (4, 1), half for each goal, and ends after that goal."""
    simulator = bl.problem("four-rooms").lower.simulator(np.zeros(105))
    paths = simulator.rollout(np.full((210, 4), 0.25), 400, 3000, bl.randomness.stream(0, "paths"))
    first = paths.observations[:, 0]
    assert set(first) == {PLACE[4, 1], 105 + PLACE[4, 1]}
    assert abs(np.mean(first < 105) - 0.5) < 0.15  # six standard errors
    for context, goal in enumerate(GOALS):
        own = paths.observations[first // 105 == context]
        after = own[:, 1:][own[:, :-1] == 105 * context + PLACE[goal]]
        assert after.size
        assert (after == 105 * context + 104).all()


def climber(name: str, **options: Any) -> bl.Algorithm:
    lower = bl.lower_level_solver("soft-policy-iteration")
    return bl.Algorithm(
        lower, bl.hypergradient_estimator("implicit"), bl.upper_level_optimizer(name, **options), name="exact"
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("penalty", [1.0, 3.0, 5.0])
def test_ascent_improves_the_leaders_value_from_the_start_in_all_nine_cells(temperature: float, penalty: float) -> None:
    problem = bl.problem("four-rooms", temperature=temperature, penalty=penalty)
    run = climber("adam", step_size=0.3).run(problem, iterations=12)
    assert -run.history["objective"][-1] > -run.history["objective"][0] + 0.1


@pytest.mark.slow
def test_basin_hopping_finds_a_detour_that_adam_does_not() -> None:
    """At λ = 0.001, in 400 iterations each; docs/explanation/four-rooms.md has the whole table."""
    problem = bl.problem("four-rooms", temperature=0.001, penalty=1.0)
    adam = climber("adam", step_size=0.3).run(problem, iterations=400)
    hopping = climber("basin-hopping", hops=8).run(problem, iterations=400)
    assert -adam.objective < 0.6
    assert -hopping.objective > 1.0


def test_incentives_are_a_softmax_of_a_budget() -> None:
    problem, w = bl.problem("four-rooms"), somewhere()
    rewards = problem.lower.contexts[0].model(w).rewards
    expected = incentive(w)
    expected[PLACE[GOALS[0]]] = 1.0
    assert rewards[:104] == pytest.approx(np.repeat(expected[:, None], 4, axis=1))
    assert (rewards[104] == 0).all()
    keeps_all = np.where(np.arange(105) == 104, 800.0, 0.0)
    solution = exact(problem, keeps_all)
    assert problem.measures(keeps_all, solution)["incentives spent"] == pytest.approx(0.0, abs=1e-300)


def test_runs_start_near_zero_each_at_its_own_point() -> None:
    problem = bl.problem("four-rooms")
    starts = np.array([problem.initial_point(bl.randomness.stream(seed, "start")) for seed in range(200)])
    assert starts.std() == pytest.approx(0.01, rel=0.05)  # 21,000 numbers: five standard errors are 2.5 %
    assert np.abs(starts.mean(axis=0)).max() < 0.01 * 6 / np.sqrt(200)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"penalty": -1.0}, {"intended": 1.5}, {"intended": "often"}])
def test_options_are_checked(option: dict[str, Any]) -> None:
    name = next(iter(option))
    with pytest.raises(bl.InputError, match=f"option '{name}' of 'four-rooms'"):
        bl.problem("four-rooms", **option)


def test_the_picture_shows_incentives_and_both_followers() -> None:
    problem = bl.problem("four-rooms")
    w = somewhere()
    axes = Figure().subplots()
    problem.picture(axes, w, exact(problem, w))
    image = np.asarray(axes.images[0].get_array())
    assert image[4, 1] == pytest.approx(-incentive(w)[PLACE[4, 1]])
    assert np.ma.getmaskarray(axes.images[0].get_array()).sum() == 169 - 104
    assert [text.get_text() for text in axes.texts] == ["G", "G", "start", "paid"]
