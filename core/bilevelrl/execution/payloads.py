"""What many tasks share, on its way to the workers: pickled once, kept in a file that local workers map, found by key.

Pickle moves between the processes of one run here and nowhere else: the files lie in a private directory (mode 0700)
with a name that nobody can guess, a worker reads only a file of its own user, and all of them are removed with the run.
Nothing that is kept, and nothing that came from a user's file, is ever unpickled.

    bilevelrl payload\\n      marks the format
    <length>\\n               decimal, of the table
    <table>                  JSON: where the pickle lies, and each of its buffers
    <pickle, buffers>        each at a multiple of 64 bytes, so that arrays are aligned for any processor
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import mmap
import os
import shutil
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bilevelrl.validation.errors import InputError, kind_words

MAGIC = b"bilevelrl payload\n"
ALIGNMENT = 64
KEPT = 4
"""Parts that a run keeps in files, and a worker in memory: the problem, and what the last few maps shared."""

SMALL = 1 << 16
"""A payload of at most so many bytes goes with the tasks: cheaper than a file."""


HERE: dict[str, dict[str, Any]] = {}
"""The shared values of the stores of this process, for executors whose workers are its own threads, or its forks."""


def dumps(value: Any, label: str, buffers: list[Any] | None = None) -> bytes:
    """The value as a pickle, its arrays' memory apart where a list for it is given.

    Functions that no module holds (of a notebook, of a script, inside another function) travel by value. What a
    `cached_property` has worked out stays here: it is worked out again where it is needed. Arrays keep the order of
    their axes in memory, since sums of floats depend on it.

    Raises:
        InputError: where a part of the value cannot be pickled; the message names it.
    """
    file = io.BytesIO()
    try:
        _pickler()(file, protocol=5, buffer_callback=None if buffers is None else buffers.append).dump(value)
    except Exception as error:  # pickle and its reducers raise what they like
        field, culprit, reason = _culprit(value, label, error)
        told = f"{kind_words(culprit)} that no other process can be sent ({reason})"
        expected = "values and functions only, such as registered names give, or jobs=1"
        raise InputError(field, told, expected) from error
    return file.getvalue()


def loads(data: bytes | memoryview, buffers: Iterable[Any] = ()) -> Any:
    """What `dumps` was given; see above for what may be unpickled."""
    import pickle

    return pickle.loads(data, buffers=buffers)


@functools.cache
def _pickler() -> Any:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is np.ndarray and not (obj.flags.c_contiguous or obj.flags.f_contiguous):
                axes = sorted(range(obj.ndim), key=lambda axis: -abs(obj.strides[axis]))
                return _in_order, (np.ascontiguousarray(obj.transpose(axes)), axes)
            kind: Any = type(obj)
            cached = _cached_names(kind).intersection(getattr(obj, "__dict__", ()))
            if cached:
                return _without(obj, cached)
            return super().reducer_override(obj)

    return Pickler


def _in_order(array: Any, axes: list[int]) -> Any:
    return array.transpose(np.argsort(axes))


@functools.cache
def _cached_names(kind: type) -> frozenset[str]:
    members = ((name, member) for base in kind.__mro__ for name, member in vars(base).items())
    return frozenset(name for name, member in members if isinstance(member, functools.cached_property))


def _without(obj: Any, names: frozenset[str]) -> Any:
    function, arguments, state, *rest = obj.__reduce_ex__(5)
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in names}
    return function, arguments, state, *rest


def _culprit(value: Any, label: str, error: Exception, depth: int = 6) -> tuple[str, Any, str]:
    """The smallest part of a value that cannot be pickled, by its path."""
    for name, part in _parts(value) if depth else ():
        try:
            _pickler()(io.BytesIO(), protocol=5).dump(part)
        except Exception as inner:
            return _culprit(part, f"{label}{name}", inner, depth - 1)
    return label, value, " ".join(str(error).split()) or type(error).__name__


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif attrs.has(type(value)):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in attrs.fields(type(value)))
    elif not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())


@attrs.frozen(eq=False)
class Payload:
    """A value as a pickle and the memory of its arrays, each stretch of memory once.

    Args:
        key: a hash of it all: equal keys, equal values.
        table: how long each block is; for each buffer of the pickle its block, and whether it may be written to.
        blocks: the pickle, then the stretches of memory.
    """

    key: str
    table: bytes
    blocks: tuple[memoryview, ...]

    @classmethod
    def of(cls, value: Any, label: str) -> Payload:
        """Pickle a value."""
        buffers: list[Any] = []
        pickled = memoryview(dumps(value, label, buffers))
        blocks, order = [pickled], []
        index: dict[tuple[int, int], int] = {}
        for buffer in buffers:
            raw = buffer.raw()
            # Two views of one array are one stretch of memory, here and there: P must not travel twice.
            place = np.asarray(raw).__array_interface__["data"][0], raw.nbytes
            if place not in index:
                index[place] = len(blocks)
                blocks.append(raw)
            order.append((index[place], not raw.readonly))
        table = json.dumps({"sizes": [block.nbytes for block in blocks], "order": order}).encode()
        digest = hashlib.blake2b(table, digest_size=20)
        for block in blocks:
            digest.update(block)
        return cls(digest.hexdigest(), table, tuple(blocks))

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(block.nbytes for block in self.blocks)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The file, in pieces."""
        position = 0
        for piece in (MAGIC, str(len(self.table)).encode() + b"\n", self.table):
            position += len(piece)
            yield piece
        for block in self.blocks:
            padding = -position % ALIGNMENT
            yield bytes(padding)
            yield block
            position += padding + block.nbytes


def unpack(data: Any) -> Any:
    """The value in a file's bytes. Arrays lie where the bytes lie, and can be written to where they could before.

    Raises:
        OSError: where it is not what was written.
    """
    memory = memoryview(data)
    begin = bytes(memory[: len(MAGIC) + 20])
    length, _, _ = begin[len(MAGIC) :].partition(b"\n")
    if not begin.startswith(MAGIC) or not length.isdigit():
        raise OSError("no payload")
    position = len(MAGIC) + len(length) + 1
    table = json.loads(bytes(memory[position : position + int(length)]))
    position += int(length)
    blocks = []
    for size in table["sizes"]:
        position += -position % ALIGNMENT
        block = memory[position : position + size]
        if block.nbytes != size:
            raise OSError("cut off")
        blocks.append(block)
        position += size
    buffers = (blocks[index] if writable else blocks[index].toreadonly() for index, writable in table["order"])
    return loads(blocks[0], buffers)


def read(path: str) -> Any:
    """The value in a file of our own, mapped: processes share its pages until one of them writes to its own copy.

    Raises:
        OSError: where there is no such file here, it belongs to somebody else, or it is not what was written.
    """
    with open(path, "rb") as file:
        if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
            raise PermissionError(path)
        return unpack(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


@attrs.frozen(eq=False)
class Part:
    """A shared value as the parent keeps it.

    Args:
        value: itself; workers in this process take it from here.
        key: what workers know it by.
        path: the file that holds it; None where it is small.
        small: its bytes, where it is small.
    """

    value: Any
    key: str
    path: str | None
    small: bytes | None

    def bytes(self) -> bytes:
        """All of it, for a worker that cannot read the file."""
        return Path(self.path).read_bytes() if self.path is not None else self.small or b""


class Store:
    """The parent's shared values while its workers are in force: each pickled once, in a private directory.

    A value is known by its identity, and must not change; `renew` looks at all of them again.
    """

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._directory: Path | None = None
        self._known: OrderedDict[int, Part] = OrderedDict()
        self._files: dict[str, str] = {}
        self._renewed: set[str] = set()

    @property
    def directory(self) -> Path:
        """Where the files are; mode 0700, of a random name."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="bilevelrl-"))
        return self._directory

    def parts(self, values: Sequence[Any]) -> list[Part]:
        """The values as parts; what is new is pickled, and what has not been asked for lately is dropped."""
        asked = [self._part(value) for value in values]
        while len(self._known) > max(KEPT, len(asked)):
            self._known.popitem(last=False)
        for key in set(self._files) - set(self.keys) - self._renewed:
            Path(self._files.pop(key)).unlink(missing_ok=True)
        HERE[self.name] = {part.key: part.value for part in self._known.values()}
        return asked

    @property
    def keys(self) -> tuple[str, ...]:
        """Of what is still in use."""
        return tuple(part.key for part in self._known.values())

    def renew(self) -> None:
        """Forget identities, not files: what is pickled again and comes out the same is not sent again."""
        self._renewed = set(self.keys)
        self._known.clear()

    def close(self) -> None:
        """Remove the files."""
        HERE.pop(self.name, None)
        self._known.clear()
        self._files.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _part(self, value: Any) -> Part:
        known = self._known.pop(id(value), None)
        if known is None:  # while it is known its value lives, so nothing else has this identity
            known = self._new(value)
        self._known[id(value)] = known
        return known

    def _new(self, value: Any) -> Part:
        payload = Payload.of(value, type(value).__name__)
        if payload.size <= SMALL:
            return Part(value, payload.key, None, b"".join(payload.pieces()))
        if payload.key not in self._files:
            self._files[payload.key] = self._write(payload)
        return Part(value, payload.key, self._files[payload.key], None)

    def _write(self, payload: Payload) -> str:
        try:
            path = self.directory / payload.key
            with path.open("xb") as file:
                file.writelines(payload.pieces())
        except OSError as error:
            told = f"without {payload.size / 1e6:,.0f} MB for what the workers share ({error.strerror})"
            field = f"the temporary directory {tempfile.gettempdir()!r}"
            raise InputError(field, told, "a writable one with that much room (set TMPDIR), or jobs=1") from None
        return str(path)
