"""Arrays in `.npz` archives, as `np.savez` writes them, from people who may mean harm.

`np.load` believes an array's header, and so may be asked for any amount of memory; and a compressed archive of a
megabyte may hold a gigabyte. Here an array is as long as its bytes in the file. No pickle, and no literal is evaluated.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bilevelrl.storage.files import read, write_atomically
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.memory import memory_limit

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo


KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
"""The types of array that are read from files, whatever wrote them."""

MOST_DIMENSIONS = 32
EXPECTED = "an archive of arrays of numbers, as np.savez writes it"
COPIES = 16
"""What reading an archive may take, in its own size: itself, its members, and their numbers in 64 bits."""

STORED = 0
MAGIC = b"\x93NUMPY"
HEADER = re.compile(
    rb"\{'descr': '([<>|])([fiub][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
"""What numpy writes before an array of numbers; nothing else is read, so that nothing need be evaluated."""


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write arrays by name, as a whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, Array]:
    """The arrays of these names; others in the archive are left alone.

    Raises:
        InputError: where the file cannot be read, is no such archive, is compressed, or lacks a name.
    """
    try:
        data = read(path, at_most=memory_limit() // COPIES)
    except OSError as error:
        raise InputError(str(path), f"unreadable ({error.strerror})", EXPECTED) from None
    return unpack_arrays(data, value_words(str(path)), names)


def unpack_arrays(data: bytes, label: str, names: Iterable[str]) -> dict[str, Array]:
    """See `read_arrays`."""
    import zipfile  # which takes its time to load

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            return {name: _member(archive, members.get(f"{name}.npy"), name, len(data), label) for name in names}
    except InputError:
        raise
    # RuntimeError: a password is asked for, or (NotImplementedError) a format that zipfile does not know.
    except (zipfile.BadZipFile, struct.error, RuntimeError, EOFError, OSError, ValueError, LookupError, OverflowError):
        raise InputError(label, "no archive, or a damaged one", EXPECTED) from None


def _member(archive: ZipFile, member: ZipInfo | None, name: str, limit: int, label: str) -> Array:
    if member is None:
        raise InputError(label, f"without an array {name!r}", EXPECTED)
    if member.compress_type != STORED:
        raise InputError(label, "compressed", f"{EXPECTED} (and np.savez_compressed does not)")
    if member.file_size > limit:
        raise ValueError("size")
    found = _array(archive.read(member))
    if found is None:
        raise InputError(f"array {name!r} of {label}", "malformed, or not of numbers", EXPECTED)
    return found


def _array(content: bytes) -> Array | None:
    """The array of an `.npy` file; None for any other."""
    width = {b"\x01": 2, b"\x02": 4}.get(content[6:7], 0)
    begin = 8 + width
    length = int.from_bytes(content[8:begin], "little")
    header = HEADER.fullmatch(content[begin : begin + length])
    if content[:6] != MAGIC or not width or header is None:
        return None
    order, kind, fortran, lengths = (group.decode() for group in header.groups())
    shape = tuple(int(word) for word in lengths.replace(" ", "").split(",") if word)
    body = memoryview(content)[begin + length :]
    if kind not in KINDS or len(shape) > MOST_DIMENSIONS or math.prod(shape) * int(kind[1:]) != len(body):
        return None
    return np.frombuffer(body, np.dtype(order + kind)).reshape(shape, order="F" if fortran == "True" else "C")
