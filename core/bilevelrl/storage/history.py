"""What the outer loop carries from one iteration to the next, and the figures it leaves behind."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np

from bilevelrl.outer_loop import OuterState
from bilevelrl.storage.files import read
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, UnknownNameError, as_path, value_words
from bilevelrl.validation.memory import memory_limit

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
    "backups",
    "linear_solves",
    "products",
    "samples",
    "seconds",
)
"""The columns of a history: figures at x_k, and costs summed over the run so far."""

COUNTS = frozenset({"iteration", "backups", "linear_solves", "products", "samples"})
"""The columns that hold whole numbers."""

_TYPES = tuple(int if column in COUNTS else float for column in COLUMNS)


class History:
    """One row an iteration, by column: `history["objective"]` is an array."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    @classmethod
    def of(cls, table: Array) -> History:
        """A history from its rows (K, 14), such as `table` gives them."""
        history = cls()
        history._rows = [tuple(_TYPES[i](value) for i, value in enumerate(row)) for row in table.tolist()]
        return history

    @classmethod
    def read_csv(cls, path: str | Path) -> History:
        """The history in a run's `history.csv`, of a run that still goes on too.

        A last line without its end is left out: it is being written, or was cut off.

        Raises:
            InputError: where the file cannot be read, or is no history; the message names the line and the column.
        """
        label = value_words(str(path))
        try:
            data = read(as_path("path", path), at_most=memory_limit() // BLOAT)
        except OSError as error:
            raise InputError(label, f"unreadable ({error.strerror})", "a history.csv") from None
        return cls.decode(data, label)

    @classmethod
    def decode(cls, data: bytes, label: str) -> History:
        """The history in the bytes of a `history.csv`; see `read_csv`."""
        complete, _, _ = data.rpartition(b"\n")
        lines = complete.replace(b"\r\n", b"\n").removesuffix(b"\r").split(b"\n")
        if lines[0] != HEADER.strip().encode():
            raise InputError(label, "no history", f"the columns {COLUMNS[0]}, {COLUMNS[1]}, … in its first line")
        history = cls()
        for number, line in enumerate(lines[1:]):
            history._rows.append(_row(line, number, f"line {number + 2} of {label}"))
        return history

    def append(self, state: OuterState, distance: float) -> None:
        """Record a state and its stationarity."""
        hyper, cost, residual, error = (
            state.hyper,
            state.cost,
            state.hyper.residual,
            state.hyper.standard_error,
        )
        self._rows.append(
            (
                state.iteration,
                hyper.objective,
                distance,
                _norm(hyper.gradient),
                _norm(hyper.direct),
                _norm(hyper.implicit),
                state.solution.residual,
                math.nan if residual is None else residual,
                math.nan if error is None else _norm(error),
                cost.backups,
                cost.linear_solves,
                cost.products,
                cost.samples,
                state.seconds,
            )
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> Array:
        if column not in COLUMNS:
            raise UnknownNameError("the column of a history", column, COLUMNS)
        index = COLUMNS.index(column)
        return np.array([row[index] for row in self._rows], dtype=np.float64)

    def row(self, index: int) -> dict[str, float]:
        """One row, by column."""
        return dict(zip(COLUMNS, self._rows[index], strict=True))

    def keep(self, rows: int) -> None:
        """Forget all rows but the first ones: those of an iteration that was cut off."""
        del self._rows[rows:]

    def table(self) -> Array:
        """All rows (K, 14)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, len(COLUMNS))

    def lines(self, begin: int = 0) -> str:
        """The rows from `begin` on, as lines of a CSV file; numbers keep all their digits."""
        text = io.StringIO()
        rows = (tuple(kind(value) for kind, value in zip(_TYPES, row, strict=True)) for row in self._rows[begin:])
        csv.writer(text).writerows(rows)
        return text.getvalue()

    def write_csv(self, path: str | Path) -> None:
        """Write all rows with a header line."""
        with as_path("path", path).open("w", newline="", encoding="utf-8") as file:
            file.write(HEADER + self.lines())


HEADER = ",".join(COLUMNS) + "\r\n"
"""The first line of a history's file."""

WHOLE = re.compile(rb"[0-9]{1,18}")
REAL = re.compile(rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|inf|nan)")

BLOAT = 40
"""Bytes of memory that a byte of a history can take: a line of 29 bytes makes fourteen numbers and their row."""


def _row(line: bytes, iteration: int, label: str) -> tuple[float, ...]:
    cells = line.split(b",")
    if len(cells) != len(COLUMNS):
        raise InputError(label, f"of {len(cells)} columns", str(len(COLUMNS)))
    row = tuple(_cell(cell, i, label) for i, cell in enumerate(cells))
    if row[0] != iteration:
        raise InputError(f"iteration in {label}", str(row[0]), f"{iteration}, a line each")
    return row


def _cell(cell: bytes, column: int, label: str) -> float:
    form = WHOLE if _TYPES[column] is int else REAL
    if form.fullmatch(cell) is None:
        expected = "a whole number of at least 0" if form is WHOLE else "a number"
        raise InputError(f"{COLUMNS[column]} in {label}", value_words(cell.decode("utf-8", "replace")), expected)
    return _TYPES[column](cell)


def _norm(vector: Array) -> float:
    # `dot`, unlike `@`, does not warn where the square overflows, and takes half the time.
    return math.sqrt(vector.dot(vector))
