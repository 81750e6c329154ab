"""A finished run: printed, saved, run again, plotted."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from safetensors.numpy import load_file

import bilevelrl as bl
from bilevelrl.cli import main


@pytest.fixture(scope="module")
def run() -> bl.Run:
    problem = bl.problem("frozenlake-shaping", map_size=4)
    return bl.algorithm("m-sobirl", step_size=0.05).run(problem, iterations=12, seed=4)


def history_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_printed_run_tells_where_it_began_where_it_ended_and_what_it_cost(run: bl.Run) -> None:
    text = str(run)
    assert text.splitlines()[0] == "m-sobirl on frozenlake-shaping"
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()[2:]}
    assert rows["objective"] == [f"{run.first.hyper.objective:.6g}", f"{run.objective:.6g}"]
    assert rows["gradient norm"] == [f"{np.linalg.norm(s.hyper.gradient):.6g}" for s in (run.first, run.last)]
    assert " ".join(rows["status"]) == run.status.advice
    assert " ".join(rows["iterations"]) == "12 of 12"
    assert " ".join(rows["cost"]) == (
        f"{run.cost.backups} Bellman backups, {run.cost.products} products with P^π, "
        f"{run.cost.passes} other passes over P"
    )
    assert rows["time"] == [f"{run.seconds:.2f}", "s"]


def test_printed_run_ends_with_the_problems_own_measures(run: bl.Run) -> None:
    """The follower's true return is minus the leader's objective: the same number on two ways."""
    (value,) = (after for label, _, after in run.comparison() if label == "follower's true return")
    assert value == pytest.approx(-run.objective, rel=1e-12)


def test_repr_of_a_run_is_one_line(run: bl.Run) -> None:
    told = f"12 iterations, objective {run.objective:.6g}, BUDGET_SPENT"
    assert repr(run) == f"<Run of 'm-sobirl' on 'frozenlake-shaping': {told}>"


def test_history_has_a_row_for_every_iteration_and_its_costs_only_grow(run: bl.Run) -> None:
    assert run.history["iteration"].tolist() == list(range(13))
    assert {"backups", "products", "seconds"} <= set(run.history.columns)
    for column in run.history.columns[run.history.columns.index("seconds") :]:
        assert (np.diff(run.history[column]) >= 0).all(), column
    assert run.history["seconds"][-1] == run.last.seconds <= run.seconds


def test_saved_run_is_files_that_other_programs_can_read(run: bl.Run, tmp_path: Path) -> None:
    target = run.save(tmp_path / "runs" / "first")
    tables = {"experiment.toml", "history.jsonl", "summary.json", "environment.json", "state.safetensors"}
    assert {path.name for path in target.iterdir()} == tables | {"checkpoint", "run.png"}
    assert (target / "run.png").read_bytes().startswith(PNG)
    summary = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["iterations"]) == ("BUDGET_SPENT", 12)
    assert summary["figures"]["objective"] == [run.first.hyper.objective, run.objective]
    arrays = load_file(target / "state.safetensors")
    np.testing.assert_array_equal(arrays["x"], run.x)
    np.testing.assert_array_equal(arrays["direct"] + arrays["implicit"], run.gradient)
    np.testing.assert_array_equal(arrays["solution.policy"], run.solution.policy)


def test_saved_history_keeps_every_digit(run: bl.Run, tmp_path: Path) -> None:
    rows = history_of(run.save(tmp_path, picture=False))
    assert set(rows[0]) == set(run.history.columns)
    for column in rows[0]:
        saved = np.array([row[column] for row in rows], dtype=float)  # null is NaN
        np.testing.assert_array_equal(saved, run.history[column], err_msg=column)


def test_saving_again_replaces_the_files(run: bl.Run, tmp_path: Path) -> None:
    run.save(tmp_path)
    shorter = run.algorithm.run(run.problem, iterations=2)
    shorter.save(tmp_path, picture=False)
    assert len(history_of(tmp_path)) == 3
    assert not (tmp_path / "run.png").exists()  # it would be that of another run


def test_saved_experiment_run_again_from_the_command_line_is_the_same_run_bit_for_bit(
    run: bl.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.save(tmp_path / "first", picture=False)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "first" / "experiment.toml"), "--out", str(tmp_path / "again")])
    assert ended.value.code in (0, None), capsys.readouterr().err
    first, again = history_of(tmp_path / "first"), history_of(tmp_path / "again")
    for row in first + again:
        del row["seconds"]  # the one column that a clock fills in
    assert again == first
    assert load_file(tmp_path / "again" / "state.safetensors")["x"].tobytes() == run.x.tobytes()


def test_failed_run_can_be_saved_with_its_last_good_state(tmp_path: Path) -> None:
    problem = bl.problem("synthetic-quadratic", dimension=5)
    run = bl.algorithm("m-sobirl", step_size=1e200).run(problem, iterations=20)
    assert run.status is bl.Status.NON_FINITE
    summary = json.loads((run.save(tmp_path, picture=False) / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "NON_FINITE"
    assert summary["stopped_by"] == run.stopped_by != ""
    assert np.isfinite(load_file(tmp_path / "state.safetensors")["x"]).all()


PNG = b"\x89PNG\r\n\x1a\n"


def test_plot_writes_a_picture_and_makes_its_directory(run: bl.Run, tmp_path: Path) -> None:
    path = run.plot(tmp_path / "pictures" / "run.png")
    assert path.read_bytes().startswith(PNG)


def test_plot_needs_no_picture_of_the_problem(tmp_path: Path) -> None:
    problem = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
    assert problem.picture is None
    picture = bl.algorithm("m-sobirl", step_size=0.01).run(problem, iterations=2).plot(tmp_path / "run.png")
    assert picture.read_bytes().startswith(PNG)


def test_plot_without_matplotlib_is_one_sentence_that_says_what_to_install(
    run: bl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bl.InputError) as caught:
        run.plot(tmp_path / "run.png")
    assert str(caught.value) == "matplotlib is not installed; expected pip install 'bilevelrl[plot]'"
    assert not (tmp_path / "run.png").exists()


@pytest.mark.parametrize("suffix", [".docx", ""])
def test_plot_into_an_unknown_format_is_one_sentence(run: bl.Run, tmp_path: Path, suffix: str) -> None:
    """Without a suffix matplotlib would write another file than the one it was asked for."""
    with pytest.raises(bl.InputError, match=r"the name of the picture is '.*'; expected one that ends in \.png"):
        run.plot(tmp_path / f"run{suffix}")


def test_unknown_column_of_the_history_is_told_with_the_close_match(run: bl.Run) -> None:
    with pytest.raises(bl.validation.UnknownNameError, match="did you mean 'objective'"):
        run.history["objectiv"]


def test_run_that_never_moved_is_printed_and_plotted_too(tmp_path: Path) -> None:
    problem: Any = bl.problem("frozenlake-shaping", map_size=4)
    run = bl.algorithm("m-sobirl").run(problem, iterations=0)
    assert "0 of 0" in str(run)
    np.testing.assert_array_equal(run.x, np.zeros(problem.dimension))
    assert run.plot(tmp_path / "run.png").exists()


def near_one(discount: float) -> bl.BilevelProblem:
    problem = bl.problem("synthetic-quadratic", states=4, dimension=2)
    return attrs.evolve(problem, lower=attrs.evolve(problem.lower, discount=discount))


def test_accuracy_that_float64_cannot_give_so_near_to_one_is_told_with_what_it_can() -> None:
    """At γ = 1 − 1e-9 a residual of one ulp leaves an error of hundreds: the answer is used, and its bound reported."""
    exact = bl.Algorithm(
        bl.lower_level_solver("soft-policy-iteration", tolerance=1e-10),
        bl.hypergradient_estimator("implicit"),
        bl.upper_level_optimizer("gradient-descent"),
    )
    run = exact.run(near_one(1 - 1e-9), iterations=1)
    bound = run.solution.error_bound
    assert run.solution.status is bl.Status.STAGNATED
    assert bound == pytest.approx(run.solution.residual * 1e9, rel=1e-6)
    assert bound > 1e-10
    assert dict(run.facts())["follower"] == f"{bl.Status.STAGNATED.advice} (‖V − V*‖∞ ≤ {bound:.2g})"
    assert "because of rounding" in str(run)
    assert "follower" not in dict(exact.run(near_one(0.9), iterations=1).facts())


def test_an_exact_component_whose_iterations_ran_out_is_told_and_one_that_only_tracks_is_not() -> None:
    """An exact one has then not kept its promise; a fixed number of sweeps a call is what the other is asked for."""
    problem = bl.problem("frozenlake-shaping", map_size=4)
    told = f"{bl.Status.BUDGET_SPENT.advice} (‖V − V*‖∞ ≤ "
    short = bl.Algorithm(
        bl.lower_level_solver("soft-policy-iteration", maximum_iterations=1),
        bl.hypergradient_estimator("aid", damping=0.0, maximum_iterations=1),
        bl.upper_level_optimizer("gradient-descent"),
    )
    facts = dict(short.run(problem, iterations=0).facts())
    assert facts["follower"].startswith(told)
    assert facts["gradient"] == bl.Status.BUDGET_SPENT.advice
    tracking = bl.algorithm("m-sobirl").run(problem, iterations=1)
    assert tracking.solution.status is tracking.last.hyper.status is bl.Status.BUDGET_SPENT
    assert not {"follower", "gradient"} & dict(tracking.facts()).keys()


def test_a_history_is_written_to_a_path_in_words_as_to_any_other(tmp_path: Path) -> None:
    history = bl.algorithm("m-sobirl").run(bl.problem("synthetic-quadratic", states=3), iterations=1).history
    history.to_csv(tmp_path / "path.csv")
    history.to_csv(str(tmp_path / "words.csv"))
    assert (tmp_path / "words.csv").read_bytes() == (tmp_path / "path.csv").read_bytes()
    with (tmp_path / "words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["objective"]) for row in rows] == history["objective"].tolist()
    assert rows[0]["standard_error"] == ""


def test_second_opinion_says_where_it_is_none() -> None:
    """`value_and_gradient` has no status to show: near γ = 1 it warns, and nowhere else."""
    problem = near_one(1 - 1e-9)
    with pytest.warns(
        bl.validation.AccuracyWarning,
        match=r"^the follower's values are within \d.* of V\*, not within 1e-12; stagnated",
    ):
        bl.value_and_gradient(problem, np.zeros(problem.dimension))
    bl.value_and_gradient(near_one(0.999), np.zeros(problem.dimension))
