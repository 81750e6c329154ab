"""One file that holds a JSON document and arrays, under one checksum.

    bilevelrl checkpoint 2\\n            the format and its version
    <sha256 of all that follows>\\n      64 hexadecimal digits
    <length of the JSON>\\n              decimal
    <JSON>                              numbers and strings <safetensors>                       the arrays

The document and the arrays are in one file, so that they always belong to the same state, even after a crash. JSON is
read only if its values fit into memory, which may be larger than its text; see `array_files` for the arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from bilevelrl.storage.array_files import Arrays, pack_arrays, unpack_arrays
from bilevelrl.storage.json_files import exact_json, read_exact_json
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.memory import memory_limit

MAGIC = b"bilevelrl checkpoint "
FORMAT = 2

JSON_BLOAT = 40
"""Bytes of memory that a byte of JSON can take: in `[[],[],…]` 3 bytes make a list of 56 bytes and a pointer."""


class DamagedError(InputError):
    """Bytes that are not a checkpoint, or have changed since they were written."""


def pack(content: Mapping[str, Any], arrays: Arrays) -> bytes:
    """JSON and checked arrays in the layout above; raises `InputError` for content that is not valid JSON."""
    # The order in memory affects the last bits of sums: a column-major array is stored as its transpose, which is
    # row-major.
    by_columns = [name for name, array in arrays.items() if array.flags.f_contiguous and not array.flags.c_contiguous]
    stored = arrays | {name: arrays[name].T for name in by_columns}
    document = exact_json({"content": content, "by_columns": by_columns}).encode()
    payload = b"".join([str(len(document)).encode(), b"\n", document, pack_arrays(stored)])
    digest = hashlib.sha256(payload).hexdigest().encode()
    return b"".join([MAGIC, str(FORMAT).encode(), b"\n", digest, b"\n", payload])


def unpack(data: bytes, name: str) -> tuple[dict[str, Any], Arrays]:
    """The content that `pack` packed; raises `DamagedError` for other bytes, `InputError` for another format."""
    first, _, rest = data[:4096].partition(b"\n")
    version = first.removeprefix(MAGIC)
    if not first.startswith(MAGIC) or not version.isdigit() or len(version) > 9:
        raise DamagedError(name, "not a checkpoint, or damaged", "a file that bilevelrl wrote")
    if int(version) != FORMAT:
        expected = f"format {FORMAT}; read it with the version of bilevelrl that wrote it"
        raise InputError(name, f"of format {int(version)}", expected)
    digest, _, _ = rest.partition(b"\n")
    payload = memoryview(data)[len(first) + len(digest) + 2 :]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise DamagedError(name, "damaged (its checksum does not match)", "a file as it was written")
    with damage(name, "malformed"):
        length, _, _ = bytes(payload[:32]).partition(b"\n")
        begin = len(length) + 1
        end = begin + int(length)
        if not begin <= end <= len(payload) or (end - begin) * JSON_BLOAT > memory_limit():
            raise ValueError("length")
        document = read_exact_json(bytes(payload[begin:end]))
        arrays = unpack_arrays(payload[end:])
        for column in document["by_columns"]:
            arrays[column] = arrays[column].T
        return mapping(document["content"]), arrays


@contextlib.contextmanager
def damage(name: str, how: str) -> Iterator[None]:
    """A block whose errors, from reading forged content, become a `DamagedError`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError):
        raise DamagedError(name, how, "a checkpoint that bilevelrl wrote") from None


def mapping(value: Any) -> dict[str, Any]:
    """A value that must be a JSON object; raises `TypeError` for any other."""
    if not isinstance(value, dict):
        raise TypeError
    return value
