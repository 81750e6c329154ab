"""Small runs to be stopped, damaged and gone on with, and what must be the same afterwards."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import attrs

import bilevelrl as bl

CLOCK = "seconds"


def small(**options: Any) -> tuple[bl.Algorithm, bl.BilevelProblem]:
    return bl.algorithm("m-sobirl", step_size=0.05, **options), bl.problem("frozenlake-shaping", map_size=4)


# Whatever a component needs, one of these offers it, and all are small.
PROBLEMS: dict[str, dict[str, Any]] = {
    "synthetic-quadratic": {"states": 4, "actions": 3, "dimension": 3},
    "gridworld-preferences": {},
    "four-rooms": {},
    "frozenlake-shaping": {"map_size": 4, "horizon": 10},
    "gymnasium-preferences": {},
}
KINDS = ("m-sobirl", "adam", "sobirl", "stoc-sobirl")
"""Model-based, with an optimizer that remembers, model-free, stochastic: subjects whose iterations are quick."""


def fitting_problems(algorithm: bl.Algorithm) -> list[bl.BilevelProblem]:
    """All of the problems above that an algorithm can solve."""
    fitting = []
    for name, options in PROBLEMS.items():
        problem = bl.problem(name, **options)
        try:
            algorithm.check_compatible(problem)
        except bl.IncompatibleError:
            continue
        fitting.append(problem)
    return fitting


@functools.cache
def subject(name: str) -> tuple[bl.Algorithm, bl.BilevelProblem]:
    """What runs: one of the kinds above, or any registered algorithm on the first problem that fits it."""
    if name == "adam":
        m_sobirl, problem = subject("m-sobirl")
        return attrs.evolve(m_sobirl, upper=bl.upper_level_optimizer("adam", step_size=1e-3)), problem
    algorithm = bl.algorithm(name, step_size=1e-3) if name == "m-sobirl" else bl.algorithm(name)
    return algorithm, fitting_problems(algorithm)[0]


def every_subject() -> list[str]:
    """The names of all subjects."""
    registered = [entry.name for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.ALGORITHM)]
    return sorted({*KINDS, *registered})


def assert_same(run: bl.Run, other: bl.Run) -> None:
    """Bit for bit, but for the clock."""
    assert run.last.iteration == other.last.iteration
    assert run.x.tobytes() == other.x.tobytes()
    assert len(run.history) == len(other.history)
    assert run.history.columns == other.history.columns
    for column in run.history.columns:
        if column != CLOCK:
            assert run.history[column].tobytes() == other.history[column].tobytes(), column
    assert (run.status, run.stopped_by) == (other.status, other.stopped_by)
    assert run.cost == other.cost
    assert run.gradient.tobytes() == other.gradient.tobytes()
    arrays, others = run.solution.arrays(), other.solution.arrays()
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert (array.dtype, array.tobytes()) == (others[name].dtype, others[name].tobytes()), name
    assert repr(run.solution.figures()) == repr(other.solution.figures())


def history_of(directory: Path) -> list[dict[str, Any]]:
    """The file of the history, without the clock's column."""
    return rows_of((directory / "history.jsonl").read_text(encoding="utf-8"))


def rows_of(text: str) -> list[dict[str, Any]]:
    """The rows of a history's JSON lines, without the clock's column; no line has a number that JSON does not."""
    rows = [json.loads(line, parse_constant=_no_constant) for line in text.splitlines()]
    return [{key: row[key] for key in row if key != CLOCK} for row in rows]


def _no_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def assert_whole_on_disk(directory: Path, run: bl.Run) -> None:
    """The directory holds the run as it ended, every file of it, and nothing half-written."""
    assert_same(bl.load_run(directory, problem=run.problem, algorithm=run.algorithm), run)
    assert history_of(directory) == rows_of(run.history.lines())
    assert not [path.name for path in directory.iterdir() if path.name.endswith(".partial")]
    assert not (directory / "lock").exists()


def flip_bit(file: Path, position: int | None = None) -> None:
    """Damage one byte: in the middle, unless a position is given."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    file.write_bytes(data)
