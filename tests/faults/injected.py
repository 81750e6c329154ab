"""File operations that fail, or kill the process, at a chosen moment; and solves that get nowhere."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bilevelrl.linear.iterative import Iterated

Action = Callable[[], None]


class Stubborn:
    """An iterative solve of a linear system that never gets anywhere."""

    def __init__(self, *_: Any) -> None:
        pass

    def solve(self, right_hand_side: Any, **_: Any) -> Iterated:
        return Iterated(np.zeros_like(right_hand_side), 7, False)


class Operations:
    """Counts what happens to files below a directory, and acts on chosen operations.

    A write that is acted upon has been half done; every other operation has not been done at all.
    """

    def __init__(self, directory: Path, act: Callable[[Operations, int], None]) -> None:
        self.directory, self.act = os.path.abspath(directory), act
        self.count = 0
        self.path = ""
        """Of the operation that is about to happen."""
        self.synced: dict[str, int] = {}
        """Bytes of each file that a loss of power would leave."""

    def step(self, path: Any) -> None:
        if os.path.abspath(os.fspath(path)).startswith(self.directory):
            self.count, self.path = self.count + 1, os.fspath(path)
            self.act(self, self.count)

    def lose_power(self) -> None:
        """Leave on the disk what had been synchronised, and end the process."""
        for path, size in self.synced.items():
            if os.path.exists(path):
                os.truncate(path, size)
        kill()


class _File:
    """A file opened for writing, whose writes count."""

    def __init__(self, file: Any, path: str, operations: Operations) -> None:
        self._file, self._path, self._operations = file, path, operations

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._operations.step(self._path)
        self._file.write(data[half:])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def watched(directory: Path, act: Callable[[Operations, int], None]) -> Iterator[Operations]:
    """Watch the files below a directory; `act` is called before each operation, with its number from 1."""
    operations = Operations(directory, act)
    opened, fsync, replace, unlink = io.open, os.fsync, os.replace, os.unlink

    def path_of(handle: int) -> str:
        return os.readlink(f"/proc/self/fd/{handle}")

    def open_(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax"):
            return opened(path, mode, *arguments, **options)
        where = path_of(path) if isinstance(path, int) else os.path.abspath(os.fspath(path))
        operations.step(where)
        file = opened(path, mode, *arguments, **options)
        if not where.startswith(operations.directory):
            return file
        operations.synced.setdefault(where, os.path.getsize(where) if "a" in mode else 0)
        return _File(file, where, operations)

    def fsync_(handle: int) -> None:
        path = path_of(handle)
        operations.step(path)
        fsync(handle)
        if path in operations.synced:
            operations.synced[path] = os.path.getsize(path)

    def replace_(source: Any, target: Any) -> None:
        operations.step(source)
        replace(source, target)
        moved = operations.synced.pop(os.path.abspath(os.fspath(source)), None)
        if moved is not None:
            operations.synced[os.path.abspath(os.fspath(target))] = moved

    def unlink_(path: Any, **options: Any) -> None:
        operations.step(path)
        unlink(path, **options)

    with (
        mock.patch("io.open", open_),
        mock.patch("builtins.open", open_),
        mock.patch("os.fsync", fsync_),
        mock.patch("os.replace", replace_),
        mock.patch("os.unlink", unlink_),
    ):
        yield operations


def kill() -> None:
    """SIGKILL to this process: nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
