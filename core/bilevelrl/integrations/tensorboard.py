"""A callback that writes a run's history for TensorBoard, and an example for other loggers."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevelrl.outer_loop import OuterState
from bilevelrl.runs.callbacks import Callback, RunFacts
from bilevelrl.storage.files import check_directory
from bilevelrl.storage.history import COLUMNS
from bilevelrl.storage.run_directory import writable
from bilevelrl.validation.errors import InputError, as_path
from bilevelrl.validation.fields import check_count

if TYPE_CHECKING:
    from bilevelrl.runs.run import Run


class TensorBoard(Callback):
    """Writes each row of the history, the experiment and the end of the run as TensorBoard's event files.

    Figures have the tags of their columns (`objective`, `stationarity`, …), costs have the prefix `cost/`. A resumed
    run continues its curves: rows that were logged after its checkpoint are purged, so that no step occurs twice. Each
    row is written to the system at once: no thread delays it, and a kill loses no row.

    Args:
        directory: the directory of the event files; made if it does not exist. Each run needs its own.
        every: iterations between two logged rows.

    Raises:
        InputError: if TensorBoard is not installed (extra `tensorboard`), `every` is not a positive integer, or the
            directory cannot be written to.
    """

    def __init__(self, directory: str | Path, *, every: int = 1) -> None:
        check_count("every", every, at_least=1)
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError("tensorboard", "not installed", "pip install 'bilevelrl[tensorboard]'")
        self.directory, self.every = as_path("directory", directory), every
        with writable(self.directory):
            check_directory(self.directory)
        self._writer: Any = None

    def begin(self, facts: RunFacts) -> None:
        """Open a file of events; purge what another process logged after the checkpoint."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.directory.mkdir(parents=True, exist_ok=True)
        logged_before = any(self.directory.glob("*tfevents*"))
        # The reader reads files in the order of their names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((self.directory / name).open("xb"))
        self._write(file_version="brain.Event:2")
        # Makes the reader drop events of this and later steps in earlier files.
        first = facts.iteration if logged_before else 0
        self._write(step=first, session_log=SessionLog(status=SessionLog.START))
        self._write_text("experiment", facts.experiment.to_toml(), first)
        for k in range(first, facts.iteration):
            self._write_row(facts.history.row(k))

    def see(self, state: OuterState, row: Mapping[str, float]) -> None:
        """Log one row."""
        if state.iteration % self.every == 0:
            self._write_row(row)

    def end(self, run: Run) -> None:
        """Log how the run ended, and close the file."""
        self._write_text("end", "\n".join(f"{label}: {text}" for label, text in run.facts()), run.last.iteration)
        self._close()

    def _write_row(self, row: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(
                tag=f"cost/{column}" if column not in COLUMNS or column == "seconds" else column, simple_value=value
            )
            for column, value in row.items()
            if column != "iteration" and not math.isnan(value)
        ]
        self._write(step=int(row["iteration"]), summary=Summary(value=values))

    def _write_text(self, tag: str, text: str, step: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(step=step, summary=text_pb(tag, text))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._close()
            raise

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        writer.close()
