"""A lock that allows one process per directory. The system releases it when its owner ends, in any way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from bilevelrl.storage.files import open_own, read
from bilevelrl.validation.errors import InputError

LOCK = "lock"


def directory_words(path: Path) -> str:
    """A directory's name in messages."""
    return f"the directory {str(path)!r}"


class DirectoryLock:
    """Locks a directory for one process, with `filelock`; the file `lock` holds the process number, for messages."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._lock: Any = None

    def acquire(self) -> None:
        """Lock the directory; raises `InputError` if another process, or another run of this process, has locked it.

        A file `lock` that a killed process left behind does not block; a link in its place raises `OSError`.
        """
        import filelock  # imported here, since it is slow to load

        while self._lock is None:
            os.close(open_own(self._path))
            lock = filelock.FileLock(self._path, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                self._refuse()
            except (OSError, NotImplementedError):  # this file system has no locks: the user must keep other runs away
                return
            else:
                self._lock = lock
        # The number is only for messages; the lock works without it.
        with contextlib.suppress(OSError), open(open_own(self._path), "r+b") as file:
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())

    def _refuse(self) -> None:
        """Raise `InputError` with the owner's number; return if the owner has just released the directory."""
        try:
            owner = read(self._path, at_most=20).decode("ascii", "replace").strip() or "unknown"
        except OSError:
            return
        used = f"in use by process {owner}"
        raise InputError(directory_words(self._path.parent), used, "one that no other run writes to")

    def release(self) -> None:
        """Release the directory."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            with contextlib.suppress(OSError):  # the directory has become read-only: the next owner reuses the file
                self._path.unlink(missing_ok=True)
        finally:
            lock.release()
