"""A run's directory while the run goes on: held by one process, written so that a crash at any moment costs little."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.checkpoint import (
    Checkpoint,
    CheckpointWarning,
    DamagedError,
    decode,
    encode,
)
from bilevelrl.component_registry import Kind
from bilevelrl.experiment import ROLES, SETTINGS, Experiment
from bilevelrl.files import append, open_own, read, write_atomically
from bilevelrl.history import HEADER, History, OuterState
from bilevelrl.memory import memory_limit
from bilevelrl.plugins import registry
from bilevelrl.protocols import Status
from bilevelrl.validation import InputError, value_words

if TYPE_CHECKING:
    from bilevelrl.outer_loop import Algorithm

EXPERIMENT, HISTORY, ENVIRONMENT, SUMMARY = "experiment.toml", "history.csv", "environment.json", "summary.json"
NEWEST, PREVIOUS, LOCK = "checkpoint", "checkpoint.previous", "lock"
COPIES = 2
"""What reading a checkpoint takes, in its own size: the bytes, and the arrays cut from them."""

LARGEST_NOTE = 1 << 20
"""Bytes of `summary.json` and `environment.json`, which have a few hundred."""


class Lock:
    """Keeps a directory for one process. The system lets go of it with the process, whatever ends it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the directory; raises `InputError` where another process, or another run of this one, has it.

        A file `lock` that a killed process left behind is no obstacle.
        """
        try:
            import fcntl
        except ImportError:  # no such locks on this system: the directory is the user's own care
            return
        while self._handle is None:
            handle = open_own(self._path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
                os.close(handle)
                used = f"in use by process {owner}"
                raise InputError(_label(self._path.parent), used, "one that no other run writes to") from None
            except OSError:  # a file system without locks
                os.close(handle)
                return
            if self._is_at_its_path(handle):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                self._handle = handle
            else:  # its owner has just removed it
                os.close(handle)

    def _is_at_its_path(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go of the directory."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


class RunDirectory:
    """Writes a run while it goes on.

    Args:
        path: the directory; made where it does not exist.
        problem: what is solved.
        algorithm: with what.
        settings: iterations, seed and tolerance.
        every: iterations from one checkpoint to the next; None: only `seconds` counts.
        seconds: time from one checkpoint to the next.
    """

    def __init__(
        self,
        path: str | Path,
        problem: BilevelProblem,
        algorithm: Algorithm,
        settings: Mapping[str, Any],
        *,
        every: int | None = None,
        seconds: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self.problem, self.algorithm = problem, algorithm
        self.settings = dict(settings)
        self.every, self.seconds = every, seconds
        self.versions = versions_of(problem, algorithm)
        self.first: OuterState | None = None
        self.spent = 0.0
        self._began = self._saved_at = time.monotonic()
        self._rows: int | None = None
        self._newest_is_good = False
        self._lock = Lock(self.path)

    @property
    def experiment(self) -> Experiment:
        """What the run was asked to do."""
        return Experiment.describe(self.problem, self.algorithm, **self.settings)

    @functools.cached_property
    def _tables(self) -> dict[str, dict[str, Any]]:
        return self.experiment.comparable()

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run, in this process and those before it."""
        return self.spent + time.monotonic() - self._began

    def create(self, *, begins_elsewhere: bool = False, replacing: bool = False) -> None:
        """Take the directory for a new run, and write what it is asked to do.

        Args:
            begins_elsewhere: whether the run begins at an x of its caller's.
            replacing: write over a run that could go on.

        Raises:
            InputError: where the directory cannot be written, is in use, or holds a run that could go on.
        """
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            if not replacing and is_unfinished(self.path):
                expected = f"another one, or to go on with it (bilevelrl resume {self.path})"
                raise InputError(_label(self.path), "that of a run that is not finished", expected)
            with writable(self.path):
                for name in (SUMMARY, PREVIOUS, NEWEST):
                    (self.path / name).unlink(missing_ok=True)
                self.experiment.write(self.path / EXPERIMENT)
                self._write_environment(begins_elsewhere)
                write_atomically(self.path / HISTORY, HEADER.encode())
            self._rows = 0
        except BaseException:
            self.close()
            raise

    def reopen(self) -> Checkpoint | None:
        """Take the directory of a run that is to go on; its last good checkpoint, or None where it has none yet.

        Raises:
            InputError: where there is no run, it is another one, its checkpoints are damaged, or it is in use.
        """
        if not self.path.is_dir():
            raise InputError(_label(self.path), "missing", "one that a run was saved to")
        with writable(self.path):
            self._lock.acquire()
        try:
            found, self._newest_is_good = read_checkpoint(self.path, self.problem)
            if found is None:
                self._check_environment()
            else:
                self._check_same(found)
                self.spent = found.seconds
                with writable(self.path):
                    self.experiment.write(self.path / EXPERIMENT)
                    write_atomically(self.path / HISTORY, (HEADER + found.history.lines()).encode())
                    (self.path / SUMMARY).unlink(missing_ok=True)
                self._rows = len(found.history)
        except BaseException:
            self.close()
            raise
        return found

    def begin(self, first: OuterState, state: OuterState, history: History) -> None:
        """Write a checkpoint where there is none; raises `InputError` where the run's state cannot be saved."""
        self.first = first
        if not self._newest_is_good:
            with writable(self.path):
                self._save(state, history, Status.INTERRUPTED, "")

    def see(self, state: OuterState, history: History) -> None:
        """Write a checkpoint where one is due; where that fails, warn and keep the last good one."""
        now = time.monotonic()
        due = self.every is not None and state.iteration % self.every == 0
        if not (due or now - self._saved_at >= self.seconds):
            return
        self._saved_at = now  # also where writing fails: a full disk must not be asked at every iteration
        try:
            self._save(state, history, Status.INTERRUPTED, "")
        except OSError as error:
            text = f"the checkpoint of iteration {state.iteration} could not be written ({error.strerror})"
            warnings.warn(f"{text}; the run goes on, and the one before it is kept", CheckpointWarning, stacklevel=2)

    def finish(self, state: OuterState, history: History, status: Status, stopped_by: str) -> None:
        """Write the last checkpoint and the whole history; raises `OSError` where that fails."""
        self._rows = None
        self._save(state, history, status, stopped_by)

    def close(self) -> None:
        """Let go of the directory."""
        self._lock.release()

    def _save(self, state: OuterState, history: History, status: Status, stopped_by: str) -> None:
        assert self.first is not None
        checkpoint = Checkpoint(
            first=self.first,
            last=state,
            history=history,
            settings=self.settings,
            tables=self._tables,
            versions=self.versions,
            status=status,
            stopped_by=stopped_by,
            seconds=self.elapsed,
        )
        data = encode(checkpoint)
        self.write_history(history)
        if self._newest_is_good:
            self._newest_is_good = False
            (self.path / NEWEST).replace(self.path / PREVIOUS)
        write_atomically(self.path / NEWEST, data)
        self._newest_is_good = True

    def write_history(self, history: History) -> None:
        """Bring the file up to date: append what is new, or write it anew where it may be damaged."""
        rows, self._rows = self._rows, None  # None until all is written: whatever stops it, the next time begins anew
        if rows is None:
            write_atomically(self.path / HISTORY, (HEADER + history.lines()).encode())
        else:
            append(self.path / HISTORY, history.lines(rows).encode())
        self._rows = len(history)

    def _write_environment(self, begins_elsewhere: bool) -> None:
        facts = {
            "versions": self.versions,
            "plugins": {plugin.name: plugin.distribution for plugin in registry().plugins},
            "seed": self.settings["seed"],
            "start": "given" if begins_elsewhere else "the problem's own",
            "python": platform.python_version(),
            "system": platform.platform(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
        }
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / ENVIRONMENT, text.encode())

    def _check_environment(self) -> None:
        """A run without a checkpoint can begin anew, unless it began where only its caller knew."""
        facts = _read_json(self.path / ENVIRONMENT)
        if facts.get("start") != "the problem's own":
            raise InputError(_label(self.path), "without a checkpoint", "one that a run was saved to")
        self._rows = None

    def _check_same(self, found: Checkpoint) -> None:
        """The run must be the one in the directory; other versions only deserve a warning."""
        for table, entries in self._tables.items():
            saved = found.tables.get(table)
            saved = saved if isinstance(saved, dict) else {}
            for key in sorted(entries.keys() | saved.keys()):
                if not _equal(entries.get(key), saved.get(key)):
                    expected = f"{value_words(saved.get(key))}, as in {_label(self.path)}"
                    raise InputError(f"{table}.{key}", value_words(entries.get(key)), expected)
        for name, version in found.versions.items():
            here = self.versions.get(name, "not there")
            if here != version:
                text = f"the checkpoint was written with {name} {version}, and here it is {here}: the run goes on, but "
                warnings.warn(text + "perhaps not bit for bit", CheckpointWarning, stacklevel=3)


def read_checkpoint(path: Path, problem: BilevelProblem) -> tuple[Checkpoint | None, bool]:
    """The last good checkpoint, None where there is none, and whether it is the newest.

    Raises:
        InputError: where all there are are damaged, or of a newer format, or of another problem.
    """
    complaint: InputError | None = None
    for name in (NEWEST, PREVIOUS):
        file = path / name
        try:
            found = decode(read(file, at_most=memory_limit() // COPIES), value_words(str(file)), problem)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            complaint = complaint or error
            continue
        except OSError as error:
            expected = "a file that can be read"
            raise InputError(str(file), f"unreadable ({error.strerror})", expected) from None
        if complaint is not None:
            text = f"{complaint}: the one before it, of iteration {found.last.iteration}, takes its place"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
        return found, name == NEWEST
    if complaint is not None:
        raise complaint
    return None, False


def read_settings(path: Path) -> dict[str, Any]:
    """Iterations, seed and tolerance of the run in a directory; raises `InputError` where there is none."""
    if not (path / EXPERIMENT).exists():
        raise InputError(_label(path), "without a run", "one that a run was saved to (it has an experiment.toml)")
    experiment = Experiment.read(path / EXPERIMENT)
    return {name: getattr(experiment, name) for name in SETTINGS}


def is_unfinished(path: Path) -> bool:
    """Whether a directory holds a run that was cut off, and could go on."""
    if not any((path / name).exists() for name in (NEWEST, PREVIOUS)):
        return False
    ended = _read_json(path / SUMMARY).get("status", Status.INTERRUPTED.name)
    return bool(ended == Status.INTERRUPTED.name)


def versions_of(problem: BilevelProblem, algorithm: Algorithm) -> dict[str, str]:
    """What a run is made with, by name: bilevelrl, the array libraries, and the plugin of each component."""
    made = {"bilevelrl": importlib.metadata.version("bilevelrl"), "numpy": np.__version__, "scipy": scipy.__version__}
    for role in ROLES:
        component = getattr(algorithm, role)
        for entry in registry():
            if entry.component is type(component):
                made[f"{role} {entry.name!r} from"] = entry.distribution
    for entry in registry().of_kind(Kind.PROBLEM):
        if entry.name == problem.name and problem.configuration is not None:
            made[f"problem {entry.name!r} from"] = entry.distribution
    return made


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns an `OSError` in its block into an `InputError` that names the directory."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise InputError("out", repr(str(path)), f"a directory that can be written ({reason})") from None


def _label(path: Path) -> str:
    return f"the directory {str(path)!r}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read(path, at_most=LARGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _equal(one: Any, other: Any) -> bool:
    same: bool = bool(one == other) or bool(one != one and other != other)  # NaN is the same option as NaN
    return same
