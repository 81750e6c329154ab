"""What the command line shows on a terminal, and what signals and warnings do to it."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest

import bilevelrl as bl
from bilevelrl.cli import main, run as run_module
from bilevelrl.cli.endings import stopped_by_signals

RUN = ["run", "synthetic-quadratic", "--set", "problem.states=3", "--set", "problem.dimension=2"]


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error and output as a terminal, as far as rich can tell."""
    monkeypatch.setattr("rich.console.Console.is_terminal", True)


@pytest.mark.usefixtures("terminal")
def test_run_draws_a_bar_with_objective_and_gradient_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*RUN, "--iterations", "3") == 0
    err = capsys.readouterr().err
    assert "3/3" in err
    assert "objective" in err
    assert "gradient norm" in err
    assert "iteration        0" not in err  # that is for logs


@pytest.mark.usefixtures("terminal")
def test_compare_draws_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "synthetic-quadratic", "-a", "m-sobirl", "--seeds", "2", "--budget", "iterations=1"]
    assert status_of(*arguments, "--grid", "1") == 0
    assert "2/2" in capsys.readouterr().err


def test_terminated_before_the_iterations_is_a_word_and_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM while a problem is being built: nothing to save, no traceback."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, stopped_by_signals(None, ()):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "Interrupted: nothing was saved.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_interrupt_outside_of_the_iterations_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ctrl-C, and a directory that holds nothing to go on with."""
    with pytest.raises(SystemExit) as ended, stopped_by_signals(tmp_path, ()):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted: nothing was saved.\n"


def test_command_in_a_thread_leaves_signals_alone() -> None:
    """Only the main thread may handle them; a program that calls `main` elsewhere keeps its own ways."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with stopped_by_signals(None, ()) as came:
            seen.append((came, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [([], before)]


def test_warning_of_a_library_is_one_line_and_a_deprecation_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.compose

    def warns(*arguments: Any) -> Any:
        warnings.warn("overflow met", RuntimeWarning, stacklevel=1)
        warnings.warn("use another name", DeprecationWarning, stacklevel=1)
        return real(*arguments)

    monkeypatch.setattr(run_module, "compose", warns)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` sets it
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert status_of(*RUN, "--iterations", "1") == 0
    err = capsys.readouterr().err
    assert "Warning: RuntimeWarning: overflow met\n" in err
    assert "another name" not in err


def test_resuming_without_matplotlib_costs_the_picture_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    assert status_of(*RUN, "--iterations", "1", "--out", str(tmp_path / "run")) == 0
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert status_of("resume", str(tmp_path / "run"), "--iterations", "2") == 0
    assert "No picture: matplotlib is not installed" in capsys.readouterr().err


def test_problem_says_who_it_is() -> None:
    problem = bl.problem("synthetic-quadratic", dimension=3)
    assert repr(problem) == "BilevelProblem('synthetic-quadratic', dimension=3)"


@attrs.frozen
class Flattening:
    """A feasible set that answers with another shape."""

    def project(self, x: bl.Array) -> bl.Array:
        return x[:1]


def test_feasible_set_that_answers_with_another_shape_is_refused() -> None:
    problem = bl.problem("synthetic-quadratic", dimension=3)
    with pytest.raises(
        bl.InputError, match=r"feasible_set of problem 'synthetic-quadratic' is \(1,\); expected \(3,\)"
    ):
        attrs.evolve(problem, feasible_set=Flattening())


def test_world_rewards_must_depend_on_x() -> None:
    with pytest.raises(bl.InputError, match=r"SampledMDP\.rewards is an? \w+; expected a reward that depends on x"):
        bl.parametric.SampledMDP(lambda rewards: None, [[0.0]])


def test_certify_proves_the_end_of_a_run_and_says_where_there_is_nothing_to_prove(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """After a run, after one that went on, for a problem without a model; several seeds have no single end."""
    small = ["run", "synthetic-quadratic", "--set", "problem.states=4", "--iterations", "3"]
    assert status_of(*small, "--certify", "--out", str(tmp_path / "run")) == 0
    assert re.search(r"certificate +‖gradient − ∇φ\(x\)‖₂ ≤ [\d.e+-]+ \(measured ", capsys.readouterr().out)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    told = bl.load_run(tmp_path / "run").certificate()
    assert summary["certificate"] == told.summary()
    assert summary["certificate"]["bound"] == told.bound > 0
    parts = ("measured", "follower", "objective", "adjoint", "rounding")
    # The bound is the parts' sum, rounded up by a few units in the last place.
    assert sum(summary["certificate"][part] for part in parts) == pytest.approx(told.bound, rel=1e-14)
    assert status_of("resume", str(tmp_path / "run"), "--iterations", "4", "--certify") == 0
    assert "‖gradient − ∇φ(x)‖₂ ≤" in capsys.readouterr().out
    assert status_of("resume", str(tmp_path / "run"), "--iterations", "5") == 0
    assert "certificate" not in json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    sampled = ["run", "gymnasium-preferences", "--algorithm", "sobirl", "--iterations", "1", "--set", "restarts=false"]
    assert status_of(*sampled, "--certify", "--out", str(tmp_path / "sampled")) == 0
    assert "certificate  no bound: " in capsys.readouterr().out
    written = (tmp_path / "sampled" / "summary.json").read_text(encoding="utf-8")
    proven = json.loads(written, parse_constant=pytest.fail)["certificate"]
    assert proven["bound"] is None
    assert "has no transition model" in proven["reason"]
    assert status_of(*small, "--seeds", "2", "--certify") == 2
    assert "--certify is given; expected one run, not several seeds" in capsys.readouterr().err


def test_a_run_s_directory_in_the_place_of_a_problem_is_told_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single run's, and one of several seeds; a problem's own name stays one, whatever is in the directory."""
    monkeypatch.chdir(tmp_path)
    small = ["run", "synthetic-quadratic", "--set", "problem.states=4", "--iterations", "1"]
    assert status_of(*small, "--out", "r 1") == 0
    assert status_of(*small, "--seeds", "2", "--seed", "3", "--out", "r2") == 0
    assert status_of(*small, "--out", "synthetic-quadratic") == 0
    assert status_of(*small) == 0
    capsys.readouterr()
    for given, quoted, file in (("r 1", "'r 1'", "'r 1/experiment.toml'"), ("r2", "r2", "r2/seed-3/experiment.toml")):
        assert status_of("run", given) == 2
        words = f"Error: PROBLEM is {given!r}, the directory of a run; expected the name of a problem or a TOML file; "
        words += f"resume it with `bilevelrl resume {quoted}`, or run it again with `bilevelrl run {file}`\n"
        assert capsys.readouterr().err == words
    assert status_of("run", "r3") == 2
    assert "expected one of" in capsys.readouterr().err
