"""The data that all tasks of a map share: pickled once, with large arrays in memory-mapped files, kept by each worker.

On this machine the arrays are in files of a private directory (mode 0700), and joblib passes their names. Processes
share the pages until one of them writes to its own copy. For a cluster they are plain arrays, which the backend
distributes.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bilevelrl.execution.pickling import dumps, loads
from bilevelrl.validation.errors import InputError

KEPT = 4
"""How many values are kept at least: the problem, and the shared values of the last few maps."""

LARGE = 1 << 16
"""An array of at least so many bytes is sent separately from the pickle; a smaller one is sent with each task."""


@attrs.frozen(eq=False)
class Header:
    """A shared value without its large arrays.

    Args:
        key: the value's unique name.
        data: its pickle; empty if the first of its arrays holds it.
        order: for each buffer of the pickle, the number of its array, and whether it may be written to.
        arrays: how many arrays there are.
    """

    key: str
    data: bytes
    order: tuple[tuple[int, bool], ...]
    arrays: int


@attrs.frozen(eq=False)
class _Kept:
    value: Any
    header: Header
    arrays: tuple[Any, ...]
    files: tuple[Path, ...]


class SharedValues:
    """The values that the tasks of a run share, each pickled once.

    A value is identified by its object identity, and must not change before `forget`.

    Args:
        mapped: whether the workers can map files of this machine.
    """

    def __init__(self, *, mapped: bool) -> None:
        self._mapped = mapped
        self._directory: Path | None = None
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def prepare(self, values: Sequence[Any]) -> tuple[list[Header], list[Any]]:
        """The values' headers, and the arrays of all of them; values that were not used recently are dropped.

        Raises:
            InputError: if a value cannot be pickled, or the temporary directory has no space for its arrays.
        """
        kept = []
        for value in values:
            # A value that is kept stays alive, so that no new value gets its identity.
            found = self._kept.pop(id(value), None) or self._new(value)
            self._kept[id(value)] = found
            kept.append(found)
        while len(self._kept) > max(KEPT, len(values)):
            _remove(self._kept.popitem(last=False)[1])
        return [each.header for each in kept], [array for each in kept for array in each.arrays]

    def forget(self) -> None:
        """Drop all values: they are pickled again at their next use."""
        while self._kept:
            _remove(self._kept.popitem()[1])

    def close(self) -> None:
        """Drop all values and remove the directory."""
        self.forget()
        if self._directory is not None:
            from joblib.externals.loky.backend import resource_tracker

            shutil.rmtree(self._directory, ignore_errors=True)
            resource_tracker.unregister(str(self._directory), "folder")
            self._directory = None

    def _new(self, value: Any) -> _Kept:
        arrays: list[Any] = []
        order: list[tuple[int, bool]] = []
        index: dict[tuple[int, int], int] = {}

        def take(buffer: Any) -> bool:
            raw = buffer.raw()
            if raw.nbytes < LARGE:
                return True
            # Two views of one array share their memory, also in the worker: P must not be sent twice.
            array = np.frombuffer(raw, np.uint8)
            place = array.__array_interface__["data"][0], raw.nbytes
            if place not in index:
                index[place] = len(arrays)
                arrays.append(array)
            order.append((index[place], not raw.readonly))
            return False

        data = dumps(value, type(value).__name__, take)
        if len(data) >= LARGE:
            arrays.append(np.frombuffer(data, np.uint8))
            data = b""
        files: list[Path] = []
        if self._mapped:
            files = [self._write(array) for array in arrays]
            arrays = [np.memmap(file, np.uint8, "c") for file in files]
        header = Header(uuid.uuid4().hex, data, tuple(order), len(arrays))
        return _Kept(value, header, tuple(arrays), tuple(files))

    def _write(self, array: Any) -> Path:
        try:
            path = self._place() / uuid.uuid4().hex
            array.tofile(path)
        except OSError as error:
            complaint = f"without {array.nbytes / 1e6:,.1f} MB for what the workers share ({error.strerror or error})"
            field = f"the temporary directory {tempfile.gettempdir()!r}"
            expected = "a writable one with that much room (set TMPDIR), or jobs=1"
            raise InputError(field, complaint, expected) from None
        return path

    def _place(self) -> Path:
        if self._directory is None:
            from joblib.externals.loky.backend import resource_tracker

            self._directory = Path(tempfile.mkdtemp(prefix="bilevelrl-"))
            # joblib's tracker is a process that removes the directory if this process is killed.
            resource_tracker.register(str(self._directory), "folder")
        return self._directory


def _remove(kept: _Kept) -> None:
    for file in kept.files:
        file.unlink(missing_ok=True)


_cache: OrderedDict[str, Any] = OrderedDict()


def find(headers: Sequence[Header], arrays: Sequence[Any]) -> list[Any]:
    """The shared values in a worker: new ones are unpickled, others are those that this process has kept."""
    values, remaining = [], list(arrays)
    for header in headers:
        own, remaining = remaining[: header.arrays], remaining[header.arrays :]
        if header.key not in _cache:
            _cache[header.key] = _read(header, [memoryview(array) for array in own])
        _cache.move_to_end(header.key)
        values.append(_cache[header.key])
    while len(_cache) > max(KEPT, len(headers)):
        _cache.popitem(last=False)
    return values


def _read(header: Header, blocks: list[Any]) -> Any:
    buffers = (_with_flag(blocks[index], writable) for index, writable in header.order)
    return loads(header.data or blocks[-1], buffers)


def _with_flag(block: Any, writable: bool) -> Any:
    if not writable:
        return block.toreadonly()
    return bytearray(block) if block.readonly else block
