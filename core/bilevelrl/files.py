"""Files that are there as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, previous: Path | None = None) -> None:
    """Write a file so that after a crash it is there as a whole: the old one or the new one, never a part.

    Args:
        path: the file.
        data: its content.
        previous: where the old one goes, once the new one is safely on the disk; None: nowhere.

    Raises:
        OSError: where it cannot be written; what was there before is then still there, and nothing else.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:  # never through a link that a directory from elsewhere may hold
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            path.replace(previous)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a disk that is full should not hold what nobody will read
            partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):  # some systems cannot open a directory
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
