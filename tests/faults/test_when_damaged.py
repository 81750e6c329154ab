"""What happens when files are no longer as they were written: every test is a section of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

import bilevelrl as bl
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, flip_bit, small
from faults.terminal import OUT, RUN, Terminal

NEWEST, PREVIOUS = OUT / "checkpoint", OUT / "checkpoint.previous"


@pytest.fixture
def saved(here: Path) -> bl.Run:
    """A run of six iterations at `runs/long`, with a checkpoint every two; and what twelve would have been."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, seed=1, out=OUT, checkpoint_every=2)
    return algorithm.run(problem, iterations=12, seed=1)


def check_that_it_goes_on(terminal: Terminal, section: Section, whole: bl.Run) -> None:
    section.check(terminal("resume", str(OUT), "--iterations", "12"))
    assert_whole_on_disk(OUT, whole)


def test_a_bit_of_the_newest_checkpoint_is_flipped(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    flip_bit(NEWEST)
    check_that_it_goes_on(terminal, section, saved)


def test_the_newest_checkpoint_is_cut_short(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    NEWEST.write_bytes(NEWEST.read_bytes()[:-100])
    check_that_it_goes_on(terminal, section, saved)


def test_the_newest_checkpoint_is_not_a_checkpoint(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    NEWEST.write_bytes(b"")
    check_that_it_goes_on(terminal, section, saved)


def test_the_newest_checkpoint_is_missing(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    NEWEST.unlink()
    assert terminal("resume", str(OUT), "--iterations", "12") == ""
    section.check_nothing_is_shown()
    assert_whole_on_disk(OUT, saved)


def test_both_checkpoints_are_damaged(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    """What can still be read by other programs is left as it is."""
    flip_bit(NEWEST)
    flip_bit(PREVIOUS)
    before = {path.name: path.read_bytes() for path in OUT.iterdir()}
    section.check(terminal("resume", str(OUT), status=2))
    assert {path.name: path.read_bytes() for path in OUT.iterdir()} == before


def test_the_history_is_cut_in_the_middle_of_a_line(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    history = OUT / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-30])
    assert terminal("resume", str(OUT), "--iterations", "12") == ""
    section.check_nothing_is_shown()
    assert_whole_on_disk(OUT, saved)


def test_the_experiment_file_is_damaged(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    """Text that is no TOML any more, and text that still is and says something else."""
    experiment = OUT / "experiment.toml"
    good = experiment.read_text(encoding="utf-8")
    for which, damaged in enumerate(
        (good[:20], good.replace("step_size = 0.05", "step_size = 0.5"), good.replace("seed = 1", "seed = 7"))
    ):
        assert damaged != good
        experiment.write_text(damaged, encoding="utf-8")
        section.check(terminal("resume", str(OUT), status=2), which)
        assert experiment.read_text(encoding="utf-8") == damaged
    # The same words on the command line write the same file.
    terminal(*RUN, "--iterations", "12", "--out", "runs/again")
    experiment.write_bytes(Path("runs/again/experiment.toml").read_bytes())
    assert_same(bl.resume_run(OUT), saved)


def test_a_report_is_damaged(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    """Nothing is read from them but whether the run had ended, and what else made it."""
    for name in ("summary.json", "environment.json", "state.safetensors"):
        (OUT / name).write_bytes(b"\x00{[")
    assert terminal("resume", str(OUT), "--iterations", "12") == ""
    section.check_nothing_is_shown()
    assert_whole_on_disk(OUT, saved)


def test_the_checkpoint_is_of_a_newer_format(saved: bl.Run, terminal: Terminal, section: Section) -> None:
    NEWEST.write_bytes(NEWEST.read_bytes().replace(b"checkpoint 2\n", b"checkpoint 3\n", 1))
    section.check(terminal("resume", str(OUT), status=2))
