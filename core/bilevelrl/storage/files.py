"""Atomic writes, and safe reads: links, devices and pipes in place of a file are refused.

An untrusted directory may contain links to any file. These functions do not write through links, and read only regular
files whose size was checked.
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
    """Write a file atomically: after a crash there is the complete old file or the complete new one.

    A link in its place is replaced; the link's target is not changed.

    Args:
        path: the file.
        data: its content.
        previous: the new path of the old file, once the new one is on the disk; None: the old file is not kept.

    Raises:
        OSError: if it cannot be written; the directory is then as before.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:  # a new file, so that no existing link is followed
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            path.replace(previous)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # an incomplete file must not take space on a full disk
            partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def check_directory(path: Path) -> None:
    """Raise `OSError` if a directory cannot be made or written to; leaves no files behind."""
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
    """Append to an existing file and flush it to the disk; raises `OSError` if it is a link or not a regular file."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINK | NO_WAITING)
    with open(handle, "ab") as file:
        _check_regular(handle, path)
        file.write(data)
        file.flush()
        os.fsync(handle)


def read(path: Path, *, at_most: int) -> bytes:
    """The current bytes of a file; raises `OSError` if it is not a regular file, or larger than `at_most`."""
    try:
        handle = os.open(path, os.O_RDONLY | NO_WAITING)
    except ValueError:  # a null byte
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from None
    with open(handle, "rb") as file:
        _check_regular(handle, path)
        size = os.fstat(handle).st_size
        if size > at_most:
            raise OSError(errno.EFBIG, f"larger than {size_words(at_most)}", str(path))
        return file.read(size)  # bytes that are appended meanwhile are not read


def open_own(path: Path) -> int:
    """A handle to read and write a small file of this directory, which is made if it is missing.

    Raises `OSError` if it is a symbolic link, has hard links, or is not a regular file: nothing may be written to a
    file outside the directory.
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
    """Make renames in a directory survive a loss of power, if the system supports it."""
    with contextlib.suppress(OSError):  # some systems cannot open a directory
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
