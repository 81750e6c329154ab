"""Arrays by name in the safetensors format: a header of limited size, no pickle, and no array longer than its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bilevelrl.storage.files import read, write_atomically
from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.memory import memory_limit

Arrays = dict[str, npt.NDArray[Any]]

KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
"""The types of array that are saved: booleans, integers and floats of up to 64 bits."""
EXPECTED = "a safetensors file of arrays of numbers"
COPIES = 16
"""The memory for reading a file, as a multiple of its size: itself, its arrays, and their numbers in 64 bits."""
HEADER_BLOAT = 40
"""Bytes of memory that a byte of the header can take: an entry of 50 bytes makes a dictionary of its own."""


def checked_arrays(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]], owner: str) -> Arrays:
    """Arrays by name in a form that can be saved, from a mapping or from pairs.

    Raises:
        InputError: if a name is not a valid string or occurs twice, or an array is not of numbers or flags.
    """
    arrays: Arrays = {}
    for name, array in pairs.items() if isinstance(pairs, Mapping) else pairs:
        if not isinstance(name, str) or not _is_unicode(name):
            raise InputError(f"the name of an array of {owner}", value_words(name), "a string, to be saved")
        if name in arrays:
            raise InputError(f"array {name!r} of {owner}", "there twice", "one array of each name, to be saved")
        value = np.asarray(array)
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        if value.dtype.str[1:] not in KINDS:
            raise InputError(f"array {name!r} of {owner}", f"of type {value.dtype}", "numbers or flags, to be saved")
        arrays[name] = value
    return arrays


def pack_arrays(arrays: Arrays) -> bytes:
    """Checked arrays as the bytes of a safetensors file; every array is stored row by row."""
    from safetensors.numpy import save

    # NumPy's scalars are not arrays, and safetensors writes an array's memory in its own order.
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def unpack_arrays(data: bytes | memoryview) -> Arrays:
    """The arrays in the bytes of a safetensors file, as writable arrays; raises `ValueError` for any other bytes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    length = int.from_bytes(data[:8], "little")
    if length > len(data) or length * HEADER_BLOAT > memory_limit():
        raise ValueError("header")
    try:
        arrays = load(bytes(data))
    except (SafetensorError, KeyError) as error:  # KeyError: a type that NumPy does not have
        raise ValueError(str(error)) from None
    if any(array.dtype.str[1:] not in KINDS for array in arrays.values()):
        raise ValueError("type")
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, completely or not at all."""
    write_atomically(path, pack_arrays(checked_arrays(arrays, value_words(str(path)))))


def read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    """The arrays of these names; other arrays in the file are ignored.

    Raises:
        InputError: if the file cannot be read, is not a safetensors file, or lacks a name.
    """
    label = value_words(str(path))
    try:
        data = read(path, at_most=memory_limit() // COPIES)
    except OSError as error:
        raise InputError(str(path), f"unreadable ({error.strerror})", EXPECTED) from None
    return named_arrays(data, label, names)


def named_arrays(data: bytes, label: str, names: Iterable[str]) -> Arrays:
    """See `read_arrays`."""
    try:
        arrays = unpack_arrays(data)
    except ValueError:
        raise InputError(label, "not a safetensors file, or damaged", EXPECTED) from None
    missing = next((name for name in names if name not in arrays), None)
    if missing is not None:
        raise InputError(label, f"without an array {missing!r}", EXPECTED)
    return {name: arrays[name] for name in names}


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
