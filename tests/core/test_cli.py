"""The command line as a user meets it, and the runs that it writes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.cli import main

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
    for entry in bl.registry():
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
    entry = next(entry for entry in bl.registry() if entry.name == name)
    for field in bl.configuration.option_fields(entry.component):
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
    saved = bl.Experiment.read(tmp_path / "a" / "experiment.toml")
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
        "history.csv",
        "summary.json",
        "state.npz",
        "run.png",
    }
    command(capsys, "run", str(first / "experiment.toml"), "--out", str(second))
    rows = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (first, second)]
    assert len(rows[0]) == 16
    for one, other in zip(*rows, strict=True):
        assert {key: one[key] for key in one if key != "seconds"} == {
            key: other[key] for key in other if key != "seconds"
        }
    summary = json.loads((first / "summary.json").read_text())
    assert summary["algorithm"] == "m-sobirl"
    assert summary["status"] == "BUDGET_SPENT"
    with np.load(first / "state.npz", allow_pickle=False) as arrays, np.load(second / "state.npz") as again:
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
    assert (tmp_path / "history.csv").exists()


def test_failed_run_exits_with_status_1_and_keeps_the_last_good_state(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["run", "synthetic-quadratic", "-a", "m-sobirl", "--set", "adjoint_step_size=50.0"]
    out, _ = command(capsys, *arguments, "--set", "step_size=1e-6", "--out", str(tmp_path), status=1)
    assert "diverged" in out
    with np.load(tmp_path / "state.npz") as arrays:
        assert np.isfinite(arrays["x"]).all()


def test_version_and_module_entry() -> None:
    """`python -m bilevelrl` is the same command line."""
    answer = subprocess.run(
        [sys.executable, "-m", "bilevelrl", "--version"], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip().endswith(bl.__version__)
