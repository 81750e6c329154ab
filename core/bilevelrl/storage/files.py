"""Files that are there as a whole or not at all, and that are what they seem: no link, device or pipe in their place.

A directory that came from somewhere else may hold links to anywhere. Nothing here writes through one, and nothing is
read but regular files of a size that was looked at before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from bilevelrl.validation.memory import size_words

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, data: bytes, *, previous: Path | None = None) -> None:
    """Write a file so that after a crash it is there as a whole: the old one or the new one, never a part.

    A link at its place is replaced; what it points to is left alone.

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
        with partial.open("xb") as file:  # a file of our own: never through a link that lay there
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


def check_directory(path: Path) -> None:
    """Raise `OSError` where a directory cannot be written to, or not be made; leaves nothing behind."""
    nearest = path.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(nearest)) from None


def append(path: Path, data: bytes) -> None:
    """Append to a file that is there, and make it last; raises `OSError` where it is a link or no regular file."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINK | NO_WAITING)
    with open(handle, "ab") as file:
        _check_regular(handle, path)
        file.write(data)
        file.flush()
        os.fsync(handle)


def read(path: Path, *, at_most: int) -> bytes:
    """The bytes of a file as it is now; raises `OSError` where it is no regular file, or larger than that."""
    try:
        handle = os.open(path, os.O_RDONLY | NO_WAITING)
    except ValueError:  # a null byte
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from None
    with open(handle, "rb") as file:
        _check_regular(handle, path)
        size = os.fstat(handle).st_size
        if size > at_most:
            raise OSError(errno.EFBIG, f"larger than {size_words(at_most)}", str(path))
        return file.read(size)  # what is appended meanwhile is left for the next time


def open_own(path: Path) -> int:
    """A handle to read and write a small file that belongs to this directory alone, made where it is missing.

    Raises `OSError` where there is a link, by name or by number, or no regular file: what is written must not end up
    in somebody else's file.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK | NO_WAITING, 0o644)
    try:
        _check_regular(handle, path)
        if os.fstat(handle).st_nlink > 1:
            raise OSError(errno.EMLINK, "a link to another file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_regular(handle: int, path: Path) -> None:
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):  # some systems cannot open a directory
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
