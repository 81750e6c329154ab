"""What happens when a directory is in use, or holds another run: every test is a section of the page."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import bilevelrl as bl
from child_processes import HANGING, wait_until
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, small
from faults.terminal import ENDLESS, OUT, RUN, Terminal, newest, start


def test_another_process_writes_to_the_directory(terminal: Terminal, section: Section) -> None:
    """Neither `resume` nor `run` touches it; the other goes on undisturbed."""
    process = start(*RUN, *ENDLESS, "--checkpoint-every", "50", "--out", str(OUT))
    wait_until(lambda: newest(OUT) > 0, process)
    for arguments in (("resume", str(OUT)), (*RUN, "--out", str(OUT))):
        came = terminal(*arguments, status=2)
        assert f"in use by process {process.pid};" in came
        section.check(came)
    before = newest(OUT)
    wait_until(lambda: newest(OUT) > before, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANGING)
    assert process.returncode == 130


def test_a_killed_process_left_its_lock_behind(terminal: Terminal, section: Section) -> None:
    process = start(*RUN, *ENDLESS, "--checkpoint-every", "50", "--out", str(OUT))
    wait_until(lambda: newest(OUT) > 0, process)
    process.kill()
    process.communicate(timeout=HANGING)
    assert (OUT / "lock").read_text(encoding="utf-8") == f"{process.pid}\n"
    iterations = bl.load_run(OUT).last.iteration + 3
    assert terminal("resume", str(OUT), "--iterations", str(iterations)) == ""
    section.check_nothing_is_shown()
    algorithm, problem = small()
    assert_whole_on_disk(OUT, algorithm.run(problem, iterations=iterations, seed=1))


def test_a_lock_names_a_process_of_another_kind(terminal: Terminal, section: Section) -> None:
    """Numbers of processes come again: what counts is who holds the lock, not whose number it has."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, seed=1, out=OUT)
    (OUT / "lock").write_text(f"{os.getppid()}\n", encoding="utf-8")
    assert terminal("resume", str(OUT)) == ""
    section.check_nothing_is_shown()
    assert not (OUT / "lock").exists()


def test_a_new_run_is_given_the_directory_of_an_unfinished_run(terminal: Terminal, section: Section) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, seed=1, out=OUT)
    (OUT / "summary.json").unlink()  # as after a crash
    section.check(terminal(*RUN, "--iterations", "5", "--out", str(OUT), status=2))
    assert_same(bl.load_run(OUT), algorithm.run(problem, iterations=3, seed=1))


def contents(directory: Path) -> dict[Path, bytes]:
    """Every file below a directory, with its bytes."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def check_refused(terminal: Terminal, section: Section, *arguments: str, which: int = 0) -> None:
    """The command is told what the page shows, and has changed nothing."""
    before = contents(OUT)
    section.check(terminal(*arguments, status=2), which)
    assert contents(OUT) == before


def test_several_seeds_are_given_a_directory_with_an_unfinished_run(terminal: Terminal, section: Section) -> None:
    """Those that had ended are as they were, and so is the one that had not."""
    several = (*RUN, "--iterations", "3", "--seeds", "2", "--out", str(OUT))
    terminal(*several)
    (OUT / "seed-2" / "summary.json").unlink()  # as after a crash
    check_refused(terminal, section, *several)
    terminal("resume", str(OUT))
    algorithm, problem = small()
    for seed in (1, 2):
        assert_whole_on_disk(OUT / f"seed-{seed}", algorithm.run(problem, iterations=3, seed=seed))


def test_a_single_run_is_given_the_directory_of_several_seeds(terminal: Terminal, section: Section) -> None:
    terminal(*RUN, "--iterations", "3", "--seeds", "2", "--out", str(OUT))
    check_refused(terminal, section, *RUN, "--iterations", "3", "--out", str(OUT))


def test_several_seeds_are_given_the_directory_of_a_single_run(terminal: Terminal, section: Section) -> None:
    terminal(*RUN, "--iterations", "3", "--out", str(OUT))
    check_refused(terminal, section, *RUN, "--iterations", "3", "--seeds", "2", "--out", str(OUT))


def test_seeds_of_another_problem_or_algorithm_stay_in_the_directory(terminal: Terminal, section: Section) -> None:
    """`resume` would go on with all of them as if they were one's."""
    terminal(*RUN, "--iterations", "3", "--seeds", "2", "--out", str(OUT))
    more = ("--seeds", "2", "--seed", "10", "--iterations", "3", "--out", str(OUT))
    check_refused(terminal, section, "run", "synthetic-quadratic", *more)
    check_refused(terminal, section, *RUN, "--set", "step_size=0.5", *more, which=1)
    terminal(*RUN, *more)
    assert bl.load_run(OUT / "seed-10").last.iteration == 3


def test_a_run_is_resumed_with_fewer_iterations_than_it_has_made(terminal: Terminal, section: Section) -> None:
    """It keeps its target, and that it could go on."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, seed=1, out=OUT)
    check_refused(terminal, section, "resume", str(OUT), "--iterations", "3")
    terminal("resume", str(OUT), "--iterations", "9")
    assert_whole_on_disk(OUT, algorithm.run(problem, iterations=9, seed=1))


def test_a_new_run_is_given_the_directory_of_a_finished_run(terminal: Terminal, section: Section) -> None:
    """The new one takes its place, and nothing of the old one is left."""
    terminal(*RUN, "--iterations", "9", "--out", str(OUT), "--checkpoint-every", "2")
    assert (OUT / "run.png").exists()
    algorithm, problem = small()
    whole = algorithm.run(problem, iterations=3, out=OUT)
    section.check_nothing_is_shown()
    assert_whole_on_disk(OUT, whole)
    assert not (OUT / "run.png").exists()


def test_a_finished_run_is_resumed(terminal: Terminal, section: Section) -> None:
    """It says what it says, and does nothing."""
    algorithm, problem = small()
    whole = algorithm.run(problem, iterations=3, seed=1, out=OUT)
    assert terminal("resume", str(OUT)) == ""
    section.check_nothing_is_shown()
    assert "iterations  3 of 3" in terminal.out
    assert_whole_on_disk(OUT, whole)


def test_the_directory_is_a_file(terminal: Terminal, section: Section) -> None:
    Path("runs").mkdir()
    OUT.write_text("", encoding="utf-8")
    section.check(terminal(*RUN, "--out", str(OUT), status=2))
