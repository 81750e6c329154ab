"""The figures of a run, one row for each iteration: in memory, and as JSON lines that other programs can read."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilevelrl.outer_loop import OuterState
from bilevelrl.storage.files import read
from bilevelrl.storage.json_files import json_text, no_constant, non_finite_words
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, UnknownNameError, as_path, printable, value_words
from bilevelrl.validation.memory import memory_limit
from bilevelrl.validation.saved import LARGEST_COUNT

COLUMNS = (
    "iteration",
    "objective",
    "stationarity",
    "gradient_norm",
    "direct_norm",
    "implicit_norm",
    "lower_residual",
    "estimator_residual",
    "standard_error",
    "seconds",
)
"""The columns that every history has: figures at x_k, and the run's time so far."""

MOST_COLUMNS, LONGEST_COLUMN = 256, 100
"""The most columns of a file, and the most characters of a column's name, since the memory grows with both."""

BLOAT = 60
"""Bytes of memory that a byte of a file can take: a line of 17 bytes makes a dictionary, and a row of ten numbers."""

NON_FINITE = {non_finite_words(value): value for value in (math.nan, math.inf, -math.inf)}
EXPECTED = "a history.jsonl"


class History:
    """One row for each iteration, by column: `history["objective"]` is an array.

    Besides the columns of every history there is one for each unit of cost that occurs, summed over the run so far. A
    missing figure is NaN.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._units: dict[str, None] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns: those of every history, then the units of cost."""
        return (*COLUMNS, *self._units)

    @classmethod
    def of(cls, columns: Sequence[str], table: Array) -> History:
        """A history from its columns and its rows (K, C), as in `table`; NaN for a unit of cost that does not occur.

        Raises:
            ValueError: if they do not fit together, or are not those of a history.
        """
        if table.ndim != 2 or not len(table) or table.shape[1] != len(columns) or len(set(columns)) < len(columns):
            raise ValueError("table")
        history = cls()
        for number, values in enumerate(table.tolist()):
            row = {name: value for name, value in zip(columns, values, strict=True) if value == value}
            history._add(row, number, "a row of the history")
        return history

    @classmethod
    def read(cls, path: str | Path) -> History:
        """The history in a run's `history.jsonl`, also of a run in progress.

        An incomplete last line is left out: it is being written, or was cut off.

        Raises:
            InputError: if the file cannot be read, or is not a history; the message gives the line and the column.
        """
        label = value_words(str(path))
        try:
            data = read(as_path("path", path), at_most=memory_limit() // BLOAT)
        except OSError as error:
            raise InputError(label, f"unreadable ({error.strerror})", EXPECTED) from None
        return cls.decode(data, label)

    @classmethod
    def decode(cls, data: bytes, label: str) -> History:
        """The history in the bytes of a `history.jsonl`; see `read`."""
        history = cls()
        complete, _, _ = data.rpartition(b"\n")
        for number, line in enumerate(complete.split(b"\n") if complete else ()):
            where = f"line {number + 1} of {label}"
            history._add(_parsed(line, where), number, where)
        return history

    def _add(self, cells: Mapping[str, Any], number: int, where: str) -> None:
        """Check and append a row that was read; missing columns of every history are NaN."""
        row = dict.fromkeys(COLUMNS, math.nan)
        for column, cell in cells.items():
            value = _cell(column, cell, where)
            if value == value:
                row[column] = value
        if row["iteration"] != number:
            raise InputError(f"iteration in {where}", value_words(row["iteration"]), f"{number}, a line each")
        self._append(row, where)

    def _append(self, row: dict[str, float], where: str) -> None:
        self._units |= dict.fromkeys(column for column in row if column not in COLUMNS)
        if len(self._units) > MOST_COLUMNS:
            raise InputError(where, f"the {MOST_COLUMNS + 1}th unit of cost", f"at most {MOST_COLUMNS}")
        self._rows.append(row)

    def append(self, state: OuterState, distance: float) -> None:
        """Record a state and its stationarity."""
        hyper, residual, error = state.hyper, state.hyper.residual, state.hyper.standard_error
        row = {
            "iteration": state.iteration,
            "objective": hyper.objective,
            "stationarity": distance,
            "gradient_norm": _norm(hyper.gradient),
            "direct_norm": _norm(hyper.direct),
            "implicit_norm": _norm(hyper.implicit),
            "lower_residual": state.solution.residual,
            "estimator_residual": math.nan if residual is None else residual,
            "standard_error": math.nan if error is None else _norm(error),
            "seconds": state.seconds,
        }
        self._append({**row, **state.cost.counts}, f"iteration {state.iteration}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> Array:
        if column not in self.columns:
            raise UnknownNameError("the column of a history", column, self.columns)
        return np.array([row.get(column, math.nan) for row in self._rows], dtype=np.float64)

    def row(self, index: int) -> dict[str, float]:
        """One row, by column."""
        return {column: self._rows[index].get(column, math.nan) for column in self.columns}

    def keep(self, rows: int) -> None:
        """Remove all rows but the first ones, after an iteration that was cut off."""
        del self._rows[rows:]

    def table(self) -> Array:
        """All rows (K, C), in the order of `columns`."""
        columns = self.columns
        rows = [[row.get(column, math.nan) for column in columns] for row in self._rows]
        return np.array(rows, dtype=np.float64).reshape(-1, len(columns))

    def lines(self, begin: int = 0) -> str:
        """The rows from `begin` on as JSON lines: numbers with all digits, NaN as null, ±∞ as a string."""
        rows = ({name: value if value == value else None for name, value in row.items()} for row in self._rows[begin:])
        return "".join(json_text(row) + "\n" for row in rows)

    def to_pandas(self) -> Any:
        """The history as a `pandas.DataFrame`, one row for each iteration (needs the extra `pandas`)."""
        try:
            import pandas
        except ImportError:
            raise InputError("pandas", "not installed", "pip install 'bilevelrl[pandas]'") from None
        return pandas.DataFrame({column: self._typed(column) for column in self.columns})

    def _typed(self, column: str) -> np.ndarray[Any, Any]:
        values = self[column]
        return values.astype(np.int64) if _is_count(column) and not np.isnan(values).any() else values

    def to_csv(self, path: str | Path) -> None:
        """Write all rows with a header line, for spreadsheets; a missing figure is empty."""
        with as_path("path", path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            for index in range(len(self)):
                cells = self.row(index).values()
                writer.writerow("" if value != value else value for value in cells)


def _is_count(column: str) -> bool:
    """Whether a column holds whole numbers: the iteration, or a unit of cost."""
    return column == "iteration" or column not in COLUMNS


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=no_constant)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits, and bytes beyond UTF-8
        row = None
    if not isinstance(row, dict):
        raise InputError(where, "not a JSON object", "a row of a history, from column to number")
    return row


def _cell(column: str, cell: Any, where: str) -> float:
    """A number of a row that was read; NaN if there is none."""
    if len(column) > LONGEST_COLUMN or printable(column) != column:
        raise InputError(f"a column in {where}", value_words(column), "the name of a figure")
    value = NON_FINITE.get(cell, cell) if isinstance(cell, str) else cell
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{column} in {where}", value_words(cell), "a number or null")
    if _is_count(column):
        if value == value and not (0 <= value <= LARGEST_COUNT and int(value) == value):
            raise InputError(f"{column} in {where}", value_words(cell), "a whole number of at least 0")
        return int(value) if value == value else value
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{column} in {where}", value_words(cell), "a number within the range of float64") from None


def _norm(vector: Array) -> float:
    # `dot`, unlike `@`, does not warn if the square overflows, and takes half the time.
    return math.sqrt(vector.dot(vector))
