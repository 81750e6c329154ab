"""Sample batches as tasks: blocks with streams of their own, whose trajectories stay where they are drawn."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.execution.pickling import dumps, loads
from bilevelrl.randomness import keyed, split
from bilevelrl.sampling.hypergradient import _Block, _continue, _draw, _Sampling
from worker_tasks import Lock


def preferences() -> bl.BilevelProblem:
    return bl.problem("gridworld-preferences", size=3, horizon=6)


def returns() -> bl.BilevelProblem:
    """An objective that adds up over steps."""
    problem = preferences()
    earned = np.random.default_rng(0).random(problem.lower.model(np.zeros(problem.dimension)).rewards.shape)
    return attrs.evolve(problem, objective=bl.objectives.TrajectoryReturnObjective(earned, horizon=4, discount=0.9))


CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "sobirl": (preferences, "sobirl", {"groups": 37, "truncation": 5}),
    "sobirl without restarts": (preferences, "sobirl", {"groups": 37, "truncation": 5, "restarts": False}),
    "stoc-sobirl": (preferences, "stoc-sobirl", {"batch": 37}),
    "hpgd": (returns, "hpgd", {"batch": 37}),
    "fewer groups than blocks": (preferences, "stoc-sobirl", {"batch": 3}),
}


def estimate(case: str) -> bl.HyperGradient:
    make, name, options = CASES[case]
    problem = make()
    x = 0.3 * bl.randomness.stream(0, "x").standard_normal(problem.dimension)
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, bl.randomness.stream(0, "lower"))
    estimator = bl.hypergradient_estimator(name, **options)
    return estimator.estimate(problem, x, solution, None, bl.randomness.stream(4, "estimator"))


@pytest.mark.parametrize("case", CASES)
def test_an_estimate_does_not_depend_on_who_draws_its_blocks(case: str) -> None:
    """Nor do the transitions that it counts: those that are drawn again elsewhere are the same ones."""
    alone = estimate(case)
    for jobs in ("threading", 2):
        with bl.use_jobs(jobs):
            hyper = estimate(case)
        for part in ("direct", "implicit", "standard_error"):
            assert getattr(hyper, part).tobytes() == getattr(alone, part).tobytes(), part
        assert hyper.occupancy.weights.tobytes() == alone.occupancy.weights.tobytes()  # type: ignore[union-attr]
        assert hyper.objective == alone.objective
        assert hyper.cost.samples == alone.cost.samples > 0


def block_of(groups: int, restarts: bool = True) -> tuple[Any, _Block]:
    problem = preferences()
    x, policy = np.zeros(problem.dimension), np.full((9, 4), 0.25)
    sampling = _Sampling(x, policy, 6, 2, groups, 5, restarts, False, False, "this estimator")
    first, second = split(np.random.default_rng(0), 2)
    return (problem, sampling), _Block(groups, first, second)


def test_trajectories_do_not_travel_and_are_drawn_again_the_same() -> None:
    """What comes back from a block is its losses: eight bytes a group, however long the trajectories."""
    shared, block = block_of(5000)
    drawn = _draw(shared, block)
    sent = dumps(drawn, "drawn")
    trajectories: Any = drawn.batch.trajectories
    assert len(sent) < 8 * 5000 + 2000 < trajectories.observations.nbytes
    arrived = loads(sent)
    assert arrived.batch.trajectories is None
    advantages = np.ones((5000, 1))
    there, here = (_continue(shared, (block, part.batch, advantages)) for part in (arrived, drawn))
    assert there.implicit.tobytes() == here.implicit.tobytes()
    assert there.occupancy.weights.tobytes() == here.occupancy.weights.tobytes()


def test_without_restarts_they_do_since_every_block_needs_all_of_them() -> None:
    shared, block = block_of(50, restarts=False)
    drawn = _draw(shared, block)
    arrived = loads(dumps(drawn, "drawn"))
    there, here = arrived.batch.trajectories, drawn.batch.trajectories
    assert there.observations.tobytes() == here.observations.tobytes()  # type: ignore[union-attr]


def test_keys_make_streams_that_begin_at_their_beginning() -> None:
    first, second = split(np.random.default_rng(3), 2)
    assert first != second
    assert keyed(first).random() == keyed(first).random() != keyed(second).random()
    assert split(np.random.default_rng(3), 2) == [first, second]


def test_the_simulator_is_made_once_an_estimate() -> None:
    """Where P depends on x, its tables are made with it: not for each block again."""
    problem, made = preferences(), []

    class Watched:
        dimension = problem.dimension
        occupancy_forms = problem.lower.occupancy_forms
        pullback = staticmethod(problem.lower.pullback)

        def simulator(self, x: bl.Array) -> Any:
            made.append(x)
            return problem.lower.simulator(x)

    solution = bl.lower_level_solver("soft-policy-iteration").solve(
        problem, np.zeros(problem.dimension), None, bl.randomness.stream(0, "lower")
    )
    watched = bl.BilevelProblem(Watched(), problem.objective)
    estimator = bl.hypergradient_estimator("stoc-sobirl", batch=16)
    estimator.estimate(watched, np.zeros(problem.dimension), solution, None, bl.randomness.stream(0, "estimator"))
    assert len(made) == 1


def test_live_environments_are_made_anew_in_each_process() -> None:
    """They cannot travel, but what makes them can."""
    problem = bl.problem("gymnasium-preferences")
    algorithm = bl.algorithm("sobirl", restarts=False, groups=8, truncation=5, samples=200)
    alone = algorithm.run(problem, iterations=2)
    for jobs in ("threading", 2):
        assert algorithm.run(problem, iterations=2, jobs=jobs).x.tobytes() == alone.x.tobytes()


def test_a_world_that_cannot_travel_works_here_and_is_named_elsewhere() -> None:
    problem, lock = preferences(), Lock().lock

    def world(rewards: bl.Array) -> bl.sampling.TabularSimulator:
        with lock:
            model = problem.lower.model(np.zeros(problem.dimension))
            return bl.sampling.TabularSimulator(model.replace(rewards=rewards))

    alive = bl.BilevelProblem(bl.parametric.SampledMDP(world, problem.lower.rewards), problem.objective, name="alive")
    algorithm = bl.algorithm("stoc-sobirl", batch=8, samples=200)
    assert algorithm.run(alive, iterations=1).status is bl.Status.BUDGET_SPENT
    with pytest.raises(bl.InputError, match=r"^BilevelProblem\.lower\.world is a function that cannot be sent"):
        algorithm.run(alive, iterations=1, jobs=2)
