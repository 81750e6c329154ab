"""The directory of a run in progress: locked by one process, and written so that a crash loses little."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bilevelrl.outer_loop import BestIterate, OuterLoop, OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import LowerLevelSolver, Status
from bilevelrl.storage.checkpoint import Checkpoint, CheckpointWarning, decode, encode
from bilevelrl.storage.container import DamagedError
from bilevelrl.storage.directory_lock import DirectoryLock, directory_words
from bilevelrl.storage.environment import environment_of, host_facts, versions_of
from bilevelrl.storage.experiment import Experiment
from bilevelrl.storage.files import append, read, write_atomically
from bilevelrl.storage.history import History
from bilevelrl.storage.json_files import json_text
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.memory import memory_limit

EXPERIMENT, HISTORY, ENVIRONMENT, SUMMARY = "experiment.toml", "history.jsonl", "environment.json", "summary.json"
NEWEST, PREVIOUS = "checkpoint", "checkpoint.previous"
ARRAYS, PICTURE = "state.safetensors", "run.png"
SEED_PREFIX = "seed-"
OWN_START, GIVEN_START = "the problem's own", "given"

COPIES = 3
"""The memory for reading a checkpoint, as a multiple of its size: the bytes, a copy of their arrays, the arrays."""

LARGEST_NOTE = 1 << 20
"""The most bytes of `summary.json` and `environment.json`, which have a few hundred."""


class RunDirectory:
    """Writes a run in progress.

    Args:
        path: the directory; made if it does not exist.
        problem: the problem.
        algorithm: the algorithm.
        settings: iterations, seed and tolerance.
        every: iterations between two checkpoints; None: only `seconds` counts.
        seconds: seconds between two checkpoints.
    """

    def __init__(
        self,
        path: str | Path,
        problem: BilevelProblem,
        algorithm: OuterLoop,
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
        self._failing = False
        self._lock = DirectoryLock(self.path)

    @property
    def experiment(self) -> Experiment:
        """The run's experiment."""
        intervals = {"checkpoint_every": self.every, "checkpoint_seconds": self.seconds}
        return Experiment.describe(self.problem, self.algorithm, **self.settings, **intervals)

    @functools.cached_property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The experiment's tables, as far as a file can hold them."""
        return self.experiment.comparable()

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run, in this process and the processes before it."""
        return self.spent + time.monotonic() - self._began

    def claim(self, *, replacing: bool = False) -> None:
        """Lock the directory for a new run, without changing it.

        Args:
            replacing: whether a run that could be resumed may be replaced.

        Raises:
            InputError: if the directory cannot be written, is in use, or holds a run that could be resumed, or the runs
                of several seeds.
        """
        if any((seed_directory(self.path, seed) / EXPERIMENT).exists() for seed in seeds_in(self.path)):
            expected = "another one for a single run, which would hide them"
            raise InputError(directory_words(self.path), "that of several seeds' runs", expected)
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            if not replacing and is_unfinished(self.path):
                expected = f"another one, or to resume it (bilevelrl resume {self.path})"
                raise InputError(directory_words(self.path), "that of a run that is not finished", expected)
        except BaseException:
            self.close()
            raise

    def create(self, *, begins_elsewhere: bool = False, replacing: bool = False) -> None:
        """Lock the directory for a new run, and write the run's experiment.

        Args:
            begins_elsewhere: whether the run begins at an x that the caller gave.
            replacing: whether a run that could be resumed may be replaced.

        Raises:
            InputError: see `claim`.
        """
        self.claim(replacing=replacing)
        try:
            with writable(self.path):
                # The files of another run are removed first. The experiment, without which there is no run, is written
                # last: a crash in between must not leave a mixture of the two runs, or half of the new one.
                for name in (EXPERIMENT, PREVIOUS, NEWEST, SUMMARY, PICTURE, ARRAYS):
                    (self.path / name).unlink(missing_ok=True)
                self._write_environment(begins_elsewhere)
                write_atomically(self.path / HISTORY, b"")
                self.experiment.write(self.path / EXPERIMENT)
            self._rows = 0
        except BaseException:
            self.close()
            raise

    def reopen(self) -> Checkpoint | None:
        """Lock the directory of a run to be resumed; returns its last good checkpoint, or None if it has none yet.

        Raises:
            InputError: if there is no run, it is another one, its checkpoints are damaged, or it is in use.
        """
        if not self.path.is_dir():
            raise InputError(directory_words(self.path), "missing", "one that a run was saved to")
        with writable(self.path):
            self._lock.acquire()
        try:
            found, self._newest_is_good = read_checkpoint(self.path, self.problem, self.algorithm.lower)
            facts = _read_json(self.path / ENVIRONMENT)
            if found is None:
                # It can start again, unless only its caller knew the starting point.
                if facts.get("start") != OWN_START:
                    raise InputError(directory_words(self.path), "without a checkpoint", "one that a run was saved to")
            else:
                self._check_same(found)
                check_enough(self.path, self.settings["iterations"], found)
                self.spent = found.seconds
            with writable(self.path):
                self.experiment.write(self.path / EXPERIMENT)
                self._note_return(facts, 0 if found is None else found.last.iteration)
                if found is not None:
                    write_atomically(self.path / HISTORY, found.history.lines().encode())
                    self._rows = len(found.history)
                for name in (SUMMARY, PICTURE, ARRAYS):
                    (self.path / name).unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise
        return found

    def withdraw(self) -> None:
        """Remove the files that `create` wrote, since the run cannot be saved."""
        for name in (EXPERIMENT, ENVIRONMENT, HISTORY):
            (self.path / name).unlink(missing_ok=True)

    def begin(self, first: OuterState, state: OuterState, history: History, best: BestIterate | None) -> None:
        """Write a checkpoint if there is none; raises `InputError` if it cannot be written."""
        self.first = first
        if not self._newest_is_good:
            with writable(self.path):
                self._save(state, history, best, Status.INTERRUPTED, "")

    def see(self, state: OuterState, history: History, best: BestIterate | None) -> None:
        """Write a checkpoint if one is due; if that fails, warn and keep the last good one."""
        now = time.monotonic()
        due = self.every is not None and state.iteration % self.every == 0
        if not (due or now - self._saved_at >= self.seconds):
            return
        self._saved_at = now  # also if writing fails, so that a full disk is not tried at every iteration
        try:
            self._save(state, history, best, Status.INTERRUPTED, "")
        except OSError as error:
            if not self._failing:  # one warning while the disk stays full
                text = (
                    f"iteration {state.iteration} could not be saved to {directory_words(self.path)} ({error.strerror})"
                )
                text += "; the run continues, its last good checkpoint is kept, and saving will be tried again"
                warnings.warn(text, CheckpointWarning, stacklevel=2)
            self._failing = True
        else:
            self._failing = False

    def finish(
        self, state: OuterState, history: History, best: BestIterate | None, status: Status, stopped_by: str
    ) -> None:
        """Write the last checkpoint and the whole history; raises `OSError` if that fails."""
        self._rows = None
        self._save(state, history, best, status, stopped_by)

    def rescue(self, state: OuterState, history: History, best: BestIterate | None, error: BaseException) -> None:
        """Save the run while an error is raised, and add a note to the error: what is kept, and how to resume."""
        kept = f"its {state.iteration:,} complete iterations are kept"
        try:
            self.finish(state, history, best, Status.INTERRUPTED, "")
        except (OSError, InputError):
            if not holds_run(self.path):
                return
            kept = "its last good checkpoint is kept"
        how = f"`bilevelrl resume {shlex.quote(str(self.path))}`"
        error.add_note(f"This error stopped the run; {kept}: resume with {how}")

    def close(self) -> None:
        """Unlock the directory."""
        self._lock.release()

    def _save(
        self, state: OuterState, history: History, best: BestIterate | None, status: Status, stopped_by: str
    ) -> None:
        assert self.first is not None
        checkpoint = Checkpoint(
            first=self.first,
            last=state,
            history=history,
            best=best,
            settings=self.settings,
            tables=self.tables,
            versions=self.versions,
            status=status,
            stopped_by=stopped_by,
            seconds=self.elapsed,
        )
        # The history is in the checkpoint too, so that an outdated file can be rewritten from it.
        newest, good = self.path / NEWEST, self._newest_is_good
        data = encode(checkpoint, self.algorithm.lower)  # may be refused
        try:
            write_atomically(newest, data, previous=self.path / PREVIOUS if good else None)
        except BaseException:
            self._newest_is_good = good and newest.exists()
            raise
        self._newest_is_good = True
        self._write_history(history)

    def _write_history(self, history: History) -> None:
        """Update the file: append the new rows, or rewrite it if it may be damaged."""
        rows, self._rows = self._rows, None  # None until all is written: after a failure the next call rewrites it
        if rows is None:
            write_atomically(self.path / HISTORY, history.lines().encode())
        else:
            append(self.path / HISTORY, history.lines(rows).encode())
        self._rows = len(history)

    def _write_environment(self, begins_elsewhere: bool) -> None:
        facts = environment_of(self.problem, self.algorithm, self.settings["seed"])
        write_json(self.path / ENVIRONMENT, facts | {"start": GIVEN_START if begins_elsewhere else OWN_START})

    def _note_return(self, facts: dict[str, Any], iteration: int) -> None:
        """Write `environment.json` again: a run may be resumed on another machine, with other versions."""
        before = facts.get("resumed")
        resumed = before if isinstance(before, list) else []
        here = {"iteration": iteration, "versions": self.versions, **host_facts()}
        write_json(self.path / ENVIRONMENT, facts | {"resumed": [*resumed, here]})

    def _check_same(self, found: Checkpoint) -> None:
        """Raise `InputError` unless the run is the one in the directory; warn of other versions."""
        for key in ("seed", "tolerance"):
            if self.settings[key] != found.settings.get(key):
                expected = f"{value_words(found.settings.get(key))}, as in the checkpoint"
                raise InputError(f"{key} in {str(self.path / EXPERIMENT)!r}", value_words(self.settings[key]), expected)
        for option, here, saved in differences(self.tables, found.tables):
            expected = f"{value_words(saved)}, as in the checkpoint in {directory_words(self.path)}"
            raise InputError(option, value_words(here), expected)
        for name, version in found.versions.items():
            here = self.versions.get(name, "not there")
            if here != version:
                text = (
                    f"the checkpoint was written with {name} {version}, and here it is {here}: the run continues, but "
                )
                warnings.warn(text + "perhaps not bit for bit", CheckpointWarning, stacklevel=3)


def read_checkpoint(path: Path, problem: BilevelProblem, lower: LowerLevelSolver) -> tuple[Checkpoint | None, bool]:
    """The last good checkpoint, None if there is none, and whether it is the newest.

    Raises:
        InputError: if all checkpoints are damaged, or of a newer format, or of another problem.
    """
    complaint: InputError | None = None
    for name in (NEWEST, PREVIOUS):
        file = path / name
        try:
            data = read(file, at_most=memory_limit() // COPIES)
            found = decode(data, value_words(str(file)), problem, lower)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            if complaint is None:
                complaint = error
            else:
                both = f"{complaint.value}, and so is the one before it"
                complaint = DamagedError(complaint.field, both, complaint.expected)
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


def read_experiment(path: Path) -> Experiment:
    """The experiment of the run in a directory; raises `InputError` if there is none."""
    if not (path / EXPERIMENT).exists():
        raise InputError(
            directory_words(path), "without a run", "one that a run was saved to (it has an experiment.toml)"
        )
    return Experiment.read(path / EXPERIMENT)


def check_enough(path: Path, iterations: int, found: Checkpoint) -> None:
    """Raise `InputError` if a run has already made more than `iterations` iterations."""
    made = found.last.iteration
    if iterations < made:
        expected = f"at least the {made:,} that the run in {directory_words(path)} has made"
        raise InputError("iterations", f"{iterations:,}", expected)


def differences(here: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """A difference of two experiments' tables: the option, its value in the first, and in the second."""
    for table, entries in here.items():
        others = saved.get(table)
        others = others if isinstance(others, Mapping) else {}
        for key in sorted(entries.keys() | others.keys()):
            if not _equal(entries.get(key), others.get(key)):
                yield f"{table}.{key}", entries.get(key), others.get(key)


def seed_directory(directory: Path, seed: int) -> Path:
    """The directory of one seed's run, in that of several."""
    return directory / f"{SEED_PREFIX}{seed}"


def seeds_in(directory: str | Path) -> tuple[int, ...]:
    """The seeds whose runs a directory holds, in order."""
    names = (path.name.removeprefix(SEED_PREFIX) for path in Path(directory).glob(f"{SEED_PREFIX}*"))
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def holds_run(path: Path) -> bool:
    """Whether a directory holds a run with a checkpoint."""
    return (path / EXPERIMENT).exists() and any((path / name).exists() for name in (NEWEST, PREVIOUS))


def is_unfinished(path: Path) -> bool:
    """Whether a directory holds an unfinished run that could be resumed."""
    if not holds_run(path):
        return False
    ended = _read_json(path / SUMMARY).get("status", Status.INTERRUPTED.name)
    return ended in (Status.INTERRUPTED.name, Status.STOPPED.name)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """A block whose `OSError` becomes an `InputError` that names the directory."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise InputError(directory_words(path), f"not writable ({reason})", "one that can be written") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that every reader accepts; see `json_text`."""
    write_atomically(path, (json_text(content, indent=2) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read(path, at_most=LARGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _equal(one: Any, other: Any) -> bool:
    same: bool = bool(one == other) or bool(one != one and other != other)  # NaN equals NaN
    return same
