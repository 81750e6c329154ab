"""One process a directory: a lock that the system lets go of, whatever ends its owner."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bilevelrl.storage.files import open_own
from bilevelrl.validation.errors import InputError

LOCK = "lock"


def directory_words(path: Path) -> str:
    """A directory as messages call it."""
    return f"the directory {str(path)!r}"


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
                raise InputError(directory_words(self._path.parent), used, "one that no other run writes to") from None
            except OSError:  # a file system without locks
                os.close(handle)
                return
            if self._is_at_its_path(handle):
                self._handle = handle
                with contextlib.suppress(OSError):  # the number is for messages; the lock holds without it
                    os.ftruncate(handle, 0)
                    os.write(handle, f"{os.getpid()}\n".encode())
            else:  # its owner has just removed it
                os.close(handle)

    def _is_at_its_path(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go of the directory."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            with contextlib.suppress(OSError):  # a directory that has become read-only: the next owner takes the file
                self._path.unlink(missing_ok=True)
        finally:
            os.close(handle)
