"""SoBiRL and Stoc-SoBiRL end to end: from trajectories alone, reproducibly, and towards the exact answer."""

from __future__ import annotations

from typing import Any

import attrs
import gymnasium
import numpy as np
import pytest

import bilevelrl as bl

TAXI = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
RECIPES = {
    "sobirl": {"groups": 16, "truncation": 20, "samples": 2000},
    "stoc-sobirl": {"batch": 16, "samples": 2000},
}


class Forbidden:
    """A follower whose simulator works and whose model raises when touched."""

    def __init__(self, problem: bl.BilevelProblem) -> None:
        self._lower = problem.lower
        self.dimension = problem.dimension
        self.simulator = problem.lower.simulator
        self.occupancy_forms = problem.lower.occupancy_forms

    def model(self, x: bl.Array) -> bl.SoftMDP:
        raise AssertionError("a model-free component asked for the transition model")

    @property
    def transitions(self) -> bl.mdp.Transitions:
        raise AssertionError("a model-free component asked for the transitions")

    def pullback(self, x: bl.Array, occupancy: bl.occupancy.Occupancy) -> bl.Array:
        return self._lower.pullback(x, occupancy)


@pytest.mark.parametrize("lower", ["soft-q-learning", "soft-actor-critic"])
@pytest.mark.parametrize("name", RECIPES)
def test_whole_algorithm_runs_where_the_model_raises_when_touched(name: str, lower: str) -> None:
    problem = bl.problem("gridworld-preferences", size=3, horizon=6)
    hidden = attrs.evolve(problem, lower=Forbidden(problem), measures=None, picture=None)
    recipe = bl.algorithm(name, **RECIPES[name])
    algorithm = attrs.evolve(recipe, lower=bl.lower_level_solver(lower, samples=1000))
    run = algorithm.run(hidden, iterations=3)
    assert run.status is bl.Status.BUDGET_SPENT
    assert np.isfinite(run.x).all()
    assert run.cost.backups == run.cost.linear_solves == 0
    assert run.cost.samples > 4 * 1000


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_gives_the_same_run_bit_for_bit(name: str) -> None:
    problem = bl.problem("gridworld-preferences", size=3, horizon=6)
    first, second, other = (
        bl.algorithm(name, **RECIPES[name]).run(problem, iterations=4, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.gradient, second.gradient)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize("environment", ["FrozenLake-v1", TAXI])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium")
def test_preferences_are_learnt_from_through_step_alone(environment: str) -> None:
    """No transition table is read: the adapter's environments are stepped, and cannot be restarted."""
    problem = bl.problem("gymnasium-preferences", environment=environment, horizon=8)
    algorithm = bl.algorithm("sobirl", groups=6, truncation=5, restarts=False, samples=600)
    run = algorithm.run(problem, iterations=2)
    assert run.status is bl.Status.BUDGET_SPENT
    assert np.isfinite(run.gradient).all()
    assert not isinstance(problem.lower, bl.mdp.SupportsModel)


@pytest.mark.parametrize(("name", "exponent"), [("sobirl", 2.0), ("stoc-sobirl", 4 / 3)])
def test_papers_schedule_lets_the_samples_grow_with_the_iteration(name: str, exponent: float) -> None:
    """The follower's samples in the k-th iteration are `samples · (k+1)^exponent`; a constant schedule keeps them."""
    problem = bl.problem("gridworld-preferences", size=3, horizon=6)
    drawn = {}
    for schedule in ("paper", "constant"):
        counts: list[int] = []
        algorithm = bl.algorithm(name, **RECIPES[name], schedule=schedule)
        algorithm.run(problem, iterations=3, callback=lambda state, to=counts: to.append(state.solution.cost.samples))
        drawn[schedule] = np.array(counts)
    expected = 2000 * (np.arange(4) + 1.0) ** exponent
    # Samples come in whole steps of 32 parallel trajectories.
    np.testing.assert_allclose(drawn["paper"], expected, atol=32)
    np.testing.assert_allclose(drawn["constant"], 2000, atol=32)


def test_dataset_of_labelled_pairs_serves_a_follower_that_can_only_be_simulated() -> None:
    """Its loss does not depend on the follower: the implicit part is exactly zero, the direct part the dataset's."""
    problem = bl.problem("gridworld-preferences", size=3, horizon=6)
    simulator, uniform = problem.lower.simulator(np.zeros(9)), np.full((9, 4), 0.25)
    first, second = (simulator.rollout(uniform, 50, 6, bl.randomness.stream(seed, "collect")) for seed in (1, 2))
    dataset = bl.objectives.PreferenceDataset(
        first, second, problem.objective.labeller(first, second, bl.randomness.stream(3, "labels"))
    )
    objective = bl.objectives.PreferenceDatasetObjective(problem.objective.rewards, dataset)
    offline = attrs.evolve(problem, lower=Forbidden(problem), objective=objective, measures=None, picture=None)
    run = bl.algorithm("sobirl", **RECIPES["sobirl"], step_size=0.1).run(offline, iterations=20)
    assert run.history["implicit_norm"].max() == 0.0
    assert run.history["objective"][-1] < run.history["objective"][0]


def test_run_away_gradient_is_reported_as_divergence_with_the_last_good_state() -> None:
    algorithm = bl.algorithm("sobirl", groups=8, truncation=10, samples=500, step_size=5.0)
    run = algorithm.run(bl.problem("gridworld-preferences", temperature=0.05), iterations=200)
    assert run.status is bl.Status.DIVERGED
    assert "optimizer 'gradient-descent'" in run.stopped_by
    assert len(run.history) == run.last.iteration + 1
    assert np.isfinite(run.x).all()


def test_direct_and_implicit_parts_are_recorded_for_every_iteration() -> None:
    run = bl.algorithm("stoc-sobirl", **RECIPES["stoc-sobirl"]).run(
        bl.problem("gridworld-preferences", size=3, horizon=6), iterations=5
    )
    for column in ("direct_norm", "implicit_norm", "standard_error"):
        values = run.history[column]
        assert len(values) == 6
        assert np.isfinite(values).all()
    assert run.history["direct_norm"].max() > 0
    assert run.history["implicit_norm"].max() > 0


@pytest.mark.parametrize("noisy", [False, True])
def test_labellers_answers_have_the_bradley_terry_mean(noisy: bool) -> None:
    hidden = np.array([[0.0, 1.0], [2.0, -1.0]])
    paths = bl.sampling.Trajectories(np.array([[0, 1, 0]]), np.array([[1, 0]]), np.zeros((1, 2)))
    other = bl.sampling.Trajectories(np.array([[1, 0, 0]]), np.array([[1, 0]]), np.zeros((1, 2)))
    many = 40_000
    first, second = (
        bl.sampling.Trajectories(*(np.repeat(part, many, axis=0) for part in (p.observations, p.actions, p.rewards)))
        for p in (paths, other)
    )
    labeller = bl.objectives.RewardLabeller(hidden, noisy=noisy, steepness=0.5, discount=0.9)
    answers = labeller(first, second, bl.randomness.stream(0, "labels"))
    gain = (1.0 + 0.9 * 2.0) - (-1.0 + 0.9 * 0.0)
    expected = 1 / (1 + np.exp(-0.5 * gain))
    # Five standard deviations of a binomial share.
    assert answers.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / many))
    assert set(np.unique(answers)) <= {0.0, 1.0} if noisy else len(np.unique(answers)) == 1


def test_preference_losses_direct_gradient_is_the_derivative_of_the_loss() -> None:
    """Central differences of the mean loss with trajectories and answers fixed."""
    rng = np.random.default_rng(0)
    reward = bl.parametric.LinearReward(np.zeros((4, 2)), rng.standard_normal((4, 2, 3)))
    lower = bl.ParametricMDP(rng.dirichlet(np.ones(4), size=(4, 2)), reward, 0.9, 1.0)
    objective = bl.objectives.PreferenceObjective(
        reward, bl.objectives.RewardLabeller(rng.standard_normal((4, 2)), noisy=False), 5, 0.95
    )
    x = np.array([0.3, -0.2, 0.5])
    paths = lower.simulator(x).rollout(np.full((4, 2), 0.5), 40, 5, bl.randomness.stream(0, "paths"))

    def loss(x: bl.Array) -> tuple[Any, bl.Array]:
        losses, gradient = objective.loss_and_gradient(x, paths, bl.randomness.stream(0, "labels"))
        return losses.mean(), gradient

    for k, step in enumerate(1e-5 * np.eye(3)):
        difference = (loss(x + step)[0] - loss(x - step)[0]) / 2e-5
        assert loss(x)[1][k] == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_stochastic_gradients_reach_the_exact_methods_objective() -> None:
    """Stoc-SoBiRL with a learnt follower ends near where the exact gradient of the same objective leads.

    The loss is the mean of −(hidden reward) along the follower's trajectories plus a ridge on x, whose expectation the
    exact estimator minimises as a policy objective.
    """
    rng = np.random.default_rng(1)
    kernel, hidden = rng.dirichlet(np.ones(4), size=(4, 2)), rng.standard_normal((4, 2))
    reward = bl.parametric.TabularReward(np.zeros((4, 2)))
    lower = bl.ParametricMDP(kernel, reward, 0.7, 0.5)
    horizon, ridge = 6, 0.05

    def losses(x: bl.Array, paths: bl.sampling.Trajectories, _: np.random.Generator) -> tuple[bl.Array, bl.Array]:
        gains = hidden[paths.observations[:, :-1], paths.actions].sum(axis=1)
        return -gains + ridge * (x @ x), 2 * ridge * x

    problem = bl.BilevelProblem(lower, bl.objectives.CallableTrajectoryObjective(losses, horizon), name="ridge")
    run = bl.algorithm("stoc-sobirl", step_size=0.05, batch=32, samples=5000).run(problem, iterations=150)

    def exact_loss(x: bl.Array) -> float:
        policy = (
            bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, bl.randomness.stream(0, "l")).policy
        )
        states, total = lower.model(x).initial, 0.0
        for _ in range(horizon):
            visits = states[:, None] * policy
            total -= float((visits * hidden).sum())
            states = np.einsum("sa,sat->t", visits, kernel)
        return total + ridge * float(x @ x)

    from scipy.optimize import minimize

    best = minimize(exact_loss, np.zeros(8), method="BFGS")
    start = exact_loss(np.zeros(8))
    assert exact_loss(run.x) <= best.fun + 0.1 * (start - best.fun)
