"""`bl.compare`: the same start, the same budget, an objective that nobody can claim."""

from __future__ import annotations

import csv
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.comparison.trials import ComparedRun

PROBLEM = {"name": "synthetic-quadratic", "dimension": 6}
SHORT: dict[str, Any] = {"seeds": 3, "budget": "backups=150", "grid": [0.1, 1.0], "tuning_seeds": 1, "checkpoints": 5}


def compare(algorithms: Any, **changes: Any) -> bl.comparison.Comparison:
    return bl.compare(PROBLEM, algorithms, **SHORT | changes)


def exact_start(seed: int) -> float:
    problem = bl.problem(**PROBLEM)
    return bl.value_and_gradient(problem, problem.initial_point(bl.randomness.stream(seed, "start")))[0]


@attrs.frozen
class Liar:
    """The exact gradient, and an objective that is too good to be true."""

    name: ClassVar[str] = "liar"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    def estimate(self, problem: Any, x: Any, solution: Any, previous: Any, rng: Any) -> bl.HyperGradient:
        hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, previous, rng)
        return attrs.evolve(hyper, objective=-1e6)


@attrs.frozen
class Breaks:
    """Raises where it is asked for the third time, as a plugin with a mistake may."""

    name: ClassVar[str] = "breaks"
    step_size: float = 0.1

    def init(self, x: Any) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: Any, hyper: Any, state: bl.OptimizerState) -> tuple[Any, bl.OptimizerState]:
        if state.steps == 2:
            raise ZeroDivisionError("no luck")
        return x - 0.001 * hyper.gradient, bl.OptimizerState(state.steps + 1)


def algorithm(name: str, estimator: Any = None, upper: Any = None, step_size: float = 0.01) -> bl.Algorithm:
    return bl.Algorithm(
        bl.lower_level_solver("soft-policy-iteration"),
        estimator or bl.hypergradient_estimator("implicit"),
        upper or bl.upper_level_optimizer("gradient-descent", step_size=step_size),
        name,
    )


def test_an_algorithm_that_lies_about_its_objective_is_told_at_its_true_value() -> None:
    comparison = compare([algorithm("honest"), algorithm("liar", Liar())], budget="iterations=10")
    honest, liar = comparison["honest"], comparison["liar"]
    np.testing.assert_array_equal(liar.objectives, honest.objectives)
    assert (liar.objectives > 0).all()


def test_the_objective_told_is_the_exact_one_at_the_last_x() -> None:
    comparison = compare(["m-sobirl"], budget="iterations=4", grid=[1.0])
    for run in comparison["m-sobirl"].runs:
        again = bl.algorithm("m-sobirl").run(bl.problem(**PROBLEM), iterations=4, seed=run.seed)
        expected, gradient = bl.value_and_gradient(bl.problem(**PROBLEM), again.x)
        assert run.objective == pytest.approx(expected, rel=1e-9)
        assert run.stationarity == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
        assert run.checkpoints[0].objective == pytest.approx(exact_start(run.seed), rel=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_all_algorithms_start_at_the_same_points(spread: float) -> None:
    comparison = compare(["m-sobirl", "aid", "itd"], budget="iterations=2", spread=spread)
    starts = {
        standing.algorithm: [run.checkpoints[0].objective for run in standing.runs] for standing in comparison.standings
    }
    assert starts["m-sobirl"] == starts["aid"] == starts["itd"]
    assert len(set(starts["aid"])) == 3
    own = [exact_start(seed) for seed in range(3)]
    assert np.allclose(starts["aid"], own, rtol=1e-9) == (spread == 0.0)


def test_no_seed_of_the_tuning_is_reported() -> None:
    comparison = compare(["aid", "itd"], seeds=[4, 2, 9], tuning_seeds=2)
    reported = {run.seed for standing in comparison.standings for run in standing.runs}
    assert reported == {4, 2, 9}
    assert {run.seed for run in comparison.tuning_runs} == set(comparison.tuning_seeds) == {10, 11}
    assert all(run.tuning for run in comparison.tuning_runs)


def test_the_step_size_is_the_one_that_did_best_on_the_tuning_seeds() -> None:
    comparison = compare(["exact-gradient"], grid=[0.01, 0.1, 1.0, 1000.0], tuning_seeds=2)
    means = {}
    for step in (0.001, 0.01, 0.1, 100.0):
        runs = [run for run in comparison.tuning_runs if run.step_size == step]
        assert len(runs) == 2
        means[step] = np.mean([math.inf if run.failed else run.objective for run in runs])
    standing = comparison["exact-gradient"]
    assert standing.step_size == min(means, key=means.__getitem__)
    assert not standing.at_edge
    assert {run.step_size for run in standing.runs} == {standing.step_size}


def test_one_factor_tunes_nothing() -> None:
    comparison = compare(["aid"], grid=[1.0])
    assert (comparison.tuning_runs, comparison.tuning_seeds) == ((), ())
    assert comparison["aid"].step_size == 0.1
    assert not comparison["aid"].at_edge


@pytest.mark.parametrize("budget", ["backups=150", "backups=333", "iterations=7"])
def test_no_run_exceeds_the_budget_and_one_more_iteration_would(budget: str) -> None:
    comparison = compare(["m-sobirl", "aid"], budget=budget, grid=[1.0])
    for standing in comparison.standings:
        for run in standing.runs:
            assert run.spent <= comparison.budget.amount
            made = bl.algorithm(standing.algorithm, step_size=standing.step_size)
            states = made.iterate(bl.problem(**PROBLEM), seed=run.seed)
            prices = []
            for _ in range(run.iterations + 2):
                state = next(states)
                so_far = comparison.rates.backups(state.cost)
                prices.append(so_far if comparison.budget.unit == "backups" else state.iteration)
            assert run.spent == pytest.approx(prices[-2])
            assert prices[-1] > comparison.budget.amount


def test_samples_are_a_budget_for_those_who_draw_them() -> None:
    options = {"sobirl": {"groups": 8, "samples": 500, "truncation": 10}}
    budget = {"budget": "samples=60000", "groups": 200}
    comparison = bl.compare("gridworld-preferences", ["sobirl", "m-sobirl"], options=options, **SHORT | budget)
    (standing,) = comparison.standings
    assert all(0 < run.cost.samples <= 60_000 and run.iterations >= 2 for run in standing.runs)
    assert "PolicyObjective" in comparison.skipped["m-sobirl"]
    assert "200 losses" in comparison.judgement
    errors = [point.standard_error for run in standing.runs for point in run.checkpoints]
    assert min(errors) > 0


def test_seconds_are_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by a millisecond whenever it is looked at."""
    monkeypatch.setattr(time, "perf_counter", (tick / 1000 for tick in itertools.count()).__next__)
    comparison = compare(["aid"], budget="seconds=0.05", grid=[1.0], seeds=2)
    assert all(0 < run.seconds <= 0.05 and run.iterations > 0 for run in comparison["aid"].runs)


def test_a_sampled_verdict_is_within_its_error_of_a_larger_one() -> None:
    """The loss of preferences at a fixed x, from 2,000 and from 200,000 groups of trajectories."""
    from bilevelrl.comparison.judge import Judge

    problem = bl.problem("gridworld-preferences")
    x = bl.randomness.stream(0, "point").standard_normal(problem.dimension)
    small, large = Judge(problem, groups=2_000)(x, 1), Judge(problem, groups=200_000)(x, 2)
    assert large.standard_error == pytest.approx(small.standard_error / 10, rel=0.1)
    # Four standard errors: one draw in 16,000 would miss.
    assert abs(small.objective - large.objective) < 4 * math.hypot(small.standard_error, large.standard_error)


def test_a_follower_without_a_model_is_learnt_and_the_report_says_so() -> None:
    problem = bl.problem("gymnasium-preferences")
    options = {"budget": "iterations=1", "groups": 100, "follower_samples": 2_000, "grid": [1.0], "seeds": 2}
    algorithm = bl.algorithm("sobirl", groups=4, samples=500, truncation=10, restarts=False)
    comparison = bl.compare(problem, [algorithm], **SHORT | options)
    assert "learnt by soft-q-learning from 2,000 transitions" in comparison.judgement
    assert math.isfinite(comparison["sobirl"].objective)


def test_a_problem_with_a_judge_of_its_own_is_reported_by_it() -> None:
    problem = bl.problem(**PROBLEM)
    judged = attrs.evolve(problem, judge=lambda x, seed: bl.problems.Evaluation(float(x @ x), 0.25))
    x = judged.initial_point(bl.randomness.stream(0, "start"))
    assert judged.evaluate(x) == bl.problems.Evaluation(float(x @ x), 0.25)
    comparison = bl.compare(judged, ["m-sobirl"], **SHORT | {"budget": "iterations=1", "grid": [1.0]})
    assert "the problem's own judge" in comparison.judgement


def test_the_objective_is_exact_where_there_is_a_model_and_needs_a_learner_elsewhere() -> None:
    problem = bl.problem(**PROBLEM)
    x = problem.initial_point(bl.randomness.stream(0, "start"))
    value, _ = bl.value_and_gradient(problem, x)
    assert problem.evaluate(x) == bl.problems.Evaluation(pytest.approx(value, rel=1e-8), 0.0)
    unknown = bl.problem("gymnasium-preferences")
    with pytest.raises(bl.InputError, match="the follower that evaluates problem 'gymnasium-preferences' is None"):
        unknown.evaluate(np.zeros(unknown.dimension))


def rows(directory: Path, name: str) -> list[dict[str, str]]:
    with (directory / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_processes_give_the_same_files_but_for_seconds(tmp_path: Path) -> None:
    for jobs in (1, 2):
        compare(["m-sobirl", "aid"], jobs=jobs).save(tmp_path / str(jobs))
    one, two = tmp_path / "1", tmp_path / "2"
    assert (one / "checkpoints.csv").read_bytes() == (two / "checkpoints.csv").read_bytes()
    for first, second in zip(rows(one, "runs.csv"), rows(two, "runs.csv"), strict=True):
        assert first | {"seconds": ""} == second | {"seconds": ""}


def test_any_workers_do_also_what_was_composed_in_python() -> None:
    """Problem and algorithms travel as they are, not by their names, which another process may not know."""
    problem = attrs.evolve(bl.problem(**PROBLEM), name="mine", configuration=None, measures=lambda x, solution: {})
    expected = bl.compare(problem, [algorithm("mine")], **SHORT)["mine"].objectives
    for jobs in (2, "threading"):
        there = bl.compare(problem, [algorithm("mine")], jobs=jobs, **SHORT)
        assert there["mine"].objectives.tobytes() == expected.tobytes()


def test_failed_runs_are_counted_and_keep_their_last_good_state() -> None:
    comparison = compare([algorithm("wild", step_size=1e9), algorithm("breaks", upper=Breaks())], grid=[1.0])
    wild, breaks = comparison["wild"], comparison["breaks"]
    assert (wild.failures, breaks.failures) == (3, 3)
    assert breaks.runs[0].stopped_by == "ZeroDivisionError: no luck"
    assert breaks.runs[0].iterations == 2
    assert math.isfinite(breaks.objective)
    told = str(comparison)
    assert "3 of 3" in told
    assert "breaks failed in 3 of 3 runs" in told
    assert len(breaks.runs[0].checkpoints) >= 1
    assert breaks.runs[0].checkpoints[-1].budget == 150


def test_a_failed_run_is_the_worst_in_tuning() -> None:
    from bilevelrl.comparison.contest import _best

    runs = [
        ComparedRun("a", 0, 0.1, True, checkpoints=(bl.comparison.Checkpoint(1.0, 1.0, 1, 5.0, 0.0),)),
        ComparedRun("a", 0, 1.0, True, stopped_by="…", checkpoints=(bl.comparison.Checkpoint(1.0, 1.0, 1, -9.0, 0.0),)),
    ]
    assert _best((0.1, 1.0), runs).step_size == 0.1
    tied = [attrs.evolve(runs[0], step_size=0.3, checkpoints=(bl.comparison.Checkpoint(1.0, 1.0, 1, 4.999, 0.0),))]
    assert (
        _best((0.1, 0.3), [runs[0], *tied]).step_size == 0.1
    )  # within 0.1 %: the shorter step is further from diverging
    assert _best((1.0, 3.0), [attrs.evolve(runs[1], step_size=step) for step in (1.0, 3.0)]).step_size == 1.0


@pytest.mark.parametrize(
    ("values", "chosen", "at_edge"),
    [
        ([3.0, 2.0, 1.0], 3.0, True),
        ([1.0, 2.0, 3.0], 1.0, True),
        ([1.0, 1.0, 3.0], 1.0, False),
        ([3.0, 1, 2], 2.0, False),
    ],
    ids=str,
)
def test_a_step_size_at_the_edge_of_the_grid_is_told_unless_it_makes_no_difference(
    values: list[float], chosen: float, at_edge: bool
) -> None:
    from bilevelrl.comparison.contest import _best

    runs = [
        ComparedRun("a", 0, step, True, checkpoints=(bl.comparison.Checkpoint(1.0, 1.0, 1, value, 0.0),))
        for step, value in zip((1.0, 2.0, 3.0), values, strict=True)
    ]
    best = _best((1.0, 2.0, 3.0), runs)
    assert (best.step_size, best.at_edge) == (chosen, at_edge)


def test_an_algorithm_that_the_problem_cannot_support_is_skipped_with_the_reason() -> None:
    comparison = compare(["aid", "hpgd"])
    assert [standing.algorithm for standing in comparison.standings] == ["aid"]
    assert "needs an objective that adds up over the steps" in comparison.skipped["hpgd"]
    assert "| hpgd " in str(comparison)


def test_where_none_is_left_it_is_an_error_with_every_reason() -> None:
    with pytest.raises(bl.IncompatibleError, match=r"None of the algorithms .*'synthetic-quadratic'.*sobirl: .*hpgd: "):
        compare(["sobirl", "hpgd"])


def test_a_budget_too_small_for_one_is_told_in_the_table_and_for_all_is_an_error() -> None:
    comparison = compare(["m-sobirl", "zero-order"], budget="backups=40")
    assert comparison.skipped["zero-order"].startswith("its first evaluation takes backups=")
    with pytest.raises(bl.InputError, match=r"the budget is backups=5; expected at least backups=\d+") as caught:
        compare(["m-sobirl", "zero-order"], budget="backups=5")
    enough = caught.value.expected.split("=")[1].split(",")[0]
    assert "m-sobirl" in caught.value.expected
    assert compare(["m-sobirl"], budget=f"backups={enough}")["m-sobirl"].runs[0].iterations == 0
    with pytest.raises(bl.InputError, match="expected at least"):
        compare(["m-sobirl"], budget=f"backups={int(enough) - 1}")


def test_a_budget_of_what_an_algorithm_never_spends_means_nothing() -> None:
    with pytest.raises(bl.IncompatibleError, match="aid: it spends no samples"):
        compare(["aid"], budget="samples=100")


def test_a_dense_solve_costs_what_its_multiplications_are_worth() -> None:
    problem = bl.problem("synthetic-quadratic")  # S = 10, A = 5
    rates = bl.comparison.ExchangeRates.of(problem, np.zeros(problem.dimension))
    assert rates.linear_solve == pytest.approx(10 / 15 + 1 + 1 / 5)
    assert rates.product == pytest.approx(1 / 5)
    assert rates.backups(bl.Cost(backups=3, linear_solves=2, products=10, samples=7)) == pytest.approx(5 + 2 * 28 / 15)
    given = bl.comparison.ExchangeRates.of(problem, np.zeros(problem.dimension), {"linear_solve": 9.0})
    assert (given.linear_solve, given.product) == (9.0, rates.product)


def test_a_sparse_solve_costs_what_its_factors_say() -> None:
    """A ring: P^π is bidiagonal and its factors fill one column, so a solve is a few multiplications a state."""
    import scipy.sparse

    states = 400
    ring = scipy.sparse.csr_array(scipy.sparse.eye_array(states).tocsr()[np.r_[1:states, 0]])
    mdp = bl.SoftMDP(bl.mdp.SparseTransitions(ring), np.zeros((states, 1)), 0.9, 1.0, np.full(states, 1 / states))
    rates = bl.comparison.ExchangeRates._of_kernel(mdp.transitions)
    assert rates.product == pytest.approx(1.0)
    assert 3.0 < rates.linear_solve < 10.0


def test_other_passes_over_p_are_counted_and_cost_a_backup_each() -> None:
    """The way back of ITD, and the n columns of AMD's products."""
    problem = bl.problem(**PROBLEM)
    x = problem.initial_point(bl.randomness.stream(0, "start"))
    itd, amd = (bl.algorithm(name).evaluate(problem, x).hyper.cost for name in ("itd", "amd"))
    assert (itd.backups, itd.passes) == (11, 11)
    assert (amd.products, amd.passes) == (10 * x.size, 1)
    rates = bl.comparison.ExchangeRates(2.0, 0.5)
    assert rates.backups(bl.Cost(backups=3, passes=4, linear_solves=1, products=2, samples=9)) == 3 + 4 + 2 + 1


def test_checkpoints_are_shared_ordered_and_within_the_budget() -> None:
    comparison = compare(["m-sobirl", "aid"], checkpoints=8, grid=[1.0])
    for standing in comparison.standings:
        for run in standing.runs:
            parts = [point.budget for point in run.checkpoints]
            assert parts == sorted(parts)
            assert parts[-1] == 150
            assert all(point.spent <= point.budget for point in run.checkpoints)
            assert set(parts) <= set(comparison.budget.checkpoints(8))


def test_an_optimizer_that_draws_gets_the_seed_of_the_run() -> None:
    comparison = compare(
        {"hops": {"algorithm": {"name": "exact-gradient", "upper": "basin-hopping"}, "upper": {"period": 2}}},
        budget="iterations=6",
        seeds=[0, 5],
        grid=[1.0],
    )
    for run in comparison["hops"].runs:
        upper = bl.upper_level_optimizer("basin-hopping", step_size=0.1, period=2, seed=run.seed)
        again = algorithm("hops", upper=upper).run(bl.problem(**PROBLEM), iterations=6, seed=run.seed)
        assert run.objective == pytest.approx(again.objective, rel=1e-9)


def test_saving_writes_everything_that_made_it(tmp_path: Path) -> None:
    comparison = compare({"quick": "m-sobirl", "aid": "aid"}, options={"quick": {"sweeps": 2, "lower": {"sweeps": 3}}})
    comparison.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["algorithms"]["quick"] == {"algorithm": {"name": "m-sobirl", "sweeps": 2}, "lower": {"sweeps": 3}}
    assert (summary["seeds"], summary["tuning_seeds"], summary["grid"]) == ([0, 1, 2], [3], [0.1, 1.0])
    assert summary["budget"] == {"unit": "backups", "amount": 150.0}
    assert summary["versions"]["bilevelrl"] == bl.__version__
    points = rows(tmp_path, "checkpoints.csv")
    assert {row["algorithm"] for row in points} == {"quick", "aid"}
    last = [float(row["objective"]) for row in points if row["algorithm"] == "aid" and row["budget"] == "150.0"]
    assert last == comparison["aid"].objectives.tolist()
    runs = rows(tmp_path, "runs.csv")
    assert sum(row["tuning"] == "1" for row in runs) == 4
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() == str(comparison)


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_the_picture_is_drawn(tmp_path: Path, centre: str) -> None:
    picture = compare(["m-sobirl", "aid"]).plot(tmp_path / "a.png", centre=centre)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_best_comes_first() -> None:
    standings = compare(["m-sobirl", "aid", "direct-only"]).standings
    values = [standing.objective for standing in standings]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seeds": 0}, "seeds is 0; expected an integer of at least 1"),
        ({"seeds": []}, "seeds is []"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"jobs": 0}, "jobs is 0"),
        ({"tuning_seeds": 0}, "tuning_seeds is 0"),
        ({"checkpoints": 0}, "checkpoints is 0"),
        ({"spread": -1.0}, "spread is -1.0"),
        ({"grid": []}, "grid is empty"),
        ({"grid": [1.0, -1.0]}, "a factor of the grid is -1.0"),
        ({"grid": ["a"]}, "a factor of the grid is 'a'"),
        ({"budget": "backups"}, None),
        ({"budget": "backups="}, "the budget is 'backups='; expected UNIT=AMOUNT"),
        ({"budget": "backups=nan"}, "the budget's backups is nan"),
        ({"budget": "backup=3"}, "did you mean 'backups'?"),
        ({"budget": "secnds"}, "did you mean 'seconds'?"),
        ({"budget": 7}, "budget is an int"),
        ({"rates": {"products": 1.0}}, "did you mean 'product'?"),
        ({"rates": {"product": -1.0}}, "product is -1.0"),
        ({"options": {"aod": {}}}, "did you mean 'aid'?"),
        ({"options": {"aid": {"dampin": 1.0}}}, "did you mean 'damping'?"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(changes: dict[str, Any], complaint: str | None) -> None:
    if complaint is None:
        assert str(bl.comparison.Budget.parse(changes["budget"])) == "5,000 backups"
        return
    with pytest.raises(bl.InputError) as caught:
        compare(["aid"], **changes)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("algorithms", "complaint"),
    [([], "algorithms is empty"), (["aod"], "did you mean"), (7, "algorithms is an int"), (["aid", "aid"], "twice")],
    ids=str,
)
def test_bad_algorithms_are_one_sentence(algorithms: Any, complaint: str) -> None:
    with pytest.raises(bl.InputError, match=complaint):
        compare(algorithms)
