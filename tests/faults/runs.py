"""Small runs to be stopped, damaged and gone on with, and what must be the same afterwards."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import attrs

import bilevelrl as bl
from bilevelrl.history import COLUMNS

CLOCK = "seconds"


def small(**options: Any) -> tuple[bl.Algorithm, bl.BilevelProblem]:
    return bl.algorithm("m-sobirl", step_size=0.05, **options), bl.problem("frozenlake-shaping", map_size=4)


@functools.cache
def subjects() -> dict[str, tuple[bl.Algorithm, bl.BilevelProblem]]:
    """One of each kind: model-based, model-free, stochastic, and with an optimizer that remembers."""
    quadratic = bl.problem("synthetic-quadratic", states=4, actions=3, dimension=3)
    gridworld = bl.problem("gridworld-preferences")
    m_sobirl = bl.algorithm("m-sobirl", step_size=1e-3)
    return {
        "m-sobirl": (m_sobirl, quadratic),
        "adam": (attrs.evolve(m_sobirl, upper=bl.upper_level_optimizer("adam", step_size=1e-3)), quadratic),
        "sobirl": (bl.algorithm("sobirl"), gridworld),
        "stoc-sobirl": (bl.algorithm("stoc-sobirl"), gridworld),
    }


def assert_same(run: bl.Run, other: bl.Run) -> None:
    """Bit for bit, but for the clock."""
    assert run.last.iteration == other.last.iteration
    assert run.x.tobytes() == other.x.tobytes()
    assert len(run.history) == len(other.history)
    for column in COLUMNS:
        if column != CLOCK:
            assert run.history[column].tobytes() == other.history[column].tobytes(), column
    assert (run.status, run.stopped_by) == (other.status, other.stopped_by)
    assert attrs.evolve(run.cost, seconds=0) == attrs.evolve(other.cost, seconds=0)
    assert run.gradient.tobytes() == other.gradient.tobytes()
    assert run.solution.policy.tobytes() == other.solution.policy.tobytes()


def history_of(directory: Path) -> list[dict[str, str]]:
    """The file of the history, without the clock's column."""
    with (directory / "history.csv").open(encoding="utf-8", newline="") as file:
        return [{key: row[key] for key in row if key != CLOCK} for row in csv.DictReader(file)]


def assert_whole_on_disk(directory: Path, run: bl.Run) -> None:
    """The directory holds the run as it ended, every file of it, and nothing half-written."""
    assert_same(bl.load_run(directory, problem=run.problem, algorithm=run.algorithm), run)
    expected = directory.parent / f"{directory.name}.expected.csv"
    run.history.write_csv(expected)
    with expected.open(encoding="utf-8", newline="") as file:
        rows = [{key: row[key] for key in row if key != CLOCK} for row in csv.DictReader(file)]
    expected.unlink()
    assert history_of(directory) == rows
    assert not [path.name for path in directory.iterdir() if path.name.endswith(".partial")]
    assert not (directory / "lock").exists()


def flip_bit(file: Path, position: int | None = None) -> None:
    """Damage one byte: in the middle, unless a position is given."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    file.write_bytes(data)
