"""What happens when a component or a callback fails: every test is a section of the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.plugins import discovery as plugins
from faults import broken
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, small
from faults.terminal import OUT, RUN, Terminal

EXACT = ("--lower", "soft-policy-iteration", "--estimator", "implicit", "--upper", "gradient-descent")
LAST_GOOD = 2
"""Iterations before the fault, which is in the call after the start and these."""


@pytest.fixture
def breakable(terminal: Terminal) -> Iterator[Terminal]:
    """The command line, with the broken components registered."""
    plugins.registry.cache_clear()
    bl.register(broken, name="broken")
    yield terminal
    plugins.registry.cache_clear()


def run_broken(role: str, fault: str, *more: str) -> tuple[str, ...]:
    """A run of ten iterations whose component of a role fails in its third."""
    component = {"lower": "solver", "estimator": "estimator", "upper": "optimizer"}[role]
    at = LAST_GOOD if role == "upper" else LAST_GOOD + 1
    options = ("--set", f"{role}.fault={fault}", "--set", f"{role}.at={at}")
    parts = dict(zip(EXACT[::2], EXACT[1::2], strict=True)) | {f"--{role}": f"broken-{component}"}
    words = (word for pair in parts.items() for word in pair)
    return (*RUN[:4], "--seed", "1", *words, *options, "--iterations", "10", "--out", str(OUT), *more)


def check_last_good(role: str) -> None:
    """What was computed before the fault is on the disk, and nothing after it."""
    saved = bl.load_run(OUT)
    algorithm = bl.Algorithm(
        bl.lower_level_solver("soft-policy-iteration"),
        bl.hypergradient_estimator("implicit"),
        bl.upper_level_optimizer("gradient-descent", step_size=0.05 if role == "upper" else 0.1),
    )
    good = algorithm.run(small()[1], iterations=LAST_GOOD, seed=1)
    assert saved.last.iteration == LAST_GOOD
    assert saved.x.tobytes() == good.x.tobytes()
    assert len(saved.history) == LAST_GOOD + 1


@pytest.mark.parametrize("role", ["lower", "estimator", "upper"])
def test_a_component_returns_nan(role: str, breakable: Terminal, section: Section) -> None:
    breakable(*run_broken(role, "not-a-number"), status=1)
    status = next(line for line in breakable.out.splitlines() if line.startswith("  status"))
    section.check(status, ["lower", "estimator", "upper"].index(role))
    check_last_good(role)
    assert json.loads((OUT / "summary.json").read_text(encoding="utf-8"))["status"] == "NON_FINITE"
    # It would meet the same value again; from its last x another algorithm begins anew.
    x = bl.load_run(OUT).x
    algorithm, problem = small()
    assert algorithm.run(problem, iterations=2, x=x).first.x.tobytes() == x.tobytes()


@pytest.mark.parametrize("role", ["lower", "estimator", "upper"])
def test_a_component_raises_an_error(
    role: str, breakable: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    section.check(breakable(*run_broken(role, "raise"), status=1), ["lower", "estimator", "upper"].index(role))
    check_last_good(role)
    # Once its author has repaired it, the run goes on.
    for component in (broken.BrokenSolver, broken.BrokenEstimator, broken.BrokenOptimizer):
        method = next(name for name in ("solve", "estimate", "update") if hasattr(component, name))
        repaired = getattr(component(at=10**9), method)
        monkeypatch.setattr(component, method, lambda self, *arguments, repaired=repaired: repaired(*arguments))
    breakable("resume", str(OUT))
    assert bl.load_run(OUT).last.iteration == 10


@pytest.mark.parametrize("role", ["lower", "estimator", "upper"])
def test_a_component_returns_the_wrong_shape(role: str, breakable: Terminal, section: Section) -> None:
    section.check(breakable(*run_broken(role, "shape"), status=2), ["lower", "estimator", "upper"].index(role))
    check_last_good(role)


@pytest.mark.parametrize("role", ["lower", "estimator", "upper"])
def test_a_component_returns_nothing(role: str, breakable: Terminal, section: Section) -> None:
    section.check(breakable(*run_broken(role, "nothing"), status=2), ["lower", "estimator", "upper"].index(role))
    check_last_good(role)


@pytest.mark.parametrize("role", ["lower", "estimator"])
def test_a_component_reports_that_it_diverged(role: str, breakable: Terminal, section: Section) -> None:
    breakable(*run_broken(role, "diverged"), status=1)
    status = next(line for line in breakable.out.splitlines() if line.startswith("  status"))
    section.check(status, ["lower", "estimator"].index(role))
    check_last_good(role)


def test_the_run_itself_diverges(terminal: Terminal, section: Section) -> None:
    """Steps that are too long: the gradient grows beyond 1e8 times its first norm."""
    problem = ("run", "synthetic-quadratic", "--set", "problem.dimension=3", "--out", str(OUT))
    terminal(*problem, "--set", "step_size=10.0", "--iterations", "100", status=1)
    status = next(line for line in terminal.out.splitlines() if line.startswith("  status"))
    section.check(status)
    assert np.isfinite(bl.load_run(OUT).x).all()


def test_the_start_cannot_be_evaluated(breakable: Terminal, section: Section) -> None:
    """There is nothing to keep: the directory holds no run that could go on."""
    arguments = run_broken("estimator", "not-a-number", "--set", "estimator.at=0")
    section.check(breakable(*arguments, status=2))
    with pytest.raises(bl.InputError, match="without a checkpoint"):
        bl.load_run(OUT)
    breakable(*run_broken("estimator", "not-a-number", "--set", "estimator.at=100"))


class Forgetful(bl.Callback):
    """A callback with a mistake in it."""

    def see(self, state: bl.outer_loop.OuterState, row: Any) -> None:
        if state.iteration == 3:
            raise KeyError("no such figure")


def test_a_callback_raises_an_error(here: Path, section: Section) -> None:
    algorithm, problem = small()
    with pytest.warns(bl.runs.CallbackWarning) as caught:
        run = algorithm.run(problem, iterations=6, out=OUT, callback=Forgetful())
    (warning,) = caught
    section.check(f"CallbackWarning: {warning.message}")
    whole = algorithm.run(problem, iterations=6)
    assert_same(run, whole)
    assert_whole_on_disk(OUT, whole)


def test_a_solution_cannot_be_saved(here: Path, section: Section) -> None:
    """Told before anything long has begun."""

    class Own(broken.BrokenSolver):
        def solve(self, *arguments: Any) -> Any:
            class Answer(bl.mdp.TabularSolution):
                def arrays(self) -> Any:
                    return {**super().arrays(), "log": np.array([{"a": "note"}])}

            good = super().solve(*arguments)
            return Answer(good.model, good.policy, good.values, good.action_values, 0.0, 0, good.status, good.cost)

    algorithm = bl.Algorithm(
        Own(at=-1), bl.hypergradient_estimator("implicit"), bl.upper_level_optimizer("gradient-descent")
    )
    with pytest.raises(bl.InputError) as caught:
        algorithm.run(small()[1], iterations=10**9, out=OUT)
    section.check(f"bilevelrl.InputError: {caught.value}")
    assert list(OUT.iterdir()) == []


def test_a_library_for_an_extra_is_missing(
    terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is not worth a run; a log that was asked for is told before the run."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    section.check(terminal(*RUN, "--iterations", "2", "--out", str(OUT)), 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    section.check(terminal(*RUN, "--iterations", "2", "--log", "tensorboard=runs/log", status=2), 1)
