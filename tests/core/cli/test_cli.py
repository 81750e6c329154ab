"""The command line as a user meets it, and the runs that it writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.plugins.configuration import option_fields

FROZEN_LAKE = ["run", "frozenlake-shaping", "--set", "problem.map_size=4"]


def command(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """Standard output and standard error of one call that ends with `status`."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    output = capsys.readouterr()
    assert (caught.value.code or 0) == status, output.err
    return output.out, output.err


def test_list_shows_every_registered_component_with_its_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = command(capsys, "list")
    for entry in bl.plugins.registry():
        assert re.search(rf"^  {re.escape(entry.name)} +{entry.plugin} ", out, re.MULTILINE), entry.name


def test_list_of_one_kind_shows_only_that(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = command(capsys, "list", "optimizers")
    assert "adam" in out
    assert "implicit" not in out


@pytest.mark.parametrize("name", ["m-sobirl", "implicit", "soft-value-iteration", "frozenlake-shaping"])
def test_show_tells_what_it_does_where_it_came_from_and_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = command(capsys, "show", name)
    assert f"bilevelrl {bl.__version__}" in out
    entry = next(entry for entry in bl.plugins.registry() if entry.name == name)
    for field in option_fields(entry.component):
        assert f"  {field.name}: " in out
    if name == "implicit":
        assert "requires: SupportsModel" in out


def test_plugins_lists_the_first_party_ones(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = command(capsys, "plugins")
    for name in ("model-based", "optimizers", "problems"):
        assert f"{name}  bilevelrl {bl.__version__}" in out


def test_run_prints_a_table_and_quiet_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = command(capsys, *FROZEN_LAKE, "--algorithm", "m-sobirl", "--iterations", "20")
    for words in ("follower's true return", "objective", "gradient norm", "status", "cost", "time", "20 of 20"):
        assert words in out
    assert err.count("iteration") == 11


def test_run_composes_components_by_name_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--lower", "soft-policy-iteration", "--estimator", "implicit", "--upper", "adam"]
    changes = ["--set", "upper.step_size=0.05", "--set", "lower.tolerance=1e-9"]
    out, _ = command(capsys, *FROZEN_LAKE, *arguments, *changes, "--iterations", "3")
    assert "linear solves" in out


def test_recipe_with_a_replaced_component_and_options_of_a_role(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changes = ["--set", "lower.sweeps=7", "--set", "step_size=0.02", "--estimator", "implicit"]
    command(capsys, *FROZEN_LAKE, "-a", "m-sobirl", *changes, "--iterations", "1", "--out", str(tmp_path / "a"))
    saved = bl.storage.Experiment.read(tmp_path / "a" / "experiment.toml")
    assert saved.tables["lower"]["sweeps"] == 7
    assert saved.tables["upper"]["step_size"] == 0.02
    assert saved.tables["estimator"]["name"] == "implicit"


def test_saved_run_has_its_files_and_its_experiment_gives_the_same_run_bit_for_bit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    command(capsys, *FROZEN_LAKE, "-a", "m-sobirl", "--iterations", "15", "--seed", "3", "--out", str(first))
    assert {path.name for path in first.iterdir()} == {
        "experiment.toml",
        "environment.json",
        "history.jsonl",
        "summary.json",
        "checkpoint",
        "checkpoint.previous",
        "state.safetensors",
        "run.png",
    }
    command(capsys, "run", str(first / "experiment.toml"), "--out", str(second))
    rows = [
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] for folder in (first, second)
    ]
    assert len(rows[0]) == 16
    for one, other in zip(*rows, strict=True):
        assert {key: one[key] for key in one if key != "seconds"} == {
            key: other[key] for key in other if key != "seconds"
        }
    summary = json.loads((first / "summary.json").read_text())
    assert summary["algorithm"] == "m-sobirl"
    assert summary["status"] == "BUDGET_SPENT"
    arrays, again = (load_file(folder / "state.safetensors") for folder in (first, second))
    np.testing.assert_array_equal(arrays["x"], again["x"])
    assert (first / "run.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_command_line_settings_override_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(
        "iterations = 9\n[problem]\nname = 'frozenlake-shaping'\nmap_size = 4\n[algorithm]\nname = 'm-sobirl'\n"
        "[lower]\nsweeps = 3\n"
    )
    out, _ = command(capsys, "run", str(file))
    assert "9 of 9" in out
    out, _ = command(capsys, "run", str(file), "--iterations", "4", "--set", "problem.map_size=8")
    assert "4 of 4" in out


def test_missing_matplotlib_costs_the_picture_and_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, err = command(capsys, *FROZEN_LAKE, "-a", "m-sobirl", "--iterations", "2", "--out", str(tmp_path))
    assert "No picture: matplotlib is not installed; expected pip install 'bilevelrl[plot]'" in err
    assert (tmp_path / "history.jsonl").exists()


def test_failed_run_exits_with_status_1_and_keeps_the_last_good_state(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["run", "synthetic-quadratic", "-a", "m-sobirl", "--set", "adjoint_step_size=50.0"]
    out, _ = command(capsys, *arguments, "--set", "step_size=1e-6", "--out", str(tmp_path), status=1)
    assert "diverged" in out
    assert np.isfinite(load_file(tmp_path / "state.safetensors")["x"]).all()


def test_version_and_module_entry() -> None:
    """`python -m bilevelrl` is the same command line."""
    answer = subprocess.run(
        [sys.executable, "-m", "bilevelrl", "--version"], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip().endswith(bl.__version__)


def test_interrupted_run_exits_with_130_and_is_saved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the sixth step."""
    optimizer = type(bl.upper_level_optimizer("gradient-descent"))
    update = optimizer.update

    def impatient(self: Any, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Any:
        if state.steps == 5:
            raise KeyboardInterrupt
        return update(self, x, hyper, state)

    monkeypatch.setattr(optimizer, "update", impatient)
    out, _ = command(capsys, *FROZEN_LAKE, "--iterations", "50", "--out", str(tmp_path), status=130)
    assert "interrupted" in out
    assert "5 of 50" in out
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["iterations"]) == ("INTERRUPTED", 5)
    assert bl.storage.Experiment.read(tmp_path / "experiment.toml").iterations == 50


def test_interrupt_before_the_first_state_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(bl.lower_level_solver("soft-value-iteration")), "solve", interrupt)
    _, err = command(capsys, *FROZEN_LAKE, status=130)
    assert err == "Interrupted: nothing was saved.\n"


def test_options_may_be_set_for_the_recipe_a_role_and_the_problem_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is not a TOML value is taken for a string, so that names need no quotes."""
    changes = ["step_size=0.25", "lower.sweeps=3", "problem.environment=FrozenLake-v1", "problem.bound=2"]
    options = [word for change in changes for word in ("--set", change)]
    command(capsys, "run", "gymnasium-shaping", *options, "--iterations", "1", "--out", str(tmp_path))
    tables = bl.storage.Experiment.read(tmp_path / "experiment.toml").tables
    assert tables["upper"]["step_size"] == 0.25
    assert tables["lower"]["sweeps"] == 3
    assert tables["problem"]["environment"] == "FrozenLake-v1"
    assert tables["problem"]["bound"] == 2.0


def test_naming_another_recipe_drops_the_files_components_and_keeps_its_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The options of another component mean nothing to the new one."""
    file = tmp_path / "experiment.toml"
    file.write_text(
        "[problem]\nname = 'frozenlake-shaping'\nmap_size = 4\n"
        "[lower]\nname = 'soft-policy-iteration'\n[estimator]\nname = 'implicit'\n[upper]\nname = 'adam'\n"
    )
    command(capsys, "run", str(file), "-a", "m-sobirl", "--iterations", "1", "--out", str(tmp_path / "out"))
    tables = bl.storage.Experiment.read(tmp_path / "out" / "experiment.toml").tables
    assert [tables[role]["name"] for role in ("lower", "estimator", "upper")] == [
        "soft-value-iteration",
        "warm-start-adjoint",
        "gradient-descent",
    ]
    assert tables["problem"]["map_size"] == 4


def test_line_break_in_set_begins_no_second_option(capsys: pytest.CaptureFixture[str]) -> None:
    """As TOML it would be two keys, of which the second would be ignored in silence."""
    _, err = command(capsys, *FROZEN_LAKE, "--set", "lower.sweeps=3\nbogus=1", status=2)
    assert err == "Error: option 'sweeps' of 'soft-value-iteration' is '3\\nbogus=1'; expected an integer or None\n"


def test_files_that_cannot_be_written_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "history.jsonl").mkdir()
    _, err = command(capsys, *FROZEN_LAKE, "--iterations", "1", "--out", str(tmp_path), status=2)
    assert err.splitlines()[-1].startswith(f"Error: the directory '{tmp_path}' is not writable (Is a directory")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [([], "Usage:"), (["rum"], "No such command 'rum'"), (["run"], "Missing argument 'PROBLEM'"), (["show"], "NAME")],
    ids=["nothing", "unknown command", "run without a problem", "show without a name"],
)
def test_usage_errors_exit_with_2(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = command(capsys, *arguments, status=2)
    assert complaint in err


COMPARE = ["compare", "synthetic-quadratic", "--seeds", "2", "--tuning-seeds", "1", "--grid", "0.1,1"]


def test_compare_prints_tables_and_saves_files_and_a_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    changes = ["--set", "problem.dimension=5", "--set", "few.sweeps=2", "--set", "few.lower.sweeps=3"]
    names = ["-a", "few=m-sobirl,aid,sobirl", "--budget", "backups=100", "--checkpoints", "4"]
    out, err = command(capsys, *COMPARE, *names, *changes, "--out", str(tmp_path))
    for words in ("few", "aid", "skipped", "0 of 2", "sobirl was skipped: estimator 'sobirl' needs", "step sizes:"):
        assert words in out
    assert "run      8 of 8" in err
    files = {"table.md", "checkpoints.csv", "runs.csv", "summary.json", "comparison.png"}
    assert {path.name for path in tmp_path.iterdir()} == files
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["problem"]["dimension"] == 5
    assert summary["algorithms"]["few"] == {"algorithm": {"name": "m-sobirl", "sweeps": 2}, "lower": {"sweeps": 3}}


def test_compare_takes_an_algorithm_from_an_experiment_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(
        "[lower]\nname = 'soft-policy-iteration'\n[estimator]\nname = 'implicit'\n[upper]\nname = 'adam'\n"
    )
    out, _ = command(capsys, *COMPARE, "-a", "mine.toml,other=mine.toml", "--budget", "iterations=2")
    assert re.search(r"mine +[\d.]+ ± ", out)
    assert re.search(r"other +[\d.]+ ± ", out)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-a", "aid", "--grid", "1,x"], "--grid is '1,x'; expected factors with commas"),
        (["-a", "aid,"], "--algorithms is 'aid,'; expected names with commas"),
        (["-a", "aid,aid"], "--algorithms is 'aid' twice"),
        (["-a", "aod"], "algorithm is 'aod'; expected a known name; did you mean 'amd' or 'aid'?"),
        (["-a", "aid", "--set", "damping=1"], "--set is 'damping=1'; expected NAME.KEY=VALUE"),
        (["-a", "aid", "--set", "aod.damping=1"], "did you mean 'aid'?"),
        (["-a", "aid", "--set", "aid.uper.step_size=1"], "did you mean 'upper'?"),
        (["-a", "aid", "--set", "problem.dimensions=1"], "did you mean 'dimension'?"),
        (["-a", "aid", "--centre", "mode"], "--centre is 'mode'"),
        (["-a", "aid", "--seeds", "0"], "seeds is 0"),
        (["-a", "aid", "--jobs", "0"], "jobs is 0"),
        (["-a", "aid", "--budget", "backups=1"], "the budget is backups=1; expected at least backups="),
        (["-a", "sobirl"], "None of the algorithms can be compared on problem 'synthetic-quadratic'"),
        (["-a", "aid", "--rate", "linear_solve=cheap"], "linear_solve is 'cheap'"),
    ],
    ids=str,
)
def test_compare_tells_bad_input_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*COMPARE[:-2], "--grid", "1", *arguments]
    _, err = command(capsys, *given, status=2)
    (line,) = [line for line in err.splitlines() if not line.startswith("run ")]
    assert line.startswith("Error: ")
    assert complaint in line
