"""What happens when the disk is full, or must not be written: every test is a section of the page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bilevelrl as bl
from child_processes import HANGING, run
from faults.children import ITERATIONS, go_on, go_on_watched
from faults.injected import Operations, no_space, watched
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, small, subject
from faults.terminal import OUT, RUN, Terminal, start, told

TWENTY = ("--iterations", "20", "--checkpoint-every", "2")


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A disk of 256 KiB at `runs`, mounted for the test."""
    runs = here / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(runs)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no `mount` here")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield runs
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    filler = disk / "somebody-elses"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return filler


def change_at(monkeypatch: pytest.MonkeyPatch, changes: dict[int, Callable[[], object]]) -> None:
    """Let something happen, once, in the middle of an iteration of the command line's run."""
    optimizer = type(bl.upper_level_optimizer("gradient-descent"))
    update = optimizer.update

    def changed(self: Any, x: bl.Array, hyper: bl.HyperGradient, state: bl.OptimizerState) -> Any:
        changes.pop(state.steps + 1, lambda: None)()
        return update(self, x, hyper, state)

    monkeypatch.setattr(optimizer, "update", changed)


def test_the_disk_is_full(
    small_disk: Path, terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real disk, small, full from iteration 5 to iteration 10: the run ends as if nothing had been."""
    change_at(monkeypatch, {5: lambda: fill(small_disk), 10: lambda: (small_disk / "somebody-elses").unlink()})
    section.check(terminal(*RUN, *TWENTY, "--out", str(OUT)))
    algorithm, problem = small()
    assert_whole_on_disk(OUT, algorithm.run(problem, iterations=20, seed=1))


def test_the_disk_stays_full(
    small_disk: Path, terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_at(monkeypatch, {5: lambda: fill(small_disk)})
    section.check(terminal(*RUN, *TWENTY, "--out", str(OUT), status=2))
    assert "iterations  20 of 20" in terminal.out
    assert bl.load_run(OUT).last.iteration == 4
    (small_disk / "somebody-elses").unlink()
    terminal("resume", str(OUT))
    algorithm, problem = small()
    assert_whole_on_disk(OUT, algorithm.run(problem, iterations=20, seed=1))


@pytest.mark.parametrize("lasting", [1, 10**9], ids=["for one operation", "for good"])
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_writing_fails_at_any_moment(step: int, lasting: int, memory: Path, section: Section) -> None:
    """From each operation on files on: told before anything was computed, or a warning and the same numbers."""
    algorithm, problem = subject("adam")
    whole = algorithm.run(problem, iterations=ITERATIONS, seed=1)
    count = go_on_watched("adam", memory / "counted", lambda *_: None)
    for number in range(1, count + 1, step):
        directory = memory / f"operation-{number}"

        def act(_: Operations, at: int, number: int = number) -> None:
            if number <= at < number + lasting:
                raise no_space()

        came = None
        with watched(directory, act), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                came = algorithm.run(problem, iterations=ITERATIONS, seed=1, out=directory, checkpoint_every=3)
            except bl.InputError as error:
                section.check(f"Error: {error}".replace(str(directory), str(OUT)), which=0)
        told = [f"Warning: {warning.message}".replace(str(directory), str(OUT)) for warning in caught]
        if came is not None:
            assert_same(came, whole)
            for text, which in zip(told, (1, 2), strict=False):
                section.check(text, 2 if "the end of the run" in text else which)
        go_on("adam", ITERATIONS, 3, directory)
        assert_whole_on_disk(directory, whole)


def without_rights() -> tuple[str, ...]:
    """What to put before a command, so that root too is bound by the permissions of a directory."""
    if os.geteuid() != 0:
        return ()
    rights = "-dac_override,-dac_read_search"
    prefix = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("root cannot give up its rights here")
    return prefix


def test_the_directory_is_not_writable(here: Path, section: Section) -> None:
    OUT.mkdir(parents=True)
    OUT.chmod(0o500)
    process = start(*RUN, *TWENTY, "--out", str(OUT), prefix=without_rights())
    _, err = process.communicate(timeout=HANGING)
    assert process.returncode == 2, err
    section.check(told(err))
    assert list(OUT.iterdir()) == []


PROGRAM = """
import sys
from pathlib import Path
from bilevelrl.cli import main
import bilevelrl as bl

optimizer = type(bl.upper_level_optimizer("gradient-descent"))
update = optimizer.update

def changed(self, x, hyper, state):
    if state.steps == 4:
        Path("runs/long").chmod(0o500)
    return update(self, x, hyper, state)

optimizer.update = changed
main(sys.argv[1:])
"""


def test_the_directory_becomes_read_only(here: Path, section: Section) -> None:
    """The permission goes in the middle of the run."""
    command = [*without_rights(), sys.executable, "-c", PROGRAM, *RUN, *TWENTY, "--out", str(OUT)]
    done = run(*command)
    assert done.returncode == 2, done.stderr
    section.check(told(done.stderr))
    assert bl.load_run(OUT).last.iteration == 4
    OUT.chmod(0o700)
    algorithm, problem = small()
    assert_whole_on_disk(OUT, bl.resume_run(OUT))
    assert_same(bl.load_run(OUT), algorithm.run(problem, iterations=20, seed=1))


def test_the_directory_holds_no_run(terminal: Terminal, section: Section) -> None:
    OUT.mkdir(parents=True)
    section.check(terminal("resume", str(OUT), status=2))
    OUT.rmdir()
    section.check(terminal("resume", str(OUT), status=2))
