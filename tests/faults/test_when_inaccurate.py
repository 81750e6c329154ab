"""What happens when numbers are not as accurate as was asked: every test is a section of the page."""

from __future__ import annotations

import pytest

import bilevelrl as bl
from faults.injected import Stubborn
from faults.page import Section
from faults.terminal import OUT, RUN, Terminal

EXACT = (*RUN[:4], "--seed", "1", "--lower", "soft-policy-iteration", "--estimator", "implicit")
EXACT = (*EXACT, "--upper", "gradient-descent", "--iterations", "2", "--out", str(OUT))


def reservations(terminal: Terminal) -> str:
    """The lines of the report about the follower's answer and the gradient."""
    labels = ("  follower  ", "  gradient  ")
    return "\n".join(line for line in terminal.out.splitlines() if line.startswith(labels))


def test_the_follower_s_solver_cannot_meet_its_tolerance(terminal: Terminal, section: Section) -> None:
    """At γ = 1 − 1e-9 no residual in float64 proves 1e-10."""
    terminal(*EXACT, "--set", "problem.discount=0.999999999", "--set", "lower.tolerance=1e-10")
    section.check(reservations(terminal))
    solution = bl.load_run(OUT).solution
    assert solution.status is bl.Status.STAGNATED
    assert solution.error_bound > 1e-10
    terminal(*EXACT, "--set", "problem.discount=0.999999999", "--set", "lower.tolerance=1000.0")
    assert reservations(terminal) == ""


def test_a_linear_solve_by_iteration_stagnates(
    terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factorisation takes over, and the numbers are those of a factorisation from the start."""
    with monkeypatch.context() as patch:
        patch.setattr("bilevelrl.mdp.linearization.Iteration", Stubborn)
        terminal(*EXACT, "--set", "lower.linear_solver=iterative")
    section.check(reservations(terminal))
    fell_back = bl.load_run(OUT)
    terminal(*EXACT, "--set", "lower.linear_solver=direct")
    assert reservations(terminal) == ""
    # Both follow the same Newton steps; the tolerance of the follower's values is 1e-10.
    assert fell_back.x == pytest.approx(bl.load_run(OUT).x, rel=0, abs=1e-8)


def test_an_exact_component_spends_its_iterations_before_it_has_converged(terminal: Terminal, section: Section) -> None:
    """The follower's solver after one Newton step, and the adjoint by two conjugate gradient steps there."""
    short = ("--set", "lower.maximum_iterations=1", "--set", "estimator.maximum_iterations=2")
    adjoint = (*EXACT, "--estimator", "aid", "--set", "estimator.damping=0.0")
    terminal(*adjoint, *short)
    section.check(reservations(terminal))
    history = bl.load_run(OUT).history
    terminal(*adjoint)
    assert reservations(terminal) == ""
    solved = bl.load_run(OUT).history
    assert (history["estimator_residual"] > 1e3 * solved["estimator_residual"]).all()
    assert (history["lower_residual"] > 1e3 * solved["lower_residual"]).all()


def test_the_adjoint_equation_cannot_be_solved_where_the_follower_is(terminal: Terminal, section: Section) -> None:
    """Too little work on the follower, at a low temperature: his problem is not convex there, and AID sees it."""
    far = ("--lower", "soft-value-iteration", "--set", "lower.sweeps=1", "--set", "problem.temperature=1e-3")
    terminal(*EXACT, *far, "--estimator", "aid")
    section.check(reservations(terminal))
    terminal(*EXACT, "--set", "problem.temperature=1e-3", "--estimator", "aid")
    assert reservations(terminal) == ""
